"""The guards of who is let in: tokens, passwords, devices, origins."""

from __future__ import annotations

from tests.guards.guard import Guard, tests_in

TOKENS = "chatd/accounts/tokens.py"
SERVICE = "chatd/accounts/service.py"
PASSWORDS = "chatd/accounts/passwords.py"
ACCESS = "chatd/adapters/sqlite/access.py"
HEAD = "chatd/listener/head.py"
SESSION = "chatd/sessions/session.py"

TOKEN_TESTS = "tests/accounts/test_tokens.py"
SERVICE_TESTS = "tests/accounts/test_accounts_service.py"
PASSWORD_TESTS = "tests/accounts/test_passwords.py"
DEVICES = "tests/store/test_sqlite.py::TestSqliteDevices"
BOUNDS = "tests/sessions/test_bounds.py"

SIGNATURES = (
    Guard(
        "a token is signed", TOKENS,
        '"require": ["iss", "aud", "exp", "sub"],', '"require": ["iss", "aud", "exp", "sub"], "verify_signature": False,',
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "a token is signed by its issuer's own algorithm", TOKENS,
        "algorithms=[trusted.algorithm],", "algorithms=sorted({OWN_ALGORITHM, 'HS384', 'HS512', *OUTSIDE_ALGORITHMS}),",
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "a token is for this server", TOKENS,
        'if payload["aud"] not in (trusted.audience, [trusted.audience]):', "if False:",
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "a token has an end", TOKENS,
        "if expires + LEEWAY_MS <= now:", "if False:",
        tests_in(TOKEN_TESTS, "test_issued_is_verified"),
    ),
    Guard(
        "a token's end is near", TOKENS,
        "if expires > now + proven.max_lifetime_ms + LEEWAY_MS:", "if False:",
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "a token has begun", TOKENS,
        "if proven.not_before_ms > now + LEEWAY_MS:", "if False:",
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "a token is an access token", TOKENS,
        "if not isinstance(kind, str) or kind.lower() not in trusted.types:", "if not isinstance(kind, str):",
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "a token has no critical header that is not known", TOKENS,
        'if "crit" in header or "b64" in header:', "if False:",
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "a token names a user as names are", TOKENS,
        "if not isinstance(user, str) or _NAME.fullmatch(user) is None:", "if not isinstance(user, str):",
        tests_in(TOKEN_TESTS, "test_refused"),
    ),
    Guard(
        "I9: a token is so long", TOKENS,
        "if len(token) > MAX_TOKEN_CHARS:", "if False:",
        tests_in(TOKEN_TESTS, "test_a_long_token_is_not_looked_at"),
    ),
    Guard(
        "I9: so many tokens are remembered", TOKENS,
        "if len(self._proven) > MAX_PROVEN:", "if False:",
        tests_in(TOKEN_TESTS, "test_remembered_tokens_are_bounded"),
    ),
    Guard(
        "a remembered token is judged by the clock", TOKENS,
        "proven = self._proven.get(name) or self._verified(token)\n            _check_times(proven, now)",
        "proven = self._proven.get(name)\n            if proven is None:\n                proven = self._verified(token)\n"
        "                _check_times(proven, now)",
        tests_in(TOKEN_TESTS, "test_a_remembered_token_is_judged_by_the_clock"),
    ),
    Guard(
        "a remembered token vouches for itself alone", TOKENS,
        "name = sha256(token.encode()).digest()", 'name = sha256(token.rpartition(".")[0].encode()).digest()',
        tests_in(TOKEN_TESTS, "test_a_remembered_token_vouches_for_itself_alone"),
    ),
    Guard(
        "an issuer's RSA key is not a short one", TOKENS,
        " and key.key_size >= MIN_RSA_BITS:", ":",
        tests_in(TOKEN_TESTS, "test_bad_issuer"),
    ),
    Guard(
        "nobody else speaks as chatd", TOKENS,
        "if outside.issuer in self._trusted:", "if False:",
        tests_in(TOKEN_TESTS, "test_issuers_are_distinct"),
    ),
    Guard(
        "whatever a token makes its verifier raise, it is a bad one", "chatd/sessions/actor.py",
        "except Exception as fault:  # noqa: BLE001", "except ZeroDivisionError as fault:",
        tests_in(BOUNDS, "test_a_token_that_its_verifier_dies_of_is_a_bad_one"),
    ),
)

REVOCATION = (
    Guard(
        "a token that was taken back opens nothing", ACCESS,
        'return good and self._cache.one("SELECT 1 FROM revoked WHERE token = ?", opening.token) is None', "return good",
        tests_in(DEVICES, "test_a_revoked_token_opens_nothing"),
    ),
    Guard(
        "a token that was taken back tells nothing", SERVICE,
        "return older or await self._store.revoked(claims.token_id)", "return older",
        tests_in(SERVICE_TESTS, "test_whom_a_token_stands_for"),
    ),
    Guard(
        "a token of the password before opens nothing", ACCESS,
        "opening.generation == generation", "opening.generation <= generation",
        tests_in(DEVICES, "test_a_new_password_ends_all_but_one"),
    ),
    Guard(
        "a token of the password before tells nothing", SERVICE,
        "older = issued_before if claims.outside else claims.generation != account.generation",
        "older = issued_before and claims.outside",
        tests_in(SERVICE_TESTS, "test_whom_a_token_stands_for"),
    ),
    Guard(
        "an outside token from before a new password opens nothing", ACCESS,
        "opening.issued >= after", "opening.issued >= 0",
        tests_in(DEVICES, "test_an_outside_token_before_a_new_password"),
    ),
    Guard(
        "a token has one name, however its signature is written", TOKENS,
        'return sha256(token.rpartition(".")[0].encode()).digest()[:16]', "return sha256(token.encode()).digest()[:16]",
        tests_in(TOKEN_TESTS, "test_a_token_has_one_name"),
    ),
    Guard(
        "each token is another one", TOKENS,
        '            "jti": secrets.token_urlsafe(9),\n', "",
        tests_in(TOKEN_TESTS, "test_each_token_is_another_one"),
    ),
    Guard(
        "with a token that is taken back its other sessions end", ACCESS,
        "ended = self._end([device, *sharing])", "ended = self._end([device])",
        tests_in(DEVICES, "test_a_session_ends_with_its_token"),
    ),
    Guard(
        "I9: what a sign-out must find is bounded", ACCESS,
        "if surplus:", "if False:",
        tests_in(DEVICES, "test_too_many_tokens_take_the_oldest_back"),
    ),
    Guard(
        "a sign-out forgets the cursors", ACCESS,
        '        execute("DELETE FROM cursors WHERE device = ?", (device.no,))\n', "",
        tests_in(DEVICES, "test_a_signed_out_device_comes_back_as_a_new_one"),
    ),
    Guard(
        "a session ends with its token", SESSION,
        "elif self.expires_at and now_ms >= self.expires_at:", "elif False:",
        tests_in(BOUNDS, "test_the_end_of_its_token_ends_a_session"),
    ),
)

PASSWORD = (
    Guard(
        "a password is hashed within its bounds alone", PASSWORDS,
        "if not MIN_CHARS <= len(password) <= MAX_CHARS:", "if not MIN_CHARS <= len(password):",
        tests_in(PASSWORD_TESTS, "test_bounds_before_hashing"),
    ),
    Guard(
        "a name that is not there costs a hash, too", PASSWORDS,
        "try:\n            self._hasher.verify(password_hash or self._nobodys_hash, secret)",
        "if not password_hash:\n            return False\n        try:\n"
        "            self._hasher.verify(password_hash, secret)",
        tests_in(PASSWORD_TESTS, "test_unknown_user_costs_a_hash"),
    ),
    Guard(
        "I9: so many wait for a hash", PASSWORDS,
        "if self._taken >= self._places:", "if False:",
        tests_in(PASSWORD_TESTS, "test_queue_ends"),
    ),
    Guard(
        "a wrong password is wrong", SERVICE,
        "if account is None or not right:", "if account is None:",
        tests_in(SERVICE_TESTS, "test_strangers_learn_nothing"),
    ),
    Guard(
        "a sign-in under way gets a token of the password that it was checked against", SERVICE,
        "account.generation))\n\n    async def change", "(await self._account(name)).generation))\n\n    async def change",
        tests_in(SERVICE_TESTS, "test_a_sign_in_under_way_gets_a_token_of_the_past"),
    ),
    Guard(
        "a new password needs the one before, at that moment", ACCESS,
        "row is None or change.old_hash not in (None, row[1])", "row is None",
        tests_in(DEVICES, "test_a_new_password_needs_the_one_before"),
    ),
    Guard(
        "a rehash brings no old password back", ACCESS,
        "WHERE name = ?1 AND password_hash = ?2", "WHERE name = ?1 AND ?2 <> ''",
        tests_in(DEVICES, "test_a_rehash_changes_no_password"),
    ),
    Guard(
        "closed registration is closed", SERVICE,
        "if not self._open_registration:", "if False:",
        tests_in(SERVICE_TESTS, "test_closed_registration"),
    ),
    Guard(
        "names are as names are", SERVICE,
        "if not is_name(name):", "if False:",
        tests_in(SERVICE_TESTS, "test_bad_names"),
    ),
    Guard(
        "a user who is not there opens nothing with a token of chatd's own", ACCESS,
        "if not opening.create_user:", "if False:",
        tests_in("tests/store/test_sqlite.py::TestSqlite", "test_accounts_blocks_and_devices"),
    ),
    Guard(
        "I9: a user has so many devices", ACCESS,
        '"SELECT count(*) FROM devices WHERE user = ? AND NOT gone", user)[0] >= self._max_devices:',
        '"SELECT count(*) FROM devices WHERE user = ? AND NOT gone", user)[0] < 0:',
        tests_in(DEVICES, "test_gone_devices_do_not_count"),
    ),
)

BEFORE = (
    Guard(
        "nothing is served before the hello", "protocol/chatd_protocol/transitions.py",
        "if following is None:\n            raise OutOfPlace(self.state, t)", "if following is None:\n            return",
        tests_in(BOUNDS, "test_nothing_is_served_before_the_hello"),
    ),
    Guard(
        "who says something else first is closed", SESSION,
        "            if self._machine.state is State.CONNECTED:\n                self.end(codes.HELLO_EXPECTED)\n"
        "            else:\n                self._refuse_message",
        "            if True:\n                self._refuse_message",
        tests_in(BOUNDS, "test_nothing_is_served_before_the_hello"),
    ),
    Guard(
        "who says no hello is closed", "chatd/sessions/actor.py",
        "with trio.move_on_after(node.hello_seconds):", "with trio.move_on_after(3600):",
        tests_in(BOUNDS, "test_who_says_no_hello_is_told_so_and_closed"),
    ),
    Guard(
        "pages of other origins do not connect", "chatd/listener/listener.py",
        "if not origin_allowed(head, self._allowed_origins, host):", "if False:",
        tests_in("tests/http/test_listener.py", "test_whose_pages_may_connect"),
    ),
    Guard(
        "origins are compared whole", HEAD,
        "if origin in allowed_origins:", "if any(origin.startswith(allowed) for allowed in allowed_origins):",
        tests_in("tests/http/test_head.py", "test_origins"),
    ),
    Guard(
        "one's own host is one's own port, too", HEAD,
        'origin in (f"https://{own_host.lower()}", f"http://{own_host.lower()}")',
        'origin.partition("://")[2].split(":")[0] == own_host.split(":")[0]',
        tests_in("tests/http/test_head.py", "test_origins"),
    ),
    Guard(
        "pages of other origins read no answer", "chatd/listener/routes.py",
        'if origin is not None and origin.isascii() and origin.decode("ascii") in origins else None',
        "if origin is not None and origin.isascii() else None",
        tests_in("tests/http/test_routes.py", "test_cors"),
    ),
    Guard(
        "a form of another page is no request", "chatd/listener/routes.py",
        'if media_type != b"application/json":', "if False:",
        tests_in("tests/http/test_routes.py", "test_content_type"),
    ),
    Guard(
        "operators' pages are on the operators' port alone", "chatd/listener/routes.py",
        '"/": {"GET": _front_page},', '"/": {"GET": _front_page}, "/metrics": {"GET": _front_page},',
        tests_in("tests/http/test_routes.py", "test_paths_and_methods"),
    ),
)

SECRETS = (
    Guard(
        "a Redis password is in no text", "chatd/adapters/redis/address.py",
        "password: str | None = field(default=None, repr=False)", "password: str | None = None",
        tests_in("tests/redis/test_address.py", "test_the_password_is_never_shown"),
    ),
    Guard(
        "a password in redis.url is not shown", "chatd/config.py",
        'if (name, key) != ("redis", "url") or not isinstance(value, str) or not value:', "if name:",
        tests_in("tests/config/test_config_load.py", "test_a_password_is_never_shown"),
    ),
    Guard(
        "a traceback in the log shows no variables", "chatd/logs.py",
        "exception_formatter=structlog.dev.plain_traceback,",
        "exception_formatter=lambda out, exc: [structlog.dev.plain_traceback(out, exc),"
        " out.write(repr(exc[2].tb_next.tb_frame.f_locals))],",
        tests_in("tests/config/test_logs.py", "test_no_local_variables_in_tracebacks"),
    ),
    Guard(
        "an operator's terminal obeys no name", "chatd/logs.py",
        "repr_native_str=True", "repr_native_str=False",
        tests_in("tests/config/test_logs.py", "test_the_console_obeys_no_escape_sequence"),
    ),
    Guard(
        "a log that cannot be written ends nothing", "chatd/logs.py",
        "with suppress(OSError, ValueError):", "with suppress(ZeroDivisionError):",
        tests_in("tests/config/test_logs.py", "test_logging_fails_nobody"),
    ),
    Guard(
        "the embedded Redis is in a directory of one's own", "chatd/adapters/valkey/program.py",
        "if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:",
        "if False:",
        tests_in("tests/redis/test_embedded_valkey.py", "test_a_directory_of_somebody_elses_is_refused"),
    ),
    Guard(
        "in a shared Redis chatd's user has its own keys alone", "docs/redis.acl",
        "resetkeys ~chatd:*", "allkeys",
        tests_in("tests/redis/test_acl.py", "test_and_with_no_others"),
    ),
    Guard(
        "in a shared Redis chatd's user has the commands that it needs alone", "docs/redis.acl",
        " nocommands ", " allcommands ",
        tests_in("tests/redis/test_acl.py", "test_and_with_no_others"),
    ),
)
