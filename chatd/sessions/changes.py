"""What takes a ``cseq``, on its way from the wire to the store: sends, edits, deletes and reactions. Pure."""

from __future__ import annotations

import msgspec
from chatd_protocol import messages
from chatd_protocol.codec import change_digest, change_payload, message_payload

from chatd.conversations.operations import Author, Delete, Edit, React, Send

Change = messages.Edit | messages.Delete | messages.React
NUMBERED: frozenset[type] = frozenset({messages.Send, messages.Edit, messages.Delete, messages.React})


def send_operation(author: Author, message: messages.Send) -> Send:
    """What the store is asked for."""
    return Send(
        author=author, cseq=message.cseq, to=message.to, payload=message_payload(message),
        reply_to=0 if message.reply_to is msgspec.UNSET else message.reply_to, mentions=message.mentions or (),
    )  # fmt: skip


def change_operation(author: Author, message: Change) -> Edit | Delete | React:
    """The same for a change of a message that is there. The digest covers all of the message but its number."""
    cseq, conv, seq = message.cseq, message.conv, message.seq
    payload = change_payload(message)
    digest = change_digest(messages.name_of(message), conv, payload)
    if isinstance(message, messages.React):
        return React(
            author=author, cseq=cseq, conv=conv, seq=seq, emoji=message.emoji, remove=message.remove, payload=payload,
            digest=digest,
        )  # fmt: skip
    operation = Edit if isinstance(message, messages.Edit) else Delete
    return operation(author=author, cseq=cseq, conv=conv, seq=seq, payload=payload, digest=digest)
