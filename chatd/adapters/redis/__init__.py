"""Redis or Valkey behind chatd's ports: ``address`` (where it is), ``link`` (one connection), ``bus`` (pub/sub)."""
