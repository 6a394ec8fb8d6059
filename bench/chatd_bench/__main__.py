"""``python -m chatd_bench``."""

import sys

from chatd_bench.cli import main
from chatd_bench.endings import told_to_end

if __name__ == "__main__":
    with told_to_end() as ending:
        status = main(sys.argv[1:])
    sys.exit(ending.status(status))
