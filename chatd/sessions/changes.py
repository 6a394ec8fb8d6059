"""Edits, deletes and reactions on their way from the wire to the store. Pure."""

from __future__ import annotations

from chatd_protocol import messages
from chatd_protocol.codec import change_digest, change_payload

from chatd.conversations.operations import Author, Delete, Edit, React

Change = messages.Edit | messages.Delete | messages.React
CHANGES: frozenset[type] = frozenset({messages.Edit, messages.Delete, messages.React})


def change_operation(author: Author, message: Change) -> Edit | Delete | React:
    """What the store is asked for. The digest covers all of the message but its number."""
    cseq, conv, seq = message.cseq, message.conv, message.seq
    payload = change_payload(message)
    match message:
        case messages.Edit():
            digest = change_digest("edit", conv, payload)
            return Edit(author=author, cseq=cseq, conv=conv, seq=seq, payload=payload, digest=digest)
        case messages.Delete():
            digest = change_digest("delete", conv, payload)
            return Delete(author=author, cseq=cseq, conv=conv, seq=seq, payload=payload, digest=digest)
        case messages.React():
            digest = change_digest("react", conv, payload)
            return React(
                author=author, cseq=cseq, conv=conv, seq=seq, emoji=message.emoji, remove=message.remove, payload=payload,
                digest=digest,
            )  # fmt: skip
