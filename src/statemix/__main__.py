"""``python -m statemix``, and ``torchrun -m statemix``: the command line without its script."""

import sys

from statemix.cli import main

if __name__ == "__main__":
    sys.exit(main())
