"""Closed-loop load for a chatd server, in processes of its own: ``python -m chatd_bench --help``, bench/README.md."""
