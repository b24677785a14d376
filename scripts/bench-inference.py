"""Seconds from a Volume to its Prediction in the inference process, and the largest memory of that process.

    python scripts/bench-inference.py [--bundle NAME] [--slices 32 300] [--rounds N] [--device cpu]

A simulated head (512 x 512) with a subdural; stacks of more than 32 slices are its slices interpolated, with noise.
Each row: median and best of the rounds, the same by slice, and the parts as the predictor times them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from triage_node.domain import Prediction, Volume
from triage_node.infer.bundle import find_bundle
from triage_node.infer.process import InferenceProcess
from triage_node.simulate import axial_geometry, simulate_head

RENDERED = 32
HEAD_MM = 160.0


def main() -> None:
    """Print one row for each stack."""
    arguments = _arguments()
    rendered = simulate_head(
        seed=7, subtypes=("subdural",), geometry=axial_geometry(slices=RENDERED), measure_volumes=False
    ).hu
    print(f"{'slices':>6} {'median s':>9} {'best s':>7} {'ms a slice':>11} {'peak MiB':>9}  parts, s")
    for slices in arguments.slices:
        with InferenceProcess(find_bundle(arguments.bundle), timeout_s=600, device=arguments.device) as process:
            _row(process, _volume(rendered, slices), arguments.rounds)


def _row(process: InferenceProcess, volume: Volume, rounds: int) -> None:
    process.predict(volume)  # warms up
    timed = [_timed(process, volume) for _ in range(rounds)]
    seconds = [taken for taken, _ in timed]
    best = min(timed, key=lambda each: each[0])[1]
    parts = ", ".join(f"{name} {value:.2f}" for name, value in best.timings_s.items())
    slices, median_s, best_s, peak = len(volume.hu), statistics.median(seconds), min(seconds), _peak_mib(process)
    print(f"{slices:>6} {median_s:>9.2f} {best_s:>7.2f} {1000 * best_s / slices:>11.1f} {peak:>9}  {parts}")


def _timed(process: InferenceProcess, volume: Volume) -> tuple[float, Prediction]:
    started = time.perf_counter()
    prediction = process.predict(volume)
    return time.perf_counter() - started, prediction


def _peak_mib(process: InferenceProcess) -> int:
    """VmHWM of the child (proc(5))."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def _volume(rendered: np.ndarray, slices: int) -> Volume:
    at = np.linspace(0, len(rendered) - 1, slices)
    below = np.minimum(at.astype(int), len(rendered) - 2)
    shares = at - below
    noise = np.random.default_rng(1).normal(0, 3, (16, *rendered.shape[1:])).astype(np.float32)
    hu = np.stack(
        [
            np.rint((1 - share) * rendered[low] + share * rendered[low + 1] + noise[index % len(noise)])
            for index, (low, share) in enumerate(zip(below, shares, strict=True))
        ]
    ).astype(np.int16)
    thickness_mm = HEAD_MM / slices
    return Volume(
        hu=hu,
        sop_uids=(),
        paths=(),
        positions_mm=np.stack([[0.0, 0.0, thickness_mm * index] for index in range(slices)]),
        orientation=np.eye(3)[:2],
        pixel_spacing_mm=(0.45, 0.45),
        weights_mm=np.full(slices, thickness_mm),
        tilt_deg=0.0,
        header={},
    )


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", default="default", help="name or folder of a model bundle")
    parser.add_argument("--slices", type=int, nargs="+", default=[32, 300])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
