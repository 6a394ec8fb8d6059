"""The logs at the end of a run, read from the store's file by chatd's own adapter: the truth that everything is held against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import cbor2

from chatd.adapters.sqlite.store import open_store
from chatd_proof.history import Described, Stored, stored

PAGE = 500


async def read_logs(path: Path, histories: Mapping[str, str]) -> AsyncIterator[Stored | Described]:
    """Every event of every conversation. ``histories``: what groups show to new members (``all``), by conversation.
    Raises Unavailable."""
    async with open_store(path) as store:
        heads: dict[str, int] = {}
        token, more = 0, True
        while more:
            committed = await store.committed(token)
            heads |= committed.heads
            token, more = committed.token, committed.more
        for conv in sorted(heads):
            after = 0
            while events := await store.log(conv, after, PAGE):
                for event in events:
                    fields = {**cbor2.loads(event.payload), "kind": event.kind}
                    yield stored((conv, event.seq), event.sender, fields, everything=histories.get(conv) == "all")
                after = events[-1].seq
            audience = (await store.audiences([conv])).get(conv)
            if audience is not None and audience.dm:
                yield Described(conv, sorted(set(audience.dm)))
