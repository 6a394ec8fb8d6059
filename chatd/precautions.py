"""What an operator is warned of, in the log of a start and by ``check-config``: nothing that a server could not run with.

Looks at files and changes nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from chatd.config import Config, data_dir_of, split_address

BY_ALL = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
"""Of a secret: read by everybody, or written by anybody else. A group may read it: certificates often have one."""
BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def warnings_of(config: Config, store: str) -> list[str]:
    """A sentence for each, with what to do about it. ``store``: the name of its file in the data directory."""
    data = data_dir_of(config)
    return [*_open_files(config), *_open_directory(data), *_in_clear(config), *_lost_store(data, store)]


def _open_files(config: Config) -> Iterator[str]:
    secrets = {"server.tls_key": config.server.tls_key, "redis.password_file": config.redis.password_file}
    for option, name in secrets.items():
        if name and (mode := _mode(Path(name))) & BY_ALL:
            yield f"{option} = {name!r}: others may read or change it (mode {mode:04o}): chmod 600"


def _open_directory(data: Path) -> Iterator[str]:
    if (mode := _mode(data)) & BY_OTHERS:
        yield f"{data}: others may write in the data directory (mode {mode:04o}): chmod 700"


def _in_clear(config: Config) -> Iterator[str]:
    host, _ = split_address(config.server.listen)
    if not config.server.tls_certificate and not _is_loopback(host):
        yield (
            f"server.listen = {config.server.listen!r}: without TLS, passwords and messages can be read on the way; set "
            "server.tls_certificate and server.tls_key, or let only a proxy that speaks TLS reach this address"
        )


def _lost_store(data: Path, store: str) -> Iterator[str]:
    if (data / store).exists():
        return
    for path in sorted([*data.glob(f"{store}-wal"), *data.glob(f"{store}.before-restore*")]):
        yield f"{path}: is there, but no {store}: a server makes an empty one. Was it moved? chatd restore puts a backup back"


def _mode(path: Path) -> int:
    """0 where it cannot be told: what is not there is told by others."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
