"""The servers that are measured, one module for each: see ``server`` for what a server is."""
