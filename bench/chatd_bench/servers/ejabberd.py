"""ejabberd (Debian): ``ejabberd`` keeps nothing, ``ejabberd-archive`` has an archive (MAM) of everything in SQLite.

The Erlang machine is started as ``ejabberdctl`` does, but as the user who runs this, as a node without a name: no other program
is needed. No shapers, and no modules that clients here do not use (roster, offline messages, other servers). Accounts are made
through its HTTP interface after the start, with plain passwords; rooms are made by whoever enters first, and do not
tell of presence (``presence_broadcast`` is empty), so a join costs three stanzas and not one for each member.

The archive's file is in WAL mode, as chatd's own is, and every message is a transaction that is synced, as SQLite does by
default; 1:1 messages are in two archives, the sender's and the recipient's. A message is written before it is delivered; see
``dialects/xmpp.py`` for acks. It uses all cores.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd_bench.faults import NotOffered, RunFailed
from chatd_bench.servers.processes import (
    HOST,
    data_directory,
    debian_version,
    free_port,
    install_debian_packages,
    running_process,
)
from chatd_bench.servers.prosody import DOMAIN, PASSWORD, ROOMS, make_wal
from chatd_bench.servers.server import Endpoint, Needs, Running, Server

_SETTINGS = """
hosts: [localhost]
loglevel: error
auth_method: internal
auth_password_format: plain
disable_sasl_mechanisms: [digest-md5, scram-sha-1, scram-sha-256, scram-sha-512, x-oauth2]
sql_type: sqlite
sql_database: "{directory}/archive.db"
new_sql_schema: true
websocket_ping_interval: 1 hour
websocket_timeout: 2 hours
negotiation_timeout: 1 hour
max_fsm_queue: 1000000
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_http
    backlog: 4096
    request_handlers:
      /ws: ejabberd_http_ws
      /api: mod_http_api
api_permissions:
  accounts:
    who: all
    what: register
modules:{archive}
  mod_muc:
    host: rooms.localhost
    max_users: {members}
    history_size: 0
    default_room_options:
      mam: {keeps}
      persistent: true
      max_users: {members}
      presence_broadcast: []
"""
_ARCHIVE = """
  mod_mam:
    default: always
    db_type: sql"""


class Ejabberd(Server):
    """With or without its archive."""

    dialects = ("xmpp",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.keeps_history = name.endswith("-archive")

    def install(self) -> None:
        """From Debian, with the driver of SQLite."""
        install_debian_packages("ejabberd", "erlang-p1-sqlite3")

    @contextmanager
    def start(self, needs: Needs) -> Iterator[Running]:
        """The accounts of ``needs.users`` are there when it is handed out."""
        if needs.nodes > 1:
            raise NotOffered(f"{self.name}: one node only")
        port = free_port()
        with data_directory() as directory:
            make_wal(directory / "archive.db")
            settings = _SETTINGS.format(
                directory=directory, port=port, members=needs.members + 1, archive=_ARCHIVE if self.keeps_history else "",
                keeps="true" if self.keeps_history else "false",
            )  # fmt: skip
            (directory / "ejabberd.yml").write_text(settings)
            environment = {
                "EJABBERD_CONFIG_PATH": str(directory / "ejabberd.yml"), "EJABBERD_LOG_PATH": str(directory / "ejabberd.log"),
                "ERL_LIBS": _libraries(), "HOME": str(directory), "ERL_CRASH_DUMP_BYTES": "0",
            }  # fmt: skip
            with running_process(_command(directory), directory, port, environment) as pid:
                _make_accounts(port, needs)
                credentials = {"domain": DOMAIN, "rooms": ROOMS, "path": "/ws", "password": PASSWORD}
                versions = {name: debian_version(name) for name in ("ejabberd", "erlang-base")}
                yield Running((Endpoint(HOST, port),), (pid,), (pid,), credentials, versions, {"configuration": settings})


def _command(directory: Path) -> tuple[str, ...]:
    database = f'"{directory}/database"'
    return ("erl", "-noinput", "+K", "true", "+P", "1000000", "+Q", "131072", "-mnesia", "dir", database, "-s", "ejabberd")


def _libraries() -> str:
    """Where Debian has put it, which depends on the architecture."""
    for found in sorted(Path("/usr/lib").glob("*/ejabberd-*/ebin")):
        return str(found.parent.parent)
    raise RunFailed("ejabberd is installed, but not where Debian puts it")


def _make_accounts(port: int, needs: Needs) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    for user in needs.users:
        body = json.dumps({"user": user, "host": DOMAIN, "password": PASSWORD})
        connection.request("POST", "/api/register", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RunFailed(f"ejabberd made no account {user}: {answer.status} {said[:200]!r}")
    connection.close()
