"""What each process of the node loads: torch and highdicom have no business in the listener."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LOADED = "import sys, json; json.dump(sorted({name.split('.')[0] for name in sys.modules}), sys.stdout)"


def loaded_by(code: str) -> set[str]:
    answer = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, check=True, timeout=60)
    return set(json.loads(answer.stdout))


FOREIGN = {
    "listen": {"torch", "highdicom", "fastapi", "scipy"},
    "work": {"torch", "fastapi"},
    "deliver": {"torch", "highdicom", "fastapi"},
    "web": {"torch", "highdicom", "pynetdicom"},
}


@pytest.mark.parametrize("role", FOREIGN)
def test_a_role_loads_only_what_it_needs(role: str) -> None:
    assert not loaded_by(f"from triage_node import service; service.role('{role}')") & FOREIGN[role]


def test_the_model_process_loads_no_network_and_no_database() -> None:
    loaded = loaded_by("import triage_node.infer.child")
    assert "torch" in loaded
    assert not loaded & {"pynetdicom", "sqlalchemy", "highdicom", "fastapi"}


def test_importing_the_package_starts_nothing() -> None:
    assert not loaded_by("import triage_node") & {"torch", "pynetdicom", "sqlalchemy", "highdicom", "pydicom"}
