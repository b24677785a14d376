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

from triage_node.learn.dataset import render_shards
from triage_node.learn.experiment import read_config
from triage_node.learn.release import release
from triage_node.learn.train import train

TRAINING_SEED = 70_000_000
VALIDATION_SEED = 60_000_000
VALIDATION_SHARDS = 12
ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "models" / "default.train.toml"
BEGAN_WITH = "913b2a46dbc9ba2dd321773f74fcdd6f8d30b5dd"
"""The commit whose default bundle, 0.4.0, the shipped one went on from."""


def main() -> None:
    arguments = _arguments()
    config = read_config(arguments.run)
    if arguments.run == EXPERIMENT and config.start_from is not None and not config.start_from.exists():
        config.start_from.parent.mkdir(parents=True, exist_ok=True)
        config.start_from.write_bytes(_earlier_weights())
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


def _earlier_weights() -> bytes:
    """Out of the history of the repository; SystemExit where there is none."""
    weights = f"{BEGAN_WITH}:models/default/weights.safetensors"
    git = shutil.which("git")
    shown = git and subprocess.run([git, "-C", str(ROOT), "show", weights], stdout=subprocess.PIPE, check=False)
    if not shown or shown.returncode:
        raise SystemExit(
            f"needs git and a clone with its history, for {weights}; or leave start_from out to begin anew"
        )
    return shown.stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=EXPERIMENT)
    parser.add_argument("--shards", type=int, default=160, help="of 20 heads each; 4 GB for 160")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real-negative", nargs="*", default=[], metavar="ORIGIN=DIR")
    parser.add_argument("--version", default="0.4.2")
    return parser.parse_args()


if __name__ == "__main__":
    main()
