"""The store: its port, and the one actor that writes through it."""
