"""``python -m chatd_proof``: see ``chatd_proof.cli``."""

from __future__ import annotations

import sys

from chatd_proof.cli import main

sys.exit(main())
