"""Who is there: leases in Redis, and what their watchers are told."""
