"""Bytes on sockets: frames, the opening handshake, and the links that carry them."""
