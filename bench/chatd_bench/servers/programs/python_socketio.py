"""python-socketio on uvicorn with uvloop: the same rooms and acks as ``socketio.mjs``.

``python python_socketio.py PORT [REDIS-URL]`` listens on 127.0.0.1 until it is killed; with REDIS-URL every message is also
published there, for the servers of a cluster.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import socketio  # type: ignore[import-not-found]
import uvicorn  # type: ignore[import-not-found]
from redis.asyncio import BlockingConnectionPool, Redis

REDIS_CONNECTIONS = 16


class Manager(socketio.AsyncRedisManager):  # type: ignore[misc]
    """With a few connections to Redis. The standard pool opens one for each publish that is under way, hundreds, and where
    those take over 5 s to open it gives all up, and opens as many again: with that it managed a tenth."""

    def _redis_connect(self) -> None:
        pool = BlockingConnectionPool.from_url(self.redis_url, max_connections=REDIS_CONNECTIONS, timeout=None)
        self.redis = Redis(connection_pool=pool)
        self.pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
        self.connected = True


class Chat:
    """What happens on which event."""

    def __init__(self, redis: str | None) -> None:
        manager = Manager(redis) if redis else None
        # Handlers one after another: with a task for each event, messages of one sender may pass each other.
        self.sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager, async_handlers=False)
        self.users: dict[str, str] = {}
        for event in ("connect", "disconnect", "join", "dm", "group"):
            self.sio.on(event, getattr(self, event))

    async def connect(self, sid: str, _environ: Any, auth: dict[str, str]) -> None:
        """A room for each user."""
        self.users[sid] = auth["user"]
        await self.sio.enter_room(sid, "u:" + auth["user"])

    def disconnect(self, sid: str, *_: Any) -> None:
        """Forget who has gone."""
        self.users.pop(sid, None)

    async def join(self, sid: str, group: str) -> None:
        """A room for each group."""
        await self.sio.enter_room(sid, "g:" + group)

    async def dm(self, sid: str, to: str, body: str) -> None:
        """To one; the return is the ack."""
        await self.sio.emit("dm", (self.users[sid], body), room="u:" + to)

    async def group(self, sid: str, group: str, body: str) -> None:
        """To all others; the return is the ack."""
        await self.sio.emit("group", (group, self.users[sid], body), room="g:" + group, skip_sid=sid)


def main(port: int, redis: str | None) -> None:
    """Until it is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    app = socketio.ASGIApp(Chat(redis).sio)
    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", ws="websockets", ws_per_message_deflate=False,
        ws_ping_interval=None, backlog=4096, log_level="warning", access_log=False, lifespan="off",
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
