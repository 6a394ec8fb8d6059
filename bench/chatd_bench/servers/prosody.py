"""Prosody (Debian): ``prosody`` keeps nothing, ``prosody-archive`` has an archive (MAM) of everything in SQLite.

One Lua process, so one core. No limits are loaded, nor modules that clients here do not use (roster, offline messages, other
servers). Accounts are files, made before the start, with plain passwords; rooms are made by whoever enters first, and do
not tell of presence. The archive's file is in WAL mode, as chatd's own is, and every message is a transaction that is synced,
as SQLite does by default: 1:1 messages are in two archives, the sender's and the recipient's. A message is written before it is
delivered; see ``dialects/xmpp.py`` for acks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd_bench.faults import NotOffered
from chatd_bench.servers.processes import (
    HOST,
    data_directory,
    debian_version,
    free_port,
    install_debian_packages,
    running_process,
)
from chatd_bench.servers.server import Endpoint, Needs, Running, Server

PASSWORD = "p"  # noqa: S105 - of accounts that live for one run
DOMAIN = "localhost"
ROOMS = "rooms.localhost"

_SETTINGS = """
data_path = "{directory}/data"; certificates = "{directory}/data"; pidfile = "{directory}/pid"; run_as_root = true
log = {{ {{ levels = {{ min = "error" }}, to = "console" }} }}
modules_enabled = {{ "saslauth", "websocket"{archive_module} }}
modules_disabled = {{ "s2s", "offline" }}
authentication = "internal_plain"
c2s_require_encryption = false; allow_unencrypted_plain_auth = true; consider_websocket_secure = true
c2s_ports = {{}}; c2s_direct_tls_ports = {{}}; https_ports = {{}}
http_ports = {{ {port} }}; http_interfaces = {{ "127.0.0.1" }}; http_default_host = "localhost"
network_backend = "epoll"; network_settings = {{ tcp_backlog = 4096; read_timeout = 3600 }}
gc = {{ mode = "generational" }}
storage = {{ archive = "sql"; muc_log = "sql" }}
sql = {{ driver = "SQLite3"; database = "archive.db" }}
default_archive_policy = true; archive_expires_after = "never"
VirtualHost "localhost"
Component "rooms.localhost" "muc"
  modules_enabled = {{ {room_module} }}
  muc_log_by_default = true; muc_log_presences = false; muc_log_expires_after = "never"
  max_history_messages = 0; muc_room_default_history_length = 0
  restrict_room_creation = false; muc_room_locking = false
  muc_room_default_presence_broadcast = {{ visitor = false; participant = false; moderator = false }}
"""


class Prosody(Server):
    """With or without its archive."""

    dialects = ("xmpp",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.keeps_history = name.endswith("-archive")

    def install(self) -> None:
        """From Debian, with the driver of SQLite."""
        install_debian_packages("prosody", "lua-dbi-sqlite3")

    @contextmanager
    def start(self, needs: Needs) -> Iterator[Running]:
        """The accounts of ``needs.users`` are there when it starts."""
        if needs.nodes > 1:
            raise NotOffered(f"{self.name}: one node only")
        port = free_port()
        with data_directory() as directory:
            _make_accounts(directory / "data" / "localhost" / "accounts", needs)
            make_wal(directory / "data" / "archive.db")
            settings = _SETTINGS.format(
                directory=directory, port=port, archive_module=', "mam"' if self.keeps_history else "",
                room_module='"muc_mam"' if self.keeps_history else "",
            )  # fmt: skip
            (directory / "prosody.cfg.lua").write_text(settings)
            command = ("prosody", "--config", directory / "prosody.cfg.lua", "-F")
            with running_process(command, directory, port) as pid:
                credentials = {"domain": DOMAIN, "rooms": ROOMS, "path": "/xmpp-websocket", "password": PASSWORD}
                versions = {"prosody": debian_version("prosody")}
                yield Running((Endpoint(HOST, port),), (pid,), (pid,), credentials, versions, {"configuration": settings})


def _make_accounts(directory: Path, needs: Needs) -> None:
    directory.mkdir(parents=True)
    for user in needs.users:
        # A file's name has all but letters and digits as %xx.
        name = "".join(letter if letter.isalnum() else f"%{ord(letter):02x}" for letter in user)
        (directory / f"{name}.dat").write_text(f'return {{ ["password"] = "{PASSWORD}" }};\n')


def make_wal(path: Path) -> None:
    """An empty SQLite file in WAL mode, which it then stays in: one sync for a transaction, in place of three."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
