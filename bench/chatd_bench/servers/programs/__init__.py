"""The programs of peers and anchors that the harness brings itself. Each runs in a process, and most in an environment, of
its own, and imports nothing of the harness."""
