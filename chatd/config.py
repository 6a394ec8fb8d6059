"""How the configuration is put together at the start: defaults, file, environment, command line.

Owns no state: ``load`` reads the file once, checks everything, and gives out values that never change. What there is to
configure stands in ``chatd.options``.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from chatd_protocol.messages import NAME_PATTERN
from msgspec import Struct, inspect

from chatd.options import SECTIONS, Auth, Config, Issuer, Limits, Redis, Server, Tier

__all__ = [
    "Auth", "Config", "ConfigError", "Issuer", "Limits", "Redis", "Server", "Tier", "data_dir_of", "load", "render",
    "split_address", "unknown_variables", "variables",
]  # fmt: skip

ENVIRONMENT_PREFIX = "CHATD_"
MAX_FILE_BYTES = 1024 * 1024
MAX_PORT = 65535
MAX_ISSUERS = 64
MAX_TIERS = 64
_TABLES = {"issuers": "[[auth.issuers]]", "tiers": "[limits.tiers.NAME]"}
"""Options that are tables of their own, and so only for the file."""
MAX_SHOWN_CHARS = 5000

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9_.:\[\]-]+")


class ConfigError(Exception):
    """The configuration cannot be used. The text is for the operator: the key, its value, and what is allowed."""


Given = tuple[str, str, object]
"""Section, key and the checked value."""


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    """The effective configuration: defaults, then the file, then ``CHATD_<SECTION>_<KEY>``, then ``overrides``.

    ``overrides`` has ``"section.key"`` as keys. Raises ConfigError, and nothing else for whatever the file says.
    """
    sections: dict[str, dict[str, object]] = {name: {} for name in SECTIONS}
    for name, key, value in (*_from_file(path), *_from_environment(environ), *_from_command_line(overrides)):
        sections[name][key] = value
    config = msgspec.convert(sections, Config)
    _cross_check(config)
    return config


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each ``CHATD_...`` variable that looks like a mistyped option.

    Not errors: orchestrators set variables of that form by themselves (a service called chatd-server gives
    ``CHATD_SERVER_PORT``), and a server must not refuse to start over one.
    """
    known = list(variables())
    suspects = sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)
    close = ((name, difflib.get_close_matches(name, known, n=1, cutoff=0.85)) for name in suspects)
    return [f"{name} is no option and has no effect; did you mean {near[0]}?" for name, near in close if near]


def variables() -> Iterator[str]:
    """The environment variable of every option that can be set by one, in the order of the sections."""
    for name, section in SECTIONS.items():
        for key in _types(section):
            if key not in _TABLES:
                yield f"{ENVIRONMENT_PREFIX}{name}_{key}".upper()


def split_address(address: str) -> tuple[str, int]:
    """``"127.0.0.1:8080"`` or ``"[::1]:8080"`` as host and port. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    numeric = port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT)) and int(port) <= MAX_PORT
    if not (colon and bare and numeric) or (":" in bare) != bracketed:
        raise ConfigError(
            f"{_quoted(address)}: must be HOST:PORT with a port from 0 (any free one) to {MAX_PORT}, as "
            "127.0.0.1:8080, 0.0.0.0:8080 (every IPv4 address of this machine) or [::1]:8080"
        )
    return bare, int(port)


def data_dir_of(config: Config, environ: Mapping[str, str] | None = None) -> Path:
    """The data directory: ``store.data``, or chatd's own place in the user's data home. Raises ConfigError."""
    if config.store.data:
        return _expanded(config.store.data).absolute()
    if sys.platform == "darwin":
        return _expanded("~/Library/Application Support/chatd")
    home = Path((os.environ if environ is None else environ).get("XDG_DATA_HOME", ""))
    # A relative path there is to be ignored, says the XDG Base Directory Specification.
    return (home if home.is_absolute() else _expanded("~/.local/share")) / "chatd"


def render(config: Config) -> str:
    """The configuration as TOML that ``load`` reads back; a password in ``redis.url`` is left out."""
    lines: list[str] = []
    for name in SECTIONS:
        section = getattr(config, name)
        lines.append(f"[{name}]")
        keys = [key for key in section.__struct_fields__ if key not in _TABLES]
        named = bool(config.redis.password_file)
        lines += [f"{key} = {_shown(name, key, getattr(section, key), user_alone=named)}" for key in keys]
        lines.append("")
    for tier, rules in config.limits.tiers.items():
        lines.append(f"[limits.tiers.{_quoted(tier)}]")
        given = {key: getattr(rules, key) for key in rules.__struct_fields__}
        lines += [f"{key} = {_quoted(value)}" for key, value in given.items() if value is not None]
        lines.append("")
    for issuer in config.auth.issuers:
        lines.append("[[auth.issuers]]")
        lines += [f"{key} = {_quoted(getattr(issuer, key))}" for key in issuer.__struct_fields__]
        lines.append("")
    return "\n".join(lines)


def _from_file(path: Path | None) -> Iterator[Given]:
    if path is None:
        return
    try:
        for name, table in _read(path).items():
            if name not in SECTIONS:
                _unknown(f"[{name}]", name, list(SECTIONS), "[{}]")
            if not isinstance(table, dict):
                raise ConfigError(f"{name} = {_quoted(table)}: must be a section, [{name}]")
            yield from ((name, key, _checked(name, key, value)) for key, value in table.items())
    except ConfigError as fault:
        raise ConfigError(f"{path}: {fault}") from fault


def _from_command_line(overrides: Mapping[str, object]) -> Iterator[Given]:
    for dotted, value in overrides.items():
        name, _, key = dotted.partition(".")
        yield name, key, _checked(name, key, value)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as fault:
        raise ConfigError(f"{fault.strerror or fault}") from fault
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as fault:
        raise ConfigError(f"not UTF-8 at byte {fault.start}") from fault
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        raise ConfigError(f"not TOML: {fault}") from fault


def _from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    for name, section in SECTIONS.items():
        for key in _types(section):
            variable = f"{ENVIRONMENT_PREFIX}{name}_{key}".upper()
            if (text := environ.get(variable)) is None:
                continue
            if key in _TABLES:
                raise ConfigError(f"{variable}: {key} can be named only in the file, as {_TABLES[key]}")
            try:
                yield name, key, _checked(name, key, _parsed(_types(section)[key], text))
            except ConfigError as fault:
                raise ConfigError(f"{variable}: {fault}") from fault


def _parsed(kind: inspect.Type, text: str) -> object:
    """An environment variable's text as the value that the file would have; what does not fit stays text."""
    if isinstance(kind, inspect.Metadata):
        return _parsed(kind.type, text)
    if isinstance(kind, inspect.ListType):
        return [item.strip() for item in text.split(",") if item.strip()]
    if isinstance(kind, inspect.StrType | inspect.LiteralType):
        return text
    target = bool if isinstance(kind, inspect.BoolType) else int if isinstance(kind, inspect.IntType) else float
    try:
        return msgspec.convert(text.strip(), target, strict=False)
    except msgspec.ValidationError:
        return text


def _checked(name: str, key: str, value: object) -> object:
    section = SECTIONS[name]
    types = _types(section)
    if key not in types:
        _unknown(f"{name}.{key}", key, list(types), f"{name}.{{}}")
    if key == "issuers":
        return _checked_issuers(value)
    if key == "tiers":
        return _checked_tiers(value)
    return _converted(f"{name}.{key}", value, _annotation(section, key), _shown(name, key, value))


def _checked_issuers(value: object) -> list[Issuer]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError("auth.issuers: must be sections, [[auth.issuers]]")
    if len(value) > MAX_ISSUERS:
        raise ConfigError(f"auth.issuers: {len(value)} of them, at most {MAX_ISSUERS}")
    return [_issuer(f"auth.issuers[{number}]", item) for number, item in enumerate(value)]


def _checked_tiers(value: object) -> dict[str, Tier]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ConfigError("limits.tiers: must be sections, [limits.tiers.NAME]")
    if len(value) > MAX_TIERS:
        raise ConfigError(f"limits.tiers: {len(value)} of them, at most {MAX_TIERS}")
    return {name: _tier(name, table) for name, table in value.items()}


def _tier(name: str, table: dict[str, object]) -> Tier:
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ConfigError(f"limits.tiers.{_quoted(name)}: a name is 1-32 characters of a-z 0-9 _ . -")
    for key, value in table.items():
        if key not in Tier.__struct_fields__:
            _unknown(f"limits.tiers.{name}.{key}", key, list(Tier.__struct_fields__))
        _converted(f"limits.tiers.{name}.{key}", value, _annotation(Limits, key), _quoted(value))
    return msgspec.convert(table, Tier)


def _issuer(where: str, table: dict[str, object]) -> Issuer:
    types = _types(Issuer)
    for key in table:
        if key not in types:
            _unknown(f"{where}.{key}", key, list(types))
    for key, kind in types.items():
        if key not in table:
            raise ConfigError(f"{where}.{key}: is missing; must be {_allowed(kind)}")
    for key, value in table.items():
        _converted(f"{where}.{key}", value, _annotation(Issuer, key), _quoted(value))
    return msgspec.convert(table, Issuer)


def _converted(dotted: str, value: object, annotation: object, shown: str) -> object:
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as fault:
        raise ConfigError(f"{dotted} = {shown}: must be {_allowed(inspect.type_info(annotation))}") from fault


def _types(section: type[Struct]) -> dict[str, inspect.Type]:
    info = inspect.type_info(section)
    assert isinstance(info, inspect.StructType)
    return {option.name: option.type for option in info.fields}


def _annotation(section: type[Struct], key: str) -> object:
    return msgspec.structs.fields(section)[section.__struct_fields__.index(key)].type


def _allowed(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(type=inner):
            return _allowed(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number from {low:.15g} to {high:.15g}"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(json.dumps(value) for value in values)
        case inspect.ListType(item_type=item):
            return f"a list, each item {_allowed(item)}"
        case inspect.StrType(min_length=shortest, max_length=longest):
            return f"text of {shortest or 0} to {longest} characters"
    return type(kind).__name__


def _shown(name: str, key: str, value: object, *, user_alone: bool = False) -> str:
    """As in TOML; what could be a password is not shown: before the host of a URL, and in its options. ``user_alone``: what
    stands before the host without a colon is the user, for the password is elsewhere."""
    if (name, key) != ("redis", "url") or not isinstance(value, str) or not value:
        return _quoted(value)
    scheme, mark, rest = value.partition("://")
    before, at, place = rest.rpartition("@")
    place, options, _ = place.partition("?")
    user, colon, _ = before.partition(":")
    shown = user + at if colon or user_alone else ""
    return _quoted(f"{scheme}://{shown}{place}{options and '?...'}" if mark else "...")


def _quoted(value: object) -> str:
    """As in TOML, for the types that TOML and JSON write alike; cut off where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # TOML has dates, JSON has not
        text = str(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:60]}..."


def _unknown(shown: str, name: str, known: list[str], form: str = "{}") -> NoReturn:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {form.format(near[0])}?" if near else f"known are {', '.join(known)}"
    raise ConfigError(f"{shown[:200]}: no such option; {hint}")


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as fault:
        raise ConfigError(f"store.data: {path}: no home directory; name one with --data or store.data") from fault


def _cross_check(config: Config) -> None:
    """What no single option can know. Each sentence names both keys."""
    server, limits = config.server, config.limits
    _check_addresses(server)
    if bool(server.tls_certificate) != bool(server.tls_key):
        raise ConfigError("server.tls_certificate, server.tls_key: TLS needs both; without it leave both empty")
    if limits.batch_items > limits.writer_items:
        raise ConfigError(
            f"limits.batch_items = {limits.batch_items}: more than can wait for it (limits.writer_items = "
            f"{limits.writer_items})"
        )
    presence = config.presence
    if presence.expiry_seconds < 2 * presence.renew_seconds:
        raise ConfigError(
            f"presence.expiry_seconds = {presence.expiry_seconds:g}: must be at least twice presence.renew_seconds = "
            f"{presence.renew_seconds:g}"
        )
    _check_redis(config.redis)
    _check_issuers(config.auth)


def _check_addresses(server: Server) -> None:
    for key, address in (("listen", server.listen), ("ops", server.ops)):
        try:
            split_address(address)
        except ConfigError as fault:
            raise ConfigError(f"server.{key} = {fault}") from fault
    if server.listen == server.ops and split_address(server.ops)[1]:
        raise ConfigError(f"server.ops = {_quoted(server.ops)}: the same as server.listen; it must be another port")
    for origin in server.allowed_origins:
        if _ORIGIN.fullmatch(origin) is None:
            raise ConfigError(
                f"server.allowed_origins: {_quoted(origin)}: must be an origin as browsers send it, in lower case and "
                "without a path, as https://chat.example.org"
            )


def _check_redis(redis: Redis) -> None:
    if redis.url and redis.url.partition("://")[0] not in {"redis", "rediss", "unix"}:
        raise ConfigError(
            f"redis.url = {_shown('redis', 'url', redis.url)}: must begin with redis://, rediss:// or unix://"
        )
    if redis.password_file and not redis.url:
        raise ConfigError("redis.password_file: has no use without redis.url; the embedded server has no password")


def _check_issuers(auth: Auth) -> None:
    seen = {auth.issuer}
    for issuer in auth.issuers:
        if issuer.issuer in seen:
            raise ConfigError(f"auth.issuers: {_quoted(issuer.issuer)} is named twice (chatd's own is auth.issuer)")
        seen.add(issuer.issuer)
