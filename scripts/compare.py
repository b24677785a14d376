"""The comparison of docs/comparison.md: one command for a row, one for the table.

    python scripts/compare.py row NAME      trains models/compared/NAME.train.toml, makes its bundle, judges it
    python scripts/compare.py table         writes the table and the figure of all rows that are there

Heads are rendered once into runs/compared: the training set is the first shards of the default bundle's, validation its
validation, the test set heads of seeds of its own. The bundles stay in runs/compared/bundles.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from triage_node.learn.bundling import make_bundle
from triage_node.learn.comparison import draw, judge, read_rows, reported_table, table
from triage_node.learn.dataset import render_shards
from triage_node.learn.evaluation.shards import iterate_shards
from triage_node.learn.experiment import read_config
from triage_node.learn.train import train

ROOT = Path(__file__).parents[1]
DATA = ROOT / "runs" / "compared"
PAGE, ROWS = ROOT / "docs" / "comparison.md", ROOT / "docs" / "comparison"
SETS = (("train", 24, 70_000_000), ("validation", 4, 60_000_000), ("test", 10, 50_000_000))
"""(folder, shards of 20 heads, first seed)."""
NAMES = (
    "triagenet",
    "unet4",
    "deeplabv3",
    "double-branch",
    "resnet50v2-yolo",
    "vgg16",
    "resnet18",
    "resnet50",
    "plain-cnn",
)


def main() -> None:
    """Make a row, or the table."""
    arguments = _arguments()
    if arguments.what == "table":
        _write_table()
    else:
        _write_row(arguments.name, arguments.processes)


def _write_row(name: str, processes: int) -> None:
    for folder, count, seed in SETS:
        render_shards(DATA / folder, first=0, count=count, seed=seed, processes=processes)
    config = read_config(ROOT / "models" / "compared" / f"{name}.train.toml")
    print(train(config).reason)
    bundle = DATA / "bundles" / name
    validation = iterate_shards(DATA / "validation")
    make_bundle(config, bundle, version="1", tuning=validation, told_of="simulated heads of the comparison")
    row = judge(config, bundle, DATA / "test")
    ROWS.mkdir(exist_ok=True)
    (ROWS / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(table({name: row}))


def _write_table() -> None:
    rows = read_rows(ROWS, NAMES)
    if not rows:
        raise SystemExit(f"{ROWS}: no row yet; make one with: python scripts/compare.py row {NAMES[0]}")
    text = PAGE.read_text(encoding="utf-8")
    for mark, lines in (("ours", table(rows)), ("reported", reported_table())):
        begin, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{lines}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(text, encoding="utf-8")
    draw(rows, ROWS / "curves.png")
    print(f"{len(rows)} of {len(NAMES)} rows in {PAGE}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="for rendering")
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("row").add_argument("name", choices=NAMES)
    commands.add_parser("table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
