"""The generator's timed run: an event loop in C, and what Python tells it and asks it.

``engine.c`` is compiled at first use (``build``), loaded with ctypes (``native``), and does everything between the first
message and the last: sending by a plan, framing and masking, reading, checking, counting. ``driver`` connects and logs in,
in Python, before.

Why C: a generator shares the machine with the server, and in Python it takes as much CPU as the server does, so that it is
the limit for whatever is faster than Python. bench/README.md has the measurement of both.
"""
