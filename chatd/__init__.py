"""chatd: a self-hosted, actor-based, real-time messaging server. Start with ``ARCHITECTURE.md``."""

__version__ = "0.1.0"
