"""Render, train and release the default bundle. Stop and start at will: every part goes on where it was.

    python scripts/train-default-bundle.py [RUN.toml] [--shards N] [--processes N] [--version V]
        [--real-negative ORIGIN=DIR ...]

RUN.toml has the keys of triage_node.learn.experiment.TrainConfig.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from triage_node.infer.bundle import SETTINGS_FILE, WEIGHTS_FILE
from triage_node.learn.dataset import render_shards
from triage_node.learn.experiment import read_config
from triage_node.learn.release import release
from triage_node.learn.train import train

TRAINING_SEED = 70_000_000
VALIDATION_SEED = 60_000_000
VALIDATION_SHARDS = 12
ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "models" / "default.train.toml"
BEGAN_WITH = "66e4a11bd1f69d6e4e431225a2df6c0790d0bcc0"
"""A commit whose default bundle is 0.4.2: the shipped one went on from its weights, and has it beside."""


def main() -> None:
    arguments = _arguments()
    config = read_config(arguments.run)
    if arguments.run == EXPERIMENT and config.beside is not None and not (config.beside / SETTINGS_FILE).exists():
        _write_earlier_bundle(config.beside)
    for folder, count, seed in (
        (config.validation, VALIDATION_SHARDS, VALIDATION_SEED),
        (config.shards, arguments.shards, TRAINING_SEED),
    ):
        if folder is not None:
            render_shards(
                folder,
                first=0,
                count=count,
                seed=seed,
                at_most_hu=config.images.at_most_hu,
                processes=arguments.processes,
            )
    trained = train(config)
    print(trained.reason)
    if trained.interrupted:
        return
    out = ROOT / "models" / "default"
    negatives = {
        origin: Path(folder) for origin, _, folder in (pair.rpartition("=") for pair in arguments.real_negative)
    }
    release(config, out, version=arguments.version, real_negatives=negatives)
    print(f"written: {out}; the figures are in its MODEL_CARD.md")


def _write_earlier_bundle(folder: Path) -> None:
    """Out of the history of the repository, the settings last; SystemExit where there is none."""
    files = {name: _at_the_start(f"models/default/{name}") for name in (WEIGHTS_FILE, SETTINGS_FILE)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _at_the_start(path: str) -> bytes:
    git = shutil.which("git")
    shown = git and subprocess.run(
        [git, "-C", str(ROOT), "show", f"{BEGAN_WITH}:{path}"], stdout=subprocess.PIPE, check=False
    )
    if not shown or shown.returncode:
        raise SystemExit(
            f"needs git and a clone with its history, for {BEGAN_WITH}:{path}; or leave start_from and beside out to "
            "begin anew"
        )
    return shown.stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=EXPERIMENT)
    parser.add_argument("--shards", type=int, default=160, help="of 20 heads each; 4 GB for 160")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real-negative", nargs="*", default=[], metavar="ORIGIN=DIR")
    parser.add_argument("--version", default="0.5.0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
