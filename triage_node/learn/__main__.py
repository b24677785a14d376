"""python -m triage_node.learn CONFIG.toml: train one run (see learn.train.TrainConfig for the keys)."""

from __future__ import annotations

import sys
from pathlib import Path

from triage_node.learn.train import read_config, train

if __name__ == "__main__":
    train(read_config(Path(sys.argv[1])))
