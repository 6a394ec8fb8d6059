"""All servers by name. Imported when asked for."""

from __future__ import annotations

from importlib import import_module

from chatd_bench.faults import RunFailed
from chatd_bench.servers.server import Server

_SERVERS = {
    "chatd": "chatd:Chatd",
    "socketio": "socketio:SocketIo",
    "socketio-redis": "socketio:SocketIo",
    "python-socketio": "socketio:PythonSocketIo",
    "python-socketio-redis": "socketio:PythonSocketIo",
    "ejabberd": "ejabberd:Ejabberd",
    "ejabberd-archive": "ejabberd:Ejabberd",
    "prosody": "prosody:Prosody",
    "prosody-archive": "prosody:Prosody",
    "socketify": "socketify:Socketify",
    "anchor-c": "anchor:Anchor",
    "anchor-c-gather": "anchor:Anchor",
    "anchor-py": "anchor:Anchor",
}
"""Name: module of this package, and class, which is made with the name as its only argument (variants share a class)."""


def make_server(name: str) -> Server:
    """The server of that name. Raises RunFailed where there is none."""
    if name not in _SERVERS:
        raise RunFailed(f"no server {name}; there are {', '.join(_SERVERS)}")
    module, _, kind = _SERVERS[name].partition(":")
    made: Server = getattr(import_module(f"chatd_bench.servers.{module}"), kind)(name)
    return made


def keeps_history(name: str) -> bool:
    """Whether what this server acknowledges is stored; of one that is no longer there nobody can say so."""
    return name in _SERVERS and make_server(name).keeps_history


def server_names() -> list[str]:
    """All of them."""
    return list(_SERVERS)
