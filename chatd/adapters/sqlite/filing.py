"""What is filed beside the log to be found again: replies, mentions, and the words of titles.

A commit files what it stores. ``file_the_past`` does so for what was stored before there was anything to file it in; part of
a migration, in its transaction.
"""

from __future__ import annotations

import json
from typing import cast

import apsw

from chatd.adapters.sqlite.memberships import may_see
from chatd.adapters.sqlite.payloads import fields_of
from chatd.store.query import by_words

FILE_MENTIONS = f"""
    INSERT OR IGNORE INTO mentions (user, conv, seq)
    SELECT u.no, ?1, ?2 FROM json_each(?4) t CROSS JOIN users u ON u.name = t.value
    CROSS JOIN members m ON m.conv = ?1 AND m.user = u.no
    WHERE u.no <> ?3 AND {may_see("?2", "?1", "u.no", "m.first")}
    AND (coalesce(m.left, ?2) >= ?2 OR (SELECT history FROM conversations WHERE no = ?1) = 'all')
"""  # noqa: S608 - of this program's own texts alone
"""The message ?1, ?2 of the user ?3 names those of the JSON list ?4. Of members at that time only, and where all is shown of
former ones, to whom it is unread when they come back; to who joins later it never is, for they begin to read at their
``joined``. Names that nobody has cost a look into an index, and not a statement each."""

UNFILE_MENTIONS = """
    DELETE FROM mentions WHERE conv = ?1 AND seq = ?2
    AND user IN (SELECT u.no FROM json_each(?3) t CROSS JOIN users u ON u.name = t.value)
"""
_REPLIES_OR_MENTIONS = """
    SELECT conv, seq, sender, payload FROM events WHERE kind = 'message' AND NOT deleted
    AND (instr(payload, CAST('reply_to' AS BLOB)) OR instr(payload, CAST('mentions' AS BLOB))) ORDER BY conv, seq
"""
_FILE_REPLY = """
    INSERT OR IGNORE INTO replies (conv, seq, parent, root)
    SELECT ?1, ?2, ?3, coalesce((SELECT root FROM replies WHERE conv = ?1 AND seq = ?3), ?3)
"""


def file_the_past(connection: apsw.Connection) -> None:
    """All replies and mentions that the log holds, and all titles; what is filed already stays."""
    for conv, seq, sender, payload in connection.execute(_REPLIES_OR_MENTIONS):
        said = fields_of("message", cast("bytes", payload)) or {}
        if (parent := said.get("reply_to")) is not None:  # in order of seq, so its own root is filed
            connection.execute(_FILE_REPLY, (conv, seq, parent))
        if names := said.get("mentions"):
            connection.execute(FILE_MENTIONS, (conv, seq, sender, json.dumps(names)))
    titles = connection.execute("SELECT no, title FROM conversations WHERE title <> ''").fetchall()
    connection.executemany(
        "UPDATE conversations SET words = ? WHERE no = ?", [(by_words(cast("str", title)), no) for no, title in titles]
    )
