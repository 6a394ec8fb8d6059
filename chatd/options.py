"""What can be configured: every option with its type, range and default. Values only; ``chatd.config`` makes them.

The annotated list for operators is ``config.toml``; a test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from chatd_protocol.messages import NAME_PATTERN
from msgspec import Meta, Struct, field

Text = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0.1, le=3600.0)]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Public keys only: whoever can check a token with a shared secret can also forge it."""


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where clients and operators connect. Addresses are ``HOST:PORT``; port 0 takes any free one."""

    listen: Text = "127.0.0.1:8080"
    ops: Text = "127.0.0.1:8081"
    allowed_origins: list[Text] = field(default_factory=list)
    tls_certificate: Text = ""
    tls_key: Text = ""
    heartbeat_ms: Annotated[int, Meta(ge=1000, le=600_000)] = 30_000
    hello_seconds: Seconds = 10.0
    handshake_seconds: Seconds = 5.0
    drain_seconds: Annotated[float, Meta(ge=0.0, le=3600.0)] = 5.0
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 4096


class StoreOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the history is."""

    data: Text = ""
    busy_seconds: Seconds = 5.0
    search_seconds: Seconds = 0.5


class Redis(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which server carries messages between nodes; an empty ``url`` means the embedded one."""

    url: Text = ""
    password_file: Text = ""


class Issuer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody else whose tokens are accepted. ``key_file`` holds a PEM public key."""

    issuer: Annotated[str, Meta(min_length=1, max_length=512)]
    audience: Annotated[str, Meta(min_length=1, max_length=512)]
    algorithm: Algorithm
    key_file: Annotated[str, Meta(min_length=1, max_length=4096)]


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is let in, and the cost of a password's hash."""

    token_hours: Annotated[int, Meta(ge=1, le=8760)] = 24
    issuer: Annotated[str, Meta(min_length=1, max_length=512)] = "chatd"
    audience: Annotated[str, Meta(min_length=1, max_length=512)] = "chatd"
    open_registration: bool = True
    key_file: Text = ""
    hash_workers: Annotated[int, Meta(ge=1, le=64)] = 1
    argon2_time_cost: Annotated[int, Meta(ge=1, le=64)] = 2
    argon2_memory_kib: Annotated[int, Meta(ge=1024, le=4 * 1024 * 1024)] = 19 * 1024
    argon2_parallelism: Annotated[int, Meta(ge=1, le=64)] = 1
    issuers: Annotated[list[Issuer], Meta(max_length=64)] = field(default_factory=list)


Rate = Annotated[float, Meta(ge=0.1, le=1_000_000.0)]
TierName = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN}\Z")]


class Tier(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What users of one tier may do; None: as in ``Limits``, whose options these are."""

    messages_per_second: Rate | None = None
    messages_burst: Count | None = None
    requests_per_second: Rate | None = None
    requests_burst: Count | None = None
    searches_per_second: Rate | None = None
    searches_burst: Count | None = None


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on what one client, one address and all of them together may take."""

    connections: Count = 19_000
    connections_per_address: Count = 1000
    sign_ins_per_minute: Count = 60
    accounts_per_minute: Count = 30
    connections_per_minute: Count = 6000
    api_per_minute: Count = 600
    messages_per_second: Rate = 100.0
    messages_burst: Count = 400
    requests_per_second: Rate = 100.0
    requests_burst: Count = 400
    searches_per_second: Rate = 20.0
    searches_burst: Count = 100
    devices_per_user: Annotated[int, Meta(ge=1, le=10_000)] = 100
    group_members: Annotated[int, Meta(ge=2, le=100_000)] = 1000
    outbox_bytes: Annotated[int, Meta(ge=256 * 1024, le=256 * 1024 * 1024)] = 1024 * 1024
    outbox_frames: Annotated[int, Meta(ge=16, le=1_000_000)] = 8192
    inflight_sends: Annotated[int, Meta(ge=1, le=65_536)] = 256
    requests_waiting: Annotated[int, Meta(ge=1, le=65_536)] = 64
    writer_items: Count = 20_000
    writer_bytes: Annotated[int, Meta(ge=1024 * 1024, le=4 * 1024**3)] = 64 * 1024 * 1024
    edit_hours: Annotated[float, Meta(ge=0.0, le=876_000.0)] = 24.0
    batch_items: Annotated[int, Meta(ge=1, le=65_536)] = 512
    tiers: dict[TierName, Tier] = field(default_factory=dict)


class Delivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How lost notices are noticed, and what a device is sent when it comes back."""

    repair_seconds: Seconds = 5.0
    repair_grace_ms: Annotated[int, Meta(ge=0, le=60_000)] = 30
    held_events: Annotated[int, Meta(ge=1, le=65_536)] = 1024
    held_bytes: Annotated[int, Meta(ge=0, le=4 * 1024**3)] = 16 * 1024 * 1024
    marks_ms: Annotated[int, Meta(ge=1, le=60_000)] = 100
    replay_new_device_events: Annotated[int, Meta(ge=0, le=100_000)] = 1000


class PresenceOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When somebody counts as there, and what telling it may cost."""

    renew_seconds: Seconds = 30.0
    expiry_seconds: Seconds = 60.0
    away_seconds: Seconds = 300.0
    store_seconds: Seconds = 300.0
    watched_users: Count = 50_000
    messages_per_second: Rate = 5000.0


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, to standard error. ``auto``: for people on a terminal, JSON lines otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options, checked."""

    server: Server = field(default_factory=Server)
    store: StoreOptions = field(default_factory=StoreOptions)
    redis: Redis = field(default_factory=Redis)
    auth: Auth = field(default_factory=Auth)
    limits: Limits = field(default_factory=Limits)
    delivery: Delivery = field(default_factory=Delivery)
    presence: PresenceOptions = field(default_factory=PresenceOptions)
    log: Log = field(default_factory=Log)


SECTIONS: dict[str, type[Struct]] = {
    "server": Server, "store": StoreOptions, "redis": Redis, "auth": Auth, "limits": Limits, "delivery": Delivery,
    "presence": PresenceOptions,
    "log": Log,
}  # fmt: skip
