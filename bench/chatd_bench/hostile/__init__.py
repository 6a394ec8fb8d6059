"""The attacker of ``hostile``: a process of its own, its sockets, and what it does with them."""
