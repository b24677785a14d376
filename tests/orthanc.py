"""Orthanc as the PACS: started on free ports, asked over its REST interface."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tools import free_port, require_file, require_tool

_DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


class Orthanc:
    """A running Orthanc."""

    def __init__(self, dicom_port: int, http_port: int) -> None:
        self.dicom_port = dicom_port
        self.http_port = http_port
        self._base = f"http://127.0.0.1:{http_port}"

    def get(self, path: str) -> Any:
        """A JSON answer."""
        with urllib.request.urlopen(self._base + path, timeout=10) as answer:
            return json.load(answer)

    def delete(self, path: str) -> None:
        """Delete something."""
        request = urllib.request.Request(self._base + path, method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()

    def post(self, path: str, data: bytes) -> Any:
        """The JSON answer to what was sent."""
        request = urllib.request.Request(self._base + path, data=data, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def instances(self) -> list[dict[str, Any]]:
        """Simplified tags of every instance it holds."""
        return [self.get(f"/instances/{one}/simplified-tags") for one in self.get("/instances")]

    def in_study(self, study_uid: str) -> list[dict[str, Any]]:
        """Simplified tags of every instance of a study."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}, "Expand": True}
        request = urllib.request.Request(f"{self._base}/tools/find", json.dumps(query).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [one["MainDicomTags"] for one in json.load(answer)]

    def files(self, folder: Path) -> list[Path]:
        """Every instance as a file."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for one in self.get("/instances"):
            with urllib.request.urlopen(f"{self._base}/instances/{one}/file", timeout=10) as answer:
                path = folder / f"{one}.dcm"
                path.write_bytes(answer.read())
                paths.append(path)
        return paths


@contextmanager
def running_orthanc(
    folder: Path,
    modalities: dict[str, list[Any]] | None = None,
    *,
    dicomweb: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[Orthanc]:
    """An empty Orthanc, AE title ORTHANC. `modalities` are those that it knows: {name: [AE title, host, port]};
    `dicomweb` loads its plugin with these settings; `more` are settings by their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "DicomCheckCalledAet": True,
        "DicomModalities": modalities or {},
        "Plugins": [] if dicomweb is None else [require_file(_DICOMWEB, "orthanc-dicomweb")],
        "DicomWeb": dicomweb or {},
    } | more
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([require_tool("Orthanc"), str(config)], stdout=log, stderr=log)
        orthanc = Orthanc(dicom_port, http_port)
        try:
            _await(orthanc, process, folder / "orthanc.log")
            yield orthanc
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            orthanc.get("/system")
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"Orthanc did not start: {log.read_text()[-1000:]}")
