"""A relay on uWebSockets by ``socketify``: what a server can do whose sockets and frames are C++, and its rules Python.

It speaks ``dialects/relay.py``. Groups are uWebSockets' topics, which gather what goes to one socket and write it once per
turn of the loop. ``python socketify_relay.py PORT`` listens on 127.0.0.1 until it is killed.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

from socketify import App, AppListenOptions, CompressOptions, OpCode  # type: ignore[import-not-found]
from socketify.native import lib  # type: ignore[import-not-found]

users: dict[str, Any] = {}
names: dict[Any, str] = {}
"""By the address of the native socket: the object is another one for each message."""


def on_message(ws: Any, message: str, _opcode: int) -> None:
    """What a client says: ``d`` and ``g`` go to others and are acked."""
    kind = message[0]
    if kind in "dg":
        target, cseq, body = message[1:].split(",", 2)
        text = f"m{names[ws.ws]},{body}"
        if kind == "d":
            if recipient := users.get(target):
                recipient.send(text, OpCode.TEXT)
        else:
            _publish_to_others(ws, target.encode(), text.encode())
        ws.send("a" + cseq, OpCode.TEXT)
    elif kind == "l":
        names[ws.ws] = message[1:]
        users[message[1:]] = ws
        ws.send("ok", OpCode.TEXT)
    elif kind == "j":
        ws.subscribe(message[1:])
        ws.send("ok", OpCode.TEXT)


def _publish_to_others(ws: Any, topic: bytes, data: bytes) -> None:
    # socketify's own ws.publish is its app.publish, which writes to the sender as well; the library's leaves it out.
    lib.uws_ws_publish_with_options(0, ws.ws, topic, len(topic), data, len(data), int(OpCode.TEXT), False)


def on_close(ws: Any, _code: int, _message: Any) -> None:
    """Forget who has gone."""
    users.pop(names.pop(ws.ws, ""), None)


def main(port: int) -> None:
    """Until it is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    app = App()
    behavior = {
        "compression": CompressOptions.DISABLED, "max_payload_length": 64 * 1024, "idle_timeout": 0,
        "max_backpressure": 64 * 1024 * 1024, "message": on_message, "close": on_close,
    }  # fmt: skip
    app.ws("/*", behavior)
    app.listen(AppListenOptions(port=port, host="127.0.0.1"), lambda _: None)
    app.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
