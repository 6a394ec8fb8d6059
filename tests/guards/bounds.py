"""The guards of what one user, one address or one node may take: rates and mailboxes."""

from __future__ import annotations

from tests.guards.guard import Guard, tests_in

SESSION = "chatd/sessions/session.py"
LEASE = "chatd/limits/lease.py"
LIMITER = "chatd/limits/limiter.py"
ADDRESSES = "chatd/limits/addresses.py"
BUCKET = "chatd/limits/bucket.py"
LUA = "chatd/adapters/redis/limits.lua"
WRITER = "chatd/store/writer.py"
MAILBOX = "chatd/sessions/mailbox.py"

ALONE = "tests/sessions/test_bounds.py"
LEASES = "tests/limits/test_lease.py"
LIMITERS = "tests/limits/test_limiter.py"
SHARED = "tests/limits/test_redis_limits.py"
BUCKETS = "tests/http/test_buckets.py"

RATES = (
    Guard(
        "messages: so often", SESSION,
        "if wait := self.limits.messages.take(self.last_heard):", "if wait := 0.0:",
        tests_in(ALONE, "test_messages_beyond_the_rate_are_refused"),
    ),
    Guard(
        "typing, watch: so often", SESSION,
        "if wait := self._signals.take(self.last_heard, signal_cost(message)):", "if wait := 0.0:",
        tests_in(ALONE, "test_signals_beyond_the_rate_are_refused"),
    ),
    Guard(
        "searches: so often", "chatd/sessions/requests.py",
        "if type(message) in _SEARCHES:", "if False:",
        tests_in(ALONE, "test_searches_beyond_the_rate_are_refused"),
    ),
    Guard(
        "frames of any kind: so often", SESSION,
        "if not self._charge(len(received) + self._parser.pieces):", "if False:",
        tests_in(ALONE, "test_frames_beyond_the_rate_end_the_session"),
    ),
    Guard(
        "fragments count as frames", SESSION,
        "len(received) + self._parser.pieces", "len(received)",
        tests_in(ALONE, "test_fragments_are_frames"),
    ),
    Guard(
        "frames before the hello: so many", "chatd/sessions/allowance.py",
        "return TokenBucket(GREETING_PER_SECOND, GREETING_BURST)", "return TokenBucket(1e6, 1e6)",
        tests_in(ALONE, "test_frames_before_the_hello_are_few"),
    ),
    Guard(
        "a flood does not begin anew with the next session", "chatd/sessions/actor.py",
        "if identity is not None and (wait := node.floods.wait(identity.user, trio.current_time())):", "if wait := 0.0:",
        tests_in(ALONE, "test_a_flood_does_not_begin_anew_with_the_next_session"),
    ),
    Guard(
        "what takes as long to read as many frames counts as many", SESSION,
        "if weight > ITEMS_A_FRAME and not self._charge(weight // ITEMS_A_FRAME):", "if False:",
        tests_in(ALONE, "test_a_message_of_many_items_counts_as_many_frames"),
    ),
    Guard(
        "sign-ins, sign-ups: so often from one address", "chatd/listener/routes.py",
        "if verdict.wait_s > 0:", "if False:",
        tests_in("tests/http/test_routes.py", "test_limits_per_address"),
    ),
    Guard(
        "changes of a password are counted as sign-ins", "chatd/listener/routes.py",
        "self._limited(Operation.SIGN_IN, request, self._change_password, PasswordChange)",
        "self._limited(Operation.API, request, self._change_password, PasswordChange)",
        tests_in("tests/http/test_password.py", "test_guesses_are_limited_together"),
    ),
    Guard(
        "sign-ins fail closed while Redis is away", ADDRESSES,
        "if operation is Operation.SIGN_IN and not self._one_more(address, rule):", "if False:",
        tests_in(LIMITERS, "test_sign_ins_fail_closed"),
    ),
    Guard(
        "an address is limited on its node alone, too", ADDRESSES,
        "wait = bucket.take(now)", "wait = 0.0",
        tests_in("tests/http/test_routes.py", "test_limits_per_address"),
    ),
    Guard(
        "all of an IPv6 customer is one address", BUCKET,
        "return str(ipaddress.IPv6Network((ip, 64), strict=False))", "return str(ip)",
        tests_in(BUCKETS, "test_address_keys"),
    ),
    Guard(
        "IPv4 in IPv6 is the IPv4 address", BUCKET,
        "if ip.ipv4_mapped is not None:", "if False:",
        tests_in(BUCKETS, "test_address_keys"),
    ),
    Guard(
        "a bucket gives what it has", BUCKET,
        "if tokens >= wanted:", "if tokens >= wanted - 1:",
        tests_in(BUCKETS, "test_burst_then_rate"),
    ),
    Guard(
        "a bucket gains no more than its burst", BUCKET,
        "            if tokens > burst:\n                tokens = burst\n", "",
        tests_in(BUCKETS, "test_a_pause_gives_no_more_than_the_burst"),
    ),
    Guard(
        "a clock that goes back gives nothing", BUCKET,
        "if at is not None and now > at and tokens < burst:", "if at is not None and tokens < burst:",
        tests_in(BUCKETS, "test_clock_going_back_gives_nothing"),
    ),
)

SHARED_RATES = (
    Guard(
        "one limit on all nodes: a lease that has expired is not spent", LEASE,
        "if now >= self._trusted_until:", "if False:",
        tests_in(LEASES, "test_a_lease_that_has_expired_is_not_spent"),
    ),
    Guard(
        "one limit on all nodes: what Redis has forgotten is void", LEASE,
        "if grant.kept:", "if True:",
        tests_in(LEASES, "test_what_redis_has_forgotten_is_void"),
    ),
    Guard(
        "one limit on all nodes: what is handed back is gone here", LEASE,
        "self._sent = self._balance = keep", "self._sent = self._balance = held",
        tests_in(LEASES, "test_a_node_that_comes_later_gets_its_share"),
    ),
    Guard(
        "one limit on all nodes: a report that was overtaken changes nothing", LUA,
        "if not (record and record.number > number) then", "if true then",
        tests_in(SHARED, "test_an_overtaken_report_changes_nothing"),
    ),
    Guard(
        "one limit on all nodes: tokens without a record are none", LUA,
        "        give = math.min(give, math.max(0, had - balance))\n", "",
        tests_in(SHARED, "test_tokens_without_a_record_are_void"),
    ),
    Guard(
        "one limit on all nodes: what is lent is not gained again", LUA,
        "bucket.x = math.min(burst - bucket.lent, bucket.x", "bucket.x = math.min(burst, bucket.x",
        tests_in(SHARED, "test_the_bucket_does_not_fill_above_what_is_lent"),
    ),
    Guard(
        "a window has its limit", LUA,
        "used + wanted <= limit, 0, 0", "true, 0, 0",
        tests_in(SHARED, "test_a_window_counts_to_its_limit"),
    ),
    Guard(
        "a window slides", LUA,
        "if number < oldest or number > slot + SLOTS then", "if false then",
        tests_in(SHARED, "test_a_window_slides"),
    ),
    Guard(
        "nothing stays in Redis for ever", LUA,
        "    redis.call('PEXPIRE', keys[1], string.format('%.0f', (window + 2 * width) / 1000))\n", "",
        tests_in(SHARED, "test_everything_expires"),
    ),
    Guard(
        "who comes back without Redis has what was left", LIMITER,
        "self._keep(lease)", "pass",
        tests_in(LIMITERS, "test_who_reconnects_without_redis_begins_with_what_was_left"),
    ),
    Guard(
        "a Redis that does not answer is left alone", "chatd/limits/breaker.py",
        "        if now < self._until:\n            return False\n", "",
        tests_in("tests/limits/test_breaker.py", "test_five_failures_in_a_row_open_it_for_thirty_seconds"),
    ),
    Guard(
        "a Redis that hangs holds no hello up", LIMITER,
        "ASK_SECONDS = 0.5", "ASK_SECONDS = 1000.0",
        tests_in(LIMITERS, "test_a_call_that_never_ends_holds_no_session_up"),
    ),
)

MAILBOXES = (
    Guard(
        "the writer's mailbox has so many operations", WRITER,
        "or len(self._mailbox) >= self._max_items or self._bytes + size", "or self._bytes + size",
        tests_in("tests/store/test_writer.py", "test_so_many_operations_wait"),
    ),
    Guard(
        "the writer's mailbox has so many bytes", WRITER,
        " or self._bytes + size > self._max_bytes:", ":",
        tests_in("tests/store/test_writer.py", "test_names_are_weighed"),
    ),
    Guard(
        "who drains takes nothing more", WRITER,
        "if self._closed or len(", "if len(",
        tests_in("tests/store/test_writer.py", "test_so_many_operations_wait"),
    ),
    Guard(
        "a full writer is told to the sender", SESSION,
        "if not self._node.writer.submit(operation, self._send_settled):",
        "self._node.writer.submit(operation, self._send_settled)\n        if False:",
        tests_in(ALONE, "test_a_full_writer_is_told"),
    ),
    Guard(
        "a session's mailbox has so many requests", MAILBOX,
        "(len(self._requests) >= self._most or self._bytes", "(self._bytes",
        tests_in("tests/sessions/test_mailbox.py", "test_it_is_full_by_number_and_by_bytes_and_has_room_again"),
    ),
    Guard(
        "a session's mailbox has so many bytes", MAILBOX,
        " or self._bytes >= REQUESTS_BYTES)", ")",
        tests_in("tests/sessions/test_mailbox.py", "test_it_is_full_by_bytes"),
    ),
    Guard(
        "a session's mailbox has so many conversations", MAILBOX,
        "if len(self._began) < MAX_BEGAN:", "if True:",
        tests_in("tests/sessions/test_mailbox.py", "test_it_is_full_by_number_and_by_bytes_and_has_room_again"),
    ),
    Guard(
        "what is no message counts as many frames", SESSION,
        "                self._charge(MALFORMED_FRAMES)\n", "                pass\n",
        tests_in(ALONE, "test_what_is_no_message_counts_as_many_frames"),
    ),
    Guard(
        "who has too many sends under way is not read", SESSION,
        "if self._in_flight >= self._most_sends():", "if False:",
        tests_in(ALONE, "test_who_has_too_much_under_way_is_not_read"),
    ),
    Guard(
        "what was read from the socket waits, too", SESSION,
        "            if self._paused:\n                self._unhandled = received[place:]\n                return\n", "",
        tests_in(ALONE, "test_what_was_read_waits_until_there_is_room"),
    ),
    Guard(
        "the fuller the mailbox, the less of each session", "chatd/store/writer.py",
        "self.inflight_share = empty * empty", "self.inflight_share = 1.0",
        tests_in("tests/store/test_writer.py", "test_the_fuller_the_mailbox_the_less_of_each"),
    ),
    Guard(
        "a fault in what had waited ends that session alone", SESSION,
        """            log.exception("session.failed")
            self.link.abort()
            return
""", "            raise\n",
        tests_in(ALONE, "test_a_fault_in_what_had_waited_ends_its_session_alone"),
    ),
    Guard(
        "who has too many requests waiting is not read", SESSION,
        "self._mailbox.put(request, size)\n        self._pace()", "self._mailbox.put(request, size)",
        tests_in(ALONE, "test_who_asks_faster_than_is_answered_is_not_read"),
    ),
    Guard(
        "who does not read is cut", SESSION,
        "self.end(codes.SLOW_CONSUMER, retry_after_ms=1000, cut=True)",
        "self.end(codes.SLOW_CONSUMER, retry_after_ms=1000)",
        tests_in(ALONE, "test_who_does_not_read_is_cut"),
    ),
    Guard(
        "who stops reading a replay is cut", "chatd/sessions/replay.py",
        "STALL_SECONDS) as scope:", "100 * STALL_SECONDS) as scope:",
        tests_in(ALONE, "test_who_stops_reading_a_replay_is_cut"),
    ),
    Guard(
        "who is silent is taken for dead", SESSION,
        "elif now - self.last_heard > silence and not self._paused:", "elif False:",
        tests_in(ALONE, "test_silence_ends_a_session"),
    ),
    Guard(
        "a message comes within its time", SESSION,
        "if self._partial_since and not self._paused and now - self._partial_since > FRAGMENT_SECONDS:", "if False:",
        tests_in(ALONE, "test_a_message_that_takes_too_long_ends_the_session"),
    ),
    Guard(
        "... whatever comes between its fragments", SESSION,
        "elif not self._partial_since or any(opcode < frames.CLOSE for opcode, _ in received):",
        "elif not self._partial_since or received:",
        tests_in(ALONE, "test_a_message_that_takes_too_long_ends_the_session"),
    ),
    Guard(
        "a fault in a session ends that session alone", "chatd/sessions/actor.py",
        'except Exception:\n        log.exception("session.failed"',
        'except ZeroDivisionError:\n        log.exception("session.failed"',
        tests_in(ALONE, "test_a_fault_in_a_session_ends_it_alone"),
    ),
)
