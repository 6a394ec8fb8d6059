"""What the configuration is made of, and what each mistake is answered with."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatd.config import (
    Config,
    ConfigError,
    data_dir_of,
    load,
    render,
    split_address,
    unknown_variables,
    variables,
)

ISSUER = "[[auth.issuers]]\nissuer = 'a'\naudience = 'b'\nalgorithm = 'EdDSA'\nkey_file = 'c'\n"


def written(directory: Path, text: str) -> Path:
    file = directory / "chatd.toml"
    file.write_text(text)
    return file


def test_each_layer_goes_before_the_one_below(tmp_path: Path) -> None:
    """Defaults, then the file, then the environment, then the command line."""
    file = written(tmp_path, "[limits]\nconnections = 2\nwriter_items = 600\n[server]\nlisten = 'a:1'\n")
    environ = {"CHATD_LIMITS_WRITER_ITEMS": "700", "CHATD_SERVER_LISTEN": "b:2"}
    config = load(file, environ, {"server.listen": "c:3"})
    assert (config.limits.connections, config.limits.writer_items, config.server.listen) == (2, 700, "c:3")
    assert config.limits.batch_items == Config().limits.batch_items


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[limits]\nconnections = 0", ["limits.connections = 0", "a whole number from 1 to 1000000"]),
        ("[limits]\nconnections = true", ["limits.connections = true", "a whole number"]),
        ("[limits]\nconnections = 2026-01-01", ["limits.connections = 2026-01-01", "a whole number"]),
        ("[limits]\nconnections = '5'", ['limits.connections = "5"', "a whole number"]),
        ("[limits]\nconections = 5", ["limits.conections", "did you mean limits.connections?"]),
        ("[limts]\nconnections = 5", ["[limts]", "did you mean [limits]?"]),
        ("[zzz]", ["[zzz]", "known are server, store, redis, auth, limits, delivery, presence, log"]),
        ("limits = 3", ["limits = 3", "must be a section, [limits]"]),
        ("[delivery]\nrepair_seconds = nan", ["delivery.repair_seconds", "a number from 0.1 to 3600"]),
        ("[delivery]\nrepair_seconds = inf", ["delivery.repair_seconds", "a number from 0.1 to 3600"]),
        ("[log]\nlevel = 'loud'", ['log.level = "loud"', '"debug", "error", "info", "warning"']),
        ("[server]\nlisten = '8080'", ['server.listen = "8080"', "HOST:PORT"]),
        ("[server]\nops = 'localhost:99999'", ["server.ops", "65535"]),
        ("[server]\nlisten = '127.0.0.1:8081'", ["server.ops", "same as server.listen"]),
        ("[server]\ntls_key = 'key.pem'", ["server.tls_certificate", "server.tls_key", "both"]),
        ("[server]\nallowed_origins = ['https://Example.org']", ["server.allowed_origins", "lower case"]),
        ("[server]\nallowed_origins = ['https://example.org/']", ["server.allowed_origins", "without a path"]),
        ("[server]\nallowed_origins = ['*']", ["server.allowed_origins", "https://chat.example.org"]),
        ("[limits]\nbatch_items = 500\nwriter_items = 100", ["limits.batch_items = 500", "limits.writer_items = 100"]),
        ("[presence]\nrenew_seconds = 40.0", ["presence.expiry_seconds = 60", "presence.renew_seconds = 40"]),
        ("[redis]\nurl = 'http://h'", ["redis.url", "redis://, rediss:// or unix://"]),
        ("[redis]\npassword_file = 'f'", ["redis.password_file", "redis.url"]),
        ("[auth]\nissuers = 3", ["auth.issuers", "[[auth.issuers]]"]),
        ("[[auth.issuers]]\nissuer = 'a'", ["auth.issuers[0].audience", "is missing"]),
        (ISSUER.replace("EdDSA", "HS256"), ["auth.issuers[0].algorithm", '"HS256"', '"EdDSA"']),
        (ISSUER + "algoritm = 1", ["auth.issuers[0].algoritm", "did you mean algorithm?"]),
        (ISSUER + ISSUER, ["auth.issuers", '"a" is named twice']),
        (ISSUER * 65, ["auth.issuers", "65", "at most 64"]),
        ("[limits]\ntiers = 3", ["limits.tiers", "[limits.tiers.NAME]"]),
        ("[limits.tiers]\npremium = 3", ["limits.tiers", "[limits.tiers.NAME]"]),
        ("[limits.tiers.Gold]", ['limits.tiers."Gold"', "a-z 0-9"]),
        ("[limits.tiers.gold]\nmessages_brust = 1", ["limits.tiers.gold.messages_brust", "did you mean messages_burst?"]),
        ("[limits.tiers.gold]\nmessages_burst = 0", ["limits.tiers.gold.messages_burst = 0", "from 1 to 1000000"]),
        ("[limits.tiers.gold]\nconnections = 5", ["limits.tiers.gold.connections", "no such option"]),
        ("".join(f"[limits.tiers.t{n}]\n" for n in range(65)), ["limits.tiers", "65", "at most 64"]),
        ("a =", ["not TOML"]),
        ("x = " + "[" * 5000, ["not TOML"]),
    ],
)
def test_an_error_names_the_file_the_key_the_value_and_what_is_allowed(
    tmp_path: Path, text: str, says: list[str]
) -> None:
    """Each kind of mistake is refused with a text from which it can be mended."""
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, text), {}, {})
    for part in says:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """No file, a directory, not text, too large: the path and the reason."""
    for content, reason in ((b"\xff", "not UTF-8 at byte 0"), (b"#" * 2_000_000, "larger than 1048576 bytes")):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"bad\.toml: {reason}"):
            load(tmp_path / "bad.toml", {}, {})
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=path.name):
            load(path, {}, {})


def test_an_environment_variable_sets_each_type() -> None:
    """Text, numbers, a truth value and a list, each from its text."""
    config = load(
        None,
        {
            "CHATD_SERVER_ALLOWED_ORIGINS": "https://a.example, https://b.example:8443",
            "CHATD_AUTH_OPEN_REGISTRATION": "false",
            "CHATD_LIMITS_CONNECTIONS": " 1500 ",
            "CHATD_DELIVERY_REPAIR_SECONDS": "1",
            "CHATD_LOG_FORMAT": "json",
        },
        {},
    )
    assert config.server.allowed_origins == ["https://a.example", "https://b.example:8443"]
    assert config.auth.open_registration is False
    assert (config.limits.connections, config.delivery.repair_seconds, config.log.format) == (1500, 1.0, "json")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CHATD_LIMITS_CONNECTIONS", "many"),
        ("CHATD_LIMITS_CONNECTIONS", ""),
        ("CHATD_AUTH_OPEN_REGISTRATION", "maybe"),
        ("CHATD_LOG_LEVEL", "INFO"),
        ("CHATD_AUTH_ISSUERS", "[]"),
        ("CHATD_LIMITS_TIERS", "{}"),
        ("CHATD_DELIVERY_REPAIR_SECONDS", "nan"),
    ],
)
def test_a_bad_environment_variable_is_named(variable: str, text: str) -> None:
    """Whoever set it looks for the variable, not for a key in a file."""
    with pytest.raises(ConfigError, match=f"^{variable}: "):
        load(None, {variable: text}, {})


def test_every_option_but_the_issuers_has_a_variable() -> None:
    """The list of variables is complete, and each of them is read: a value of the wrong kind is noticed."""
    assert len(set(variables())) == sum(line.count(" = ") for line in render(Config()).splitlines())
    numbers = [name for name in variables() if name.startswith(("CHATD_LIMITS_", "CHATD_DELIVERY_"))]
    for name in numbers:
        with pytest.raises(ConfigError, match=name):
            load(None, {name: "x"}, {})


def test_only_variables_that_look_like_an_option_are_suspect() -> None:
    """A mistyped option is told; what an orchestrator sets by itself is not, and neither is an error."""
    environ = {"CHATD_LIMITS_CONECTIONS": "5", "CHATD_SERVER_PORT": "tcp://10.0.0.1:80", "CHATD_REDIS_BIN": "valkey"}
    (sentence,) = unknown_variables(environ)
    assert "CHATD_LIMITS_CONECTIONS" in sentence
    assert "CHATD_LIMITS_CONNECTIONS?" in sentence
    assert load(None, environ, {}) == Config()


def test_what_is_printed_is_read_back_as_the_same(tmp_path: Path) -> None:
    """The output of check-config is a configuration file."""
    config = load(
        written(tmp_path, ISSUER + "[limits.tiers.'a.b']\nmessages_burst = 9\n[limits.tiers.free]\n"),
        {"CHATD_SERVER_ALLOWED_ORIGINS": "https://a.example"}, {"store.data": 'ü "\\\n'}
    )
    assert load(written(tmp_path, render(config)), {}, {}) == config


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hunter2@host:6379/1",
        "rediss://:hunter2@host",
        "redis://u:a@hunter2@host",
        "redis://host?password=hunter2",
        "redis://host?passw%6Frd=hunter2",
        "user:hunter2@host:6379",
        "http://u:hunter2@host",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    """Neither check-config nor an error about the address repeats the password in it."""
    try:
        shown = render(load(None, {"CHATD_REDIS_URL": url}, {}))
    except ConfigError as fault:
        shown = str(fault)
    assert "redis.url" in shown or "[redis]" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("url", "file", "shown"),
    [
        ("redis://chatd:hunter2@host:1", "", "redis://chatd@host:1"), ("redis://chatd@host", "secret", "redis://chatd@host"),
        ("redis://hunter2@host", "", "redis://host"), ("redis://:hunter2@host", "", "redis://@host"),
    ],
)  # fmt: skip
def test_the_user_of_redis_is_shown(url: str, file: str, shown: str) -> None:
    """Where it cannot be a password that stands in its place."""
    environ = {"CHATD_REDIS_URL": url, "CHATD_REDIS_PASSWORD_FILE": file}
    assert f'url = "{shown}"' in render(load(None, environ, {}))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8080", "127.0.0.1", 8080), ("[::1]:0", "::1", 0), ("localhost:1", "localhost", 1)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    """A name, an IPv4 and a bracketed IPv6 address, each with its port."""
    assert split_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", ":", ":80", "a", "a:", "a:b", "a:65536", "a:-1", "::1:80", "[a]:80", "a:٣", "[]:1"]
)
def test_no_addresses(text: str) -> None:
    """Anything else is refused with an example of what is meant."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:8080"):
        split_address(text)


def test_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As named, or in the user's data home; a relative XDG_DATA_HOME is ignored, as its specification says."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_dir_of(Config(), {"XDG_DATA_HOME": "/srv/data"}) == Path("/srv/data/chatd")
    assert data_dir_of(Config(), {"XDG_DATA_HOME": "data"}) == tmp_path / ".local/share/chatd"
    assert data_dir_of(Config(), {}) == tmp_path / ".local/share/chatd"
    assert data_dir_of(load(None, {}, {"store.data": "~/here"}), {}) == tmp_path / "here"
    assert data_dir_of(load(None, {}, {"store.data": "here"}), {}).is_absolute()
    monkeypatch.setattr("sys.platform", "darwin")
    assert data_dir_of(Config(), {}) == tmp_path / "Library/Application Support/chatd"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(), st.text())
    | st.sampled_from(list(variables())).flatmap(lambda name: st.fixed_dictionaries({name: st.text()}))
)
def test_no_environment_does_more_than_be_refused(environ: dict[str, str]) -> None:
    """Whatever stands in the variables: a configuration or ConfigError, and nothing else."""
    with suppress(ConfigError):
        assert isinstance(load(None, environ, {}), Config)
