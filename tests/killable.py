"""`python -m tests.killable ROLE STEP --config FILE`: a role that ends as kill -9 does, when it reaches a step.

`--times N` lets it pass N - 1 times.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from triage_node import config, log, service, supervise, testing


def main() -> None:
    """Run the role."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("step")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--config", type=Path, required=True)
    parsed = parser.parse_args()
    log.quiet_libraries()
    stop = threading.Event()
    supervise.stop_on_signals(stop)
    service.run_role(
        parsed.role, config.load(parsed.config), stop, step=testing.killer(parsed.step, times=parsed.times)
    )


if __name__ == "__main__":
    main()
