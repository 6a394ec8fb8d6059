"""Every guard, by what it is about. Those of the simulation stand with it (``tests/proof/test_simulation.py``, GUARDS)."""

from __future__ import annotations

from tests.guards import bounds, delivery, entry, members, store, tables, wire
from tests.guards.guard import Guard

GUARDS: dict[str, tuple[Guard, ...]] = {
    "durability": store.DURABILITY,
    "dedupe": store.DEDUPE,
    "order in the store": store.ORDER,
    "fencing": store.FENCING,
    "backup, restore, verify": store.BACKUP,
    "files": store.FILES,
    "who reads what": members.READING,
    "who may what": members.OPERATIONS,
    "who knows of whom": members.ACQUAINTANCE,
    "unread": members.UNREAD,
    "order on the way": delivery.ORDER,
    "removal": delivery.REMOVAL,
    "what the bus loses": delivery.LOSSES,
    "forgery": delivery.FORGERY,
    "leases": delivery.LEASES,
    "tokens": entry.SIGNATURES,
    "tokens taken back": entry.REVOCATION,
    "passwords and devices": entry.PASSWORD,
    "before the hello": entry.BEFORE,
    "secrets": entry.SECRETS,
    "frames": wire.RFC_6455,
    "messages": wire.MESSAGES,
    "HTTP": wire.HTTP_HEADS,
    "connections": wire.CONNECTIONS,
    "links": wire.LINKS,
    "rates": bounds.RATES,
    "rates on all nodes": bounds.SHARED_RATES,
    "mailboxes": bounds.MAILBOXES,
    "tables": tables.TABLES,
    "pages": tables.PAGES,
}

EVERY: dict[str, Guard] = {f"{group}: {guard.name}": guard for group, guards in GUARDS.items() for guard in guards}
