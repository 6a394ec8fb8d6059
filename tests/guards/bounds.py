"""The guards of what one user, one address or one node may take: rates, mailboxes, tables, pages."""

from __future__ import annotations

from tests.guards.guard import Guard, tests

SESSION = "chatd/sessions/session.py"
LEASE = "chatd/limits/lease.py"
LIMITER = "chatd/limits/limiter.py"
ADDRESSES = "chatd/limits/addresses.py"
BUCKET = "chatd/limits/bucket.py"
LUA = "chatd/adapters/redis/limits.lua"
WRITER = "chatd/store/writer.py"
MAILBOX = "chatd/sessions/mailbox.py"
TOPIC = "chatd/delivery/topic.py"
READS = "chatd/adapters/sqlite/reads.py"
QUERY = "chatd/store/query.py"
REDIS = "chatd/adapters/redis/link.py"

ALONE = "tests/sessions/test_bounds.py"
LEASES = "tests/limits/test_lease.py"
LIMITERS = "tests/limits/test_limiter.py"
SHARED = "tests/limits/test_redis_limits.py"
BUCKETS = "tests/http/test_buckets.py"
CONTRACT = "tests/store/test_sqlite.py::TestSqlite"
LINKS = "tests/redis/test_link.py"

RATES = (
    Guard(
        "messages: so often", SESSION,
        "if wait := self.limits.messages.take(self.last_heard):", "if wait := 0.0:",
        tests(ALONE, "test_messages_beyond_the_rate_are_refused"),
    ),
    Guard(
        "typing, watch: so often", SESSION,
        "if wait := self._signals.take(self.last_heard, signal_cost(message)):", "if wait := 0.0:",
        tests(ALONE, "test_signals_beyond_the_rate_are_refused"),
    ),
    Guard(
        "searches: so often", "chatd/sessions/requests.py",
        "if type(message) in _SEARCHES:", "if False:",
        tests(ALONE, "test_searches_beyond_the_rate_are_refused"),
    ),
    Guard(
        "frames of any kind: so often", SESSION,
        "if wait := self._flood.take(self.last_heard, len(received) + self._parser.pieces):", "if wait := 0.0:",
        tests(ALONE, "test_frames_beyond_the_rate_end_the_session"),
    ),
    Guard(
        "fragments count as frames", SESSION,
        "len(received) + self._parser.pieces", "len(received)",
        tests(ALONE, "test_fragments_are_frames"),
    ),
    Guard(
        "frames before the hello: so many", "chatd/sessions/allowance.py",
        "return TokenBucket(GREETING_PER_SECOND, GREETING_BURST)", "return TokenBucket(1e6, 1e6)",
        tests(ALONE, "test_frames_before_the_hello_are_few"),
    ),
    Guard(
        "a flood does not begin anew with the next session", "chatd/sessions/actor.py",
        "if identity is not None and (wait := node.floods.wait(identity.user, trio.current_time())):", "if wait := 0.0:",
        tests(ALONE, "test_a_flood_does_not_begin_anew_with_the_next_session"),
    ),
    Guard(
        "what takes as long to read as many frames counts as many", SESSION,
        "if weight > ITEMS_A_FRAME and (wait := self._flood.take(self.last_heard, weight // ITEMS_A_FRAME)):", "if wait := 0.0:",
        tests(ALONE, "test_a_message_of_many_items_counts_as_many_frames"),
    ),
    Guard(
        "sign-ins, sign-ups: so often from one address", "chatd/listener/routes.py",
        "if verdict.wait_s > 0:", "if False:",
        tests("tests/http/test_routes.py", "test_limits_per_address"),
    ),
    Guard(
        "changes of a password are counted as sign-ins", "chatd/listener/routes.py",
        "self._limited(Operation.SIGN_IN, request, self._change_password, PasswordChange)",
        "self._limited(Operation.API, request, self._change_password, PasswordChange)",
        tests("tests/http/test_password.py", "test_guesses_are_limited_together"),
    ),
    Guard(
        "sign-ins fail closed while Redis is away", ADDRESSES,
        "if operation is Operation.SIGN_IN and not self._one_more(address, rule):", "if False:",
        tests(LIMITERS, "test_sign_ins_fail_closed"),
    ),
    Guard(
        "an address is limited on its node alone, too", ADDRESSES,
        "wait = bucket.take(now)", "wait = 0.0",
        tests("tests/http/test_routes.py", "test_limits_per_address"),
    ),
    Guard(
        "all of an IPv6 customer is one address", BUCKET,
        "return str(ipaddress.IPv6Network((ip, 64), strict=False))", "return str(ip)",
        tests(BUCKETS, "test_address_keys"),
    ),
    Guard(
        "IPv4 in IPv6 is the IPv4 address", BUCKET,
        "if ip.ipv4_mapped is not None:", "if False:",
        tests(BUCKETS, "test_address_keys"),
    ),
    Guard(
        "a bucket gives what it has", BUCKET,
        "if tokens >= wanted:", "if tokens >= wanted - 1:",
        tests(BUCKETS, "test_burst_then_rate"),
    ),
    Guard(
        "a bucket gains no more than its burst", BUCKET,
        "            if tokens > burst:\n                tokens = burst\n", "",
        tests(BUCKETS, "test_a_pause_gives_no_more_than_the_burst"),
    ),
    Guard(
        "a clock that goes back gives nothing", BUCKET,
        "if at is not None and now > at and tokens < burst:", "if at is not None and tokens < burst:",
        tests(BUCKETS, "test_clock_going_back_gives_nothing"),
    ),
)

SHARED_RATES = (
    Guard(
        "one limit on all nodes: a lease that has expired is not spent", LEASE,
        "if now >= self._trusted_until:", "if False:",
        tests(LEASES, "test_a_lease_that_has_expired_is_not_spent"),
    ),
    Guard(
        "one limit on all nodes: what Redis has forgotten is void", LEASE,
        "if grant.kept:", "if True:",
        tests(LEASES, "test_what_redis_has_forgotten_is_void"),
    ),
    Guard(
        "one limit on all nodes: what is handed back is gone here", LEASE,
        "self._sent = self._balance = keep", "self._sent = self._balance = held",
        tests(LEASES, "test_a_node_that_comes_later_gets_its_share"),
    ),
    Guard(
        "one limit on all nodes: a report that was overtaken changes nothing", LUA,
        "if not (record and record.number > number) then", "if true then",
        tests(SHARED, "test_an_overtaken_report_changes_nothing"),
    ),
    Guard(
        "one limit on all nodes: tokens without a record are none", LUA,
        "        give = math.min(give, math.max(0, had - balance))\n", "",
        tests(SHARED, "test_tokens_without_a_record_are_void"),
    ),
    Guard(
        "one limit on all nodes: what is lent is not gained again", LUA,
        "bucket.x = math.min(burst - bucket.lent, bucket.x", "bucket.x = math.min(burst, bucket.x",
        tests(SHARED, "test_the_bucket_does_not_fill_above_what_is_lent"),
    ),
    Guard(
        "a window has its limit", LUA,
        "used + wanted <= limit, 0, 0", "true, 0, 0",
        tests(SHARED, "test_a_window_counts_to_its_limit"),
    ),
    Guard(
        "a window slides", LUA,
        "if number < oldest or number > slot + SLOTS then", "if false then",
        tests(SHARED, "test_a_window_slides"),
    ),
    Guard(
        "nothing stays in Redis for ever", LUA,
        "    redis.call('PEXPIRE', keys[1], string.format('%.0f', (window + 2 * width) / 1000))\n", "",
        tests(SHARED, "test_everything_expires"),
    ),
    Guard(
        "who comes back without Redis has what was left", LIMITER,
        "self._keep(lease)", "pass",
        tests(LIMITERS, "test_who_reconnects_without_redis_begins_with_what_was_left"),
    ),
    Guard(
        "a Redis that does not answer is left alone", "chatd/limits/breaker.py",
        "        if now < self._until:\n            return False\n", "",
        tests("tests/limits/test_breaker.py", "test_five_failures_in_a_row_open_it_for_thirty_seconds"),
    ),
    Guard(
        "a Redis that hangs holds no hello up", LIMITER,
        "ASK_SECONDS = 0.5", "ASK_SECONDS = 1000.0",
        tests(LIMITERS, "test_a_call_that_never_ends_holds_no_session_up"),
    ),
)

MAILBOXES = (
    Guard(
        "the writer's mailbox has so many operations", WRITER,
        "or len(self._mailbox) >= self._max_items or self._bytes + size", "or self._bytes + size",
        tests("tests/store/test_writer.py", "test_so_many_operations_wait"),
    ),
    Guard(
        "the writer's mailbox has so many bytes", WRITER,
        " or self._bytes + size > self._max_bytes:", ":",
        tests("tests/store/test_writer.py", "test_names_are_weighed"),
    ),
    Guard(
        "who drains takes nothing more", WRITER,
        "if self._closed or len(", "if len(",
        tests("tests/store/test_writer.py", "test_so_many_operations_wait"),
    ),
    Guard(
        "a full writer is told to the sender", SESSION,
        "if not self._node.writer.submit(operation, self._send_settled):",
        "self._node.writer.submit(operation, self._send_settled)\n        if False:",
        tests(ALONE, "test_a_full_writer_is_told"),
    ),
    Guard(
        "a session's mailbox has so many requests", MAILBOX,
        "(len(self._requests) >= self._most or self._bytes", "(self._bytes",
        tests("tests/sessions/test_mailbox.py", "test_it_is_full_by_number_and_by_bytes_and_has_room_again"),
    ),
    Guard(
        "a session's mailbox has so many bytes", MAILBOX,
        " or self._bytes >= REQUESTS_BYTES)", ")",
        tests("tests/sessions/test_mailbox.py", "test_it_is_full_by_bytes"),
    ),
    Guard(
        "a session's mailbox has so many conversations", MAILBOX,
        "if len(self._began) < MAX_BEGAN:", "if True:",
        tests("tests/sessions/test_mailbox.py", "test_it_is_full_by_number_and_by_bytes_and_has_room_again"),
    ),
    Guard(
        "who has too many sends under way is not read", SESSION,
        "if self._in_flight >= self._node.limits.inflight_sends * self._node.writer.share:", "if False:",
        tests(ALONE, "test_who_has_too_much_under_way_is_not_read"),
    ),
    Guard(
        "what was read from the socket waits, too", SESSION,
        "            if self._paused:\n                self._untaken = received[place:]\n                return\n", "",
        tests(ALONE, "test_what_was_read_waits_until_there_is_room"),
    ),
    Guard(
        "the fuller the mailbox, the less of each session", "chatd/store/writer.py",
        "self.share = empty * empty", "self.share = 1.0",
        tests("tests/store/test_writer.py", "test_the_fuller_the_mailbox_the_less_of_each"),
    ),
    Guard(
        "a fault in what had waited ends that session alone", SESSION,
        """            log.exception("link.failed")
            self.link.abort()
            return
""", "            raise\n",
        tests(ALONE, "test_a_fault_in_what_had_waited_ends_its_session_alone"),
    ),
    Guard(
        "who has too many requests waiting is not read", SESSION,
        "self._mailbox.put(request, size)\n        self._pace()", "self._mailbox.put(request, size)",
        tests(ALONE, "test_who_asks_faster_than_is_answered_is_not_read"),
    ),
    Guard(
        "who does not read is cut", SESSION,
        "self.end(codes.SLOW_CONSUMER, retry_after_ms=1000, cut=True)",
        "self.end(codes.SLOW_CONSUMER, retry_after_ms=1000)",
        tests(ALONE, "test_who_does_not_read_is_cut"),
    ),
    Guard(
        "who stops reading a replay is cut", "chatd/sessions/replay.py",
        "STALL_SECONDS) as scope:", "100 * STALL_SECONDS) as scope:",
        tests(ALONE, "test_who_stops_reading_a_replay_is_cut"),
    ),
    Guard(
        "who is silent is taken for dead", SESSION,
        "elif now - self.last_heard > silence and not self._paused:", "elif False:",
        tests(ALONE, "test_silence_ends_a_session"),
    ),
    Guard(
        "a message comes within its time", SESSION,
        "if self._partial_since and not self._paused and now - self._partial_since > FRAGMENT_SECONDS:", "if False:",
        tests(ALONE, "test_a_message_that_takes_too_long_ends_the_session"),
    ),
    Guard(
        "... whatever comes between its fragments", SESSION,
        "elif not self._partial_since or any(opcode < frames.CLOSE for opcode, _ in received):",
        "elif not self._partial_since or received:",
        tests(ALONE, "test_a_message_that_takes_too_long_ends_the_session"),
    ),
    Guard(
        "a fault in a session ends that session alone", "chatd/sessions/actor.py",
        'except Exception:\n        log.exception("session.failed"',
        'except ZeroDivisionError:\n        log.exception("session.failed"',
        tests(ALONE, "test_a_fault_in_a_session_ends_it_alone"),
    ),
)

TABLES = (
    Guard(
        "a topic holds so many events", TOPIC,
        "(len(held) < self._held_bound and len(event.payload)", "(len(event.payload)",
        tests("tests/delivery/test_topic.py", "test_what_waits_behind_a_hole_is_bounded"),
    ),
    Guard(
        "all topics hold so many bytes", TOPIC,
        "(len(held) < self._held_bound and len(event.payload) <= self._held_bytes.left)", "len(held) < self._held_bound",
        tests("tests/delivery/test_topic.py", "test_what_waits_behind_a_hole_is_bounded"),
    ),
    Guard(
        "so many sign-outs are remembered", "chatd/delivery/hub.py",
        "if len(self._ended) > ENDED_KEPT:", "if False:",
        tests("tests/delivery/test_hub.py", "test_what_is_remembered_of_sign_outs_is_bounded"),
    ),
    Guard(
        "marks of so many conversations wait", "chatd/sessions/marks.py",
        "if len(self._marks) >= MAX_CONVERSATIONS:", "if False:",
        tests("tests/sessions/test_marks.py", "test_marks_are_of_so_many_conversations"),
    ),
    Guard(
        "typing: so many ask", "chatd/delivery/typing.py",
        "if self._count >= self._bound:", "if False:",
        tests("tests/delivery/test_typing.py", "test_what_is_asked_for_is_bounded_and_the_last_word_holds"),
    ),
    Guard(
        "typing: so many leases", "chatd/delivery/typing.py",
        "if len(self._timers) >= self._bound:", "if False:",
        tests("tests/delivery/test_typing.py", "test_leases_are_bounded"),
    ),
    Guard(
        "typing: not in large groups", "chatd/delivery/signals.py",
        "elif known[0].members <= COUNTED_ABOVE and", "elif",
        tests("tests/delivery/test_signals.py", "test_typing_in_large_groups_is_not_told"),
    ),
    Guard(
        "receipts: so many wait", "chatd/delivery/receipts.py",
        "and key not in self._early and len(self) >= self._bound:", "and key not in self._early and False:",
        tests("tests/delivery/test_typing.py", "test_what_waits_is_bounded"),
    ),
    Guard(
        "receipts: paced in large groups", "chatd/delivery/receipts.py",
        "if paced and key not in self._ready and key in self._told:", "if False:",
        tests("tests/delivery/test_typing.py", "test_receipts_are_paced_and_right_in_the_end"),
    ),
    Guard(
        "presence: so many users are watched", "chatd/presence/watching.py",
        "if len(self.watched) >= self._bound:", "if False:",
        tests("tests/presence/test_presence_actor.py", "test_the_node_watches_so_many"),
    ),
    Guard(
        "presence: so many messages a second", "chatd/presence/watching.py",
        "if self._budget.take(now, len(watched.watchers)):", "if False:",
        tests("tests/presence/test_presence_actor.py", "test_what_many_watch_is_told_within_the_budget"),
    ),
    Guard(
        "addresses: so many are counted", BUCKET,
        "if len(self._buckets) > self._max_keys:", "if False:",
        tests(BUCKETS, "test_table_is_bounded_and_forgets_the_oldest"),
    ),
    Guard(
        "a commit remembers so much of the store", "chatd/adapters/sqlite/cache.py",
        "if len(self._entries) > self._bound:", "if False:",
        tests("tests/store/test_cache.py", "test_what_is_remembered_is_bounded"),
    ),
    Guard(
        "the roll tells so many at once", "chatd/sessions/roll.py",
        "dict(islice(self._left.items(), LEFT_AT_ONCE))", "dict(self._left)",
        tests("tests/sessions/test_roll.py", "test_one_call_is_bounded"),
    ),
    Guard(
        "logins have so many steps a turn", "chatd/sessions/pace.py",
        "self._begun.unpark(count=STEPS_A_TURN)", "self._begun.unpark(count=10**6)",
        tests("tests/sessions/test_pace.py", "test_so_many_a_turn"),
    ),
    Guard(
        "Redis: so many bytes wait", REDIS,
        "return self._outbox_bytes + size <= OUTBOX_LIMIT and", "return",
        tests(LINKS, "test_bounds_refuse_and_do_not_block"),
    ),
    Guard(
        "Redis: so many replies are due", REDIS,
        " and len(self._due) < WAITING_LIMIT", "",
        tests(LINKS, "test_bounds_refuse_and_do_not_block"),
    ),
    Guard(
        "Redis: a reply has so many bytes", REDIS,
        "if unfinished > REPLY_LIMIT:", "if unfinished > 3 * 10**7:",
        tests(LINKS, "test_an_endless_reply_is_cut_off"),
    ),
    Guard(
        "Redis: what is no reply ends the link, and nothing else", REDIS,
        "except (hiredis.HiredisError, MemoryError, TypeError) as fault:", "except ZeroDivisionError as fault:",
        tests(LINKS, "test_nonsense_is_a_lost_link_never_a_crash"),
    ),
)

PAGES = (
    Guard(
        "a page has so many bytes", READS,
        "WHERE s.total <= ?5 OR s.total = s.size ORDER BY", "WHERE ?5 > 0 ORDER BY",
        tests(CONTRACT, "test_pages", "test_a_log_read_is_bounded_in_bytes"),
    ),
    Guard(
        "several logs together have so many bytes", READS,
        "if found and max_bytes < 0:", "if False:",
        tests(CONTRACT, "test_several_logs_are_one_read"),
    ),
    Guard(
        "the list has so many bytes", READS,
        "WHERE w.place = 1 OR w.place <= ?4 AND w.total <= ?5 ORDER BY w.place",
        "WHERE w.place <= ?4 AND ?5 > 0 ORDER BY w.place",
        tests(CONTRACT, "test_the_list_is_bounded_in_bytes"),
    ),
    Guard(
        "endings come in parts", READS,
        '" ORDER BY e.no LIMIT ?2",', '" AND ?2 > 0 ORDER BY e.no",',
        tests("tests/store/test_sqlite.py::TestSqliteDevices", "test_many_endings_come_in_parts"),
    ),
    Guard(
        "a branch of a thread has so many messages", "chatd/adapters/sqlite/current.py",
        "ORDER BY 1 LIMIT {THREAD_EVENTS})", "ORDER BY 1)",
        tests("tests/store/test_sqlite_changes.py::TestSqliteChanges", "test_a_branch_is_bounded_and_a_thread_is_not"),
    ),
    Guard(
        "a search has so much time", "chatd/adapters/sqlite/search.py",
        "lambda: thread_time() > worked or monotonic() > passed", "lambda: monotonic() > worked + passed + 3600",
        tests("tests/store/test_bounded_search.py", "test_a_search_ends_with_its_time"),
    ),
    Guard(
        "a search has so many terms", QUERY,
        "if len(terms) > MAX_TERMS:", "if False:",
        tests("tests/store/test_query.py", "test_what_is_refused"),
    ),
    Guard(
        "a search has so many prefixes", QUERY,
        "if len(prefixes) > MAX_PREFIXES:", "if False:",
        tests("tests/store/test_query.py", "test_what_is_refused"),
    ),
    Guard(
        "nothing in a search is the index's own language", "chatd/adapters/sqlite/search.py",
        'text = term.text.replace(\'"\', \'""\').replace("\\0", " ")', 'text = term.text.replace("\\0", " ")',
        tests("tests/store/test_sqlite_search.py", "test_terms_are_no_syntax"),
    ),
    Guard(
        "one user's searches wait for each other", "chatd/adapters/sqlite/store.py",
        "async with self._searching.of(user_no):\n            return", "if True:\n            return",
        tests("tests/store/test_sqlite_search.py", "test_one_users_searches_hold_up_nobody_elses"),
    ),
)
