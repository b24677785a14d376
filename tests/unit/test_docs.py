"""The documents say what is there."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from sqlalchemy import make_url

from triage_node import cli, config
from triage_node.domain import NOT_ANALYZED_TEXT
from triage_node.infer.bundle import load_bundle
from triage_node.learn.experiment import ImagesConfig, read_config
from triage_node.learn.losses import ClassWeights, LossWeights
from triage_node.learn.painted import PaintConfig
from triage_node.learn.pool import KindShares, PoolConfig
from triage_node.networks import NETWORKS, build_network
from triage_node.networks.plain_cnn import PlainCnnConfig

EXPERIMENT_KEYS = {
    "pool": [each.name for each in fields(PoolConfig)],
    "pool.kinds": [each.name for each in fields(KindShares)],
    "augment.paint": [each.name for each in fields(PaintConfig)],
    "losses": [each.name for each in fields(LossWeights)],
    "losses.class_weights": [each.name for each in fields(ClassWeights)],
    "images": [each.name for each in fields(ImagesConfig)],
    "network": [each.name for each in fields(PlainCnnConfig)],
}
ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    f"docs/{name}"
    for name in (
        "admin",
        "channels",
        *(f"channels/{page.stem}" for page in sorted((ROOT / "docs" / "channels").glob("*.md"))),
        "radiologist",
        "evaluation",
        "data-sets",
        "laboratory",
        "comparison",
    )
]


def modules() -> set[str]:
    package = ROOT / "triage_node"
    files = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    return files | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}


def test_every_module_is_on_the_map_and_nothing_else() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().split("## The map")[1].split("## Processes")[0]
    listed = set(re.findall(r"`(?:triage_node/)?([a-z_]+\.py)`", table)) | set(
        re.findall(r"`triage_node/([a-z_]+/)`", table)
    )
    assert listed == modules()


def test_the_wheel_holds_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent for path in (ROOT / "triage_node").rglob("*.py") if "__pycache__" not in path.parts}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    bundles = {f"triage_node_models.{path.parent.name}" for path in (ROOT / "models").glob("*/bundle.toml")}
    assert listed == packages | bundles | {"triage_node_models"}


def test_the_wheel_holds_every_file_of_every_bundle() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    for bundle in (path.parent for path in (ROOT / "models").glob("*/bundle.toml")):
        held = {path for pattern in patterns for path in bundle.glob(pattern)}
        assert {path for path in bundle.rglob("*") if path.is_file()} - held == set()


def commands_in(text: str) -> list[str]:
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.removeprefix("$ ").split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("triage-node ")]


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/admin.md",
        "docs/evaluation.md",
        "docs/data-sets.md",
        "docs/laboratory.md",
        "docs/comparison.md",
        "models/README.md",
    ],
)
def test_every_command_a_document_shows_is_one_that_the_parser_takes(document: str) -> None:
    for line in commands_in((ROOT / document).read_text()):
        words = line.split()[1:]
        if words != ["--help"]:
            cli.parser().parse_args(words)


def test_the_admin_guide_lists_every_reason_for_no_analysis() -> None:
    table = (ROOT / "docs/admin.md").read_text().split("<!-- table: reasons -->")[1].split("<!-- end -->")[0]
    assert dict(re.findall(r"\| `([A-Z_]+)` \| (.+) \|", table)) == dict(NOT_ANALYZED_TEXT)


def test_the_admin_guide_shows_configurations_that_load(tmp_path: Path) -> None:
    ours, pages, elsewhere = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/admin.md").read_text(), flags=re.DOTALL)
    path = tmp_path / "triage-node.toml"
    path.write_text(ours)
    assert [source.find_peer for source in config.load(path).sources] == [("ORTHANC", "127.0.0.1", 4242)]
    path.write_text(ours + pages)
    assert [user.name for user in config.load(path).users] == ["ann"]
    path.write_text(elsewhere)
    assert make_url(config.load(path).database_url).get_dialect().driver == "psycopg"


def test_the_page_of_the_modality_worklist_shows_a_configuration_that_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs/channels/modality-worklist.md").read_text()
    path = tmp_path / "triage-node.toml"
    path.write_text(page.split("<!-- example: modality-worklist -->\n```toml\n")[1].split("```")[0])
    assert config.load(path).modality_worklist == config.ModalityWorklist(ae_title="RIS_MWL", host="10.20.0.9")


@pytest.mark.parametrize(
    ("kind", "guide", "example"),
    [
        ("hl7", "channels/hl7.md", "hl7"),
        ("webhook", "channels/webhook.md", "webhook"),
        ("ups", "channels/ups.md", "ups"),
        ("dicomweb", "channels/dicomweb.md", "out"),
    ],
)
def test_the_channels_guide_names_every_setting_of_a_kind_or_the_reference_does(
    kind: str, guide: str, example: str
) -> None:
    page = (ROOT / "docs" / guide).read_text()
    shown = page.split(f"<!-- example: {example} -->\n```toml\n")[1].split("```")[0]
    known = {each.name for each in fields(config.DESTINATIONS[kind])}
    named = set(re.findall(r"^(\w+) = ", shown, flags=re.MULTILINE))
    assert named <= known
    assert named | set(re.findall(r"`(\w+)(?: = [^`]+)?`", page)) >= known


@pytest.mark.parametrize(("kind", "file"), [("weights", "weights.safetensors"), ("graph", "model.onnx")])
def test_the_bundles_that_are_shown_to_sites_load(tmp_path: Path, kind: str, file: str) -> None:
    shown = (ROOT / "models/README.md").read_text().split(f"<!-- example: {kind} -->\n```toml\n")[1].split("```")[0]
    (tmp_path / file).write_bytes(b"a network")
    (tmp_path / "bundle.toml").write_text(shown.replace("0" * 64, hashlib.sha256(b"a network").hexdigest()))
    bundle = load_bundle(tmp_path)
    assert bundle.weights_path == tmp_path / file
    if bundle.network_config:
        build_network(bundle.network_name, bundle.network_config)


def test_the_experiment_that_the_laboratory_shows_loads_and_its_keys_are_keys(tmp_path: Path) -> None:
    page = (ROOT / "docs/laboratory.md").read_text()
    shown = page.split("<!-- example: experiment -->\n```toml\n")[1].split("```")[0]
    for table, key in re.findall(r"`\[([a-z_.]+)\] ?([a-z_]+) = ", page):
        assert f"{table}.{key}" in {f"{t}.{k}" for t, keys in EXPERIMENT_KEYS.items() for k in keys}, (table, key)
    for name in re.findall(r"`([a-z0-9-]+)`", page.split("| network |")[1].split("\n\n")[0]):
        assert name in NETWORKS
    (tmp_path / "first.toml").write_text(shown)
    assert read_config(tmp_path / "first.toml").network == PlainCnnConfig(pooled_px=4, dense_width=256)


def test_every_setting_the_admin_guide_names_is_one() -> None:
    settings = tomllib.loads((ROOT / "config/triage-node.toml").read_text())
    named = re.findall(rf"(?<![-\w])({'|'.join(settings)})\.([a-z_]+)", (ROOT / "docs/admin.md").read_text())
    assert named
    assert [f"{table}.{name}" for table, name in named if name not in settings[table]] == []


def test_the_readme_shows_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in cli.command_names() if f"triage-node {name}" not in readme]
    assert missing == []


def test_no_machine_path_is_in_a_document() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")]:
        assert not re.search(r"(^|[\s`\"'(])/(work|root|tmp|home)/", path.read_text()), path
