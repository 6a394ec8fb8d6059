"""``python -m chatd_bench``."""

import sys

from chatd_bench.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
