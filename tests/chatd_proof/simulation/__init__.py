"""Several nodes, their clients and every fault in one ``trio.run``, by a seed: the same seed, the same run.

What is real: everything of chatd above its ports, and SQLite. What is simulated: the bus, the board, the shared limits, the
disk's failures, the network, the clock, and who runs when.
"""
