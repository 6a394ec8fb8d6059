"""The proof of what chatd promises: a history of what clients saw, and a checker that judges it; a simulation, and faults.

``python -m chatd_proof --help``.
"""
