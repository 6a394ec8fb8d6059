"""The embedded Valkey server: where its program is, which of the processes on a data directory runs it, how it ends."""

from chatd.adapters.valkey.program import ProgramNotFound, find_program
from chatd.adapters.valkey.server import EmbeddedValkey, ValkeyUnavailable

__all__ = ["EmbeddedValkey", "ProgramNotFound", "ValkeyUnavailable", "find_program"]
