"""`python -m triage_node`: the same as `triage-node`."""

import sys

from triage_node.cli import main

if __name__ == "__main__":
    sys.exit(main())
