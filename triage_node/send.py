"""Sending a folder with a progress bar: `triage-node send`, and the demo's scanner."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from triage_node.errors import UsageError
from triage_node.peers import Peer, SendReport, StoreResult, send_folder


def send_with_progress(folder: Path, peer: Peer, calling_ae: str) -> SendReport:
    """Send what is in a folder, with a bar on standard error. Raises UsageError when it is not there."""
    if not folder.exists():
        raise UsageError(f"{folder} is not there; give a DICOM file or a folder of them")
    with tqdm(desc=f"C-STORE to {peer.ae_title}", unit=" images", file=sys.stderr, dynamic_ncols=True) as bar:

        def found(count: int) -> None:
            bar.reset(total=count)

        def done(_result: StoreResult) -> None:
            bar.update()

        return send_folder([folder], peer=peer, calling_ae=calling_ae, on_found=found, on_result=done)


def faults(report: SendReport) -> list[str]:
    """What was refused, each reason once with how often."""
    reasons = [str(result.error) for result in report.failed]
    return [f"{reasons.count(reason)} x {reason}" for reason in dict.fromkeys(reasons)]
