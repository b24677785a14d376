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
from triage_node.learn.experiment import TrainConfig, read_config
from triage_node.learn.release import release
from triage_node.learn.train import train

TRAINING_SEED = 70_000_000
VALIDATION_SEED = 60_000_000
VALIDATION_SHARDS = 12
ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "models" / "default.train.toml"
BEGAN_WITH = "7d6311bbc2323ff4df1fb345d178ccf7e8af4e03"
"""A commit whose default bundle is 0.5.0; the shipped one keeps its first network and goes on from its second."""
KEPT, WENT_ON = "1-default-0.4.2", "2-default-0.5.0"


def main() -> None:
    arguments = _arguments()
    config = read_config(arguments.run)
    if arguments.run == EXPERIMENT:
        _take_earlier(config)
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


def _take_earlier(config: TrainConfig) -> None:
    """What the experiment begins with and is released beside: where it is not there, out of the history of git."""
    wanted = {} if config.start_from is None else {config.start_from: f"{WENT_ON}/{WEIGHTS_FILE}"}
    if config.beside is not None:  # the settings last: they make it a bundle
        wanted |= {config.beside / name: f"{KEPT}/{name}" for name in (WEIGHTS_FILE, SETTINGS_FILE)}
    for path, name in wanted.items():
        if not path.exists():
            data = _at_the_start(f"models/default/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _at_the_start(path: str) -> bytes:
    git = shutil.which("git")
    shown = git and subprocess.run(
        [git, "-C", str(ROOT), "show", f"{BEGAN_WITH}:{path}"], stdout=subprocess.PIPE, check=False
    )
    if not shown or shown.returncode:
        raise SystemExit(
            f"needs git and a clone with its history, for {BEGAN_WITH}:{path}; or leave start_from, start_share "
            "and beside out to begin anew"
        )
    return shown.stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=EXPERIMENT)
    parser.add_argument("--shards", type=int, default=160, help="of 20 heads each; 4 GB for 160")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real-negative", nargs="*", default=[], metavar="ORIGIN=DIR")
    parser.add_argument("--version", default="0.6.0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
