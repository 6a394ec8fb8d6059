"""From the commit to the sockets: topics, the hub, the envelope between nodes, and repair."""
