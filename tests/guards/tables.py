"""The guards of what a node keeps at most of many: tables, what waits for Redis, pages."""

from __future__ import annotations

from tests.guards.guard import Guard, tests_in

BUCKET = "chatd/limits/bucket.py"
TOPIC = "chatd/delivery/topic.py"
READS = "chatd/adapters/sqlite/reads.py"
QUERY = "chatd/store/query.py"
REDIS = "chatd/adapters/redis/link.py"
BUCKETS = "tests/http/test_buckets.py"
CONTRACT = "tests/store/test_sqlite.py::TestSqlite"
LINKS = "tests/redis/test_link.py"

TABLES = (
    Guard(
        "a topic holds so many events", TOPIC,
        "(len(held) < self._held_bound and len(event.payload)", "(len(event.payload)",
        tests_in("tests/delivery/test_topic.py", "test_what_waits_behind_a_hole_is_bounded"),
    ),
    Guard(
        "all topics hold so many bytes", TOPIC,
        "(len(held) < self._held_bound and len(event.payload) <= self._held_bytes.left)", "len(held) < self._held_bound",
        tests_in("tests/delivery/test_topic.py", "test_what_waits_behind_a_hole_is_bounded"),
    ),
    Guard(
        "so many sign-outs are remembered", "chatd/delivery/hub.py",
        "if len(self._ended) > ENDED_KEPT:", "if False:",
        tests_in("tests/delivery/test_hub.py", "test_what_is_remembered_of_sign_outs_is_bounded"),
    ),
    Guard(
        "marks of so many conversations wait", "chatd/sessions/marks.py",
        "if len(self._marks) >= MAX_CONVERSATIONS:", "if False:",
        tests_in("tests/sessions/test_marks.py", "test_marks_are_of_so_many_conversations"),
    ),
    Guard(
        "typing: so many ask", "chatd/delivery/typing.py",
        "if self._count >= self._bound:", "if False:",
        tests_in("tests/delivery/test_typing.py", "test_what_is_asked_for_is_bounded_and_the_last_word_holds"),
    ),
    Guard(
        "typing: so many leases", "chatd/delivery/typing.py",
        "if len(self._timers) >= self._bound:", "if False:",
        tests_in("tests/delivery/test_typing.py", "test_leases_are_bounded"),
    ),
    Guard(
        "typing: not in large groups", "chatd/delivery/signals.py",
        "elif known[0].members <= COUNTED_ABOVE and", "elif",
        tests_in("tests/delivery/test_signals.py", "test_typing_in_large_groups_is_not_told"),
    ),
    Guard(
        "receipts: so many wait", "chatd/delivery/receipts.py",
        "and key not in self._early and len(self) >= self._bound:", "and key not in self._early and False:",
        tests_in("tests/delivery/test_typing.py", "test_what_waits_is_bounded"),
    ),
    Guard(
        "receipts: paced in large groups", "chatd/delivery/receipts.py",
        "if paced and key not in self._ready and key in self._told:", "if False:",
        tests_in("tests/delivery/test_typing.py", "test_receipts_are_paced_and_right_in_the_end"),
    ),
    Guard(
        "presence: so many users are watched", "chatd/presence/watching.py",
        "if len(self.watched) >= self._bound:", "if False:",
        tests_in("tests/presence/test_presence_actor.py", "test_the_node_watches_so_many"),
    ),
    Guard(
        "presence: so many messages a second", "chatd/presence/watching.py",
        "if self._budget.take(now, len(watched.watchers)):", "if False:",
        tests_in("tests/presence/test_presence_actor.py", "test_what_many_watch_is_told_within_the_budget"),
    ),
    Guard(
        "addresses: so many are counted", BUCKET,
        "if len(self._buckets) > self._max_keys:", "if False:",
        tests_in(BUCKETS, "test_table_is_bounded_and_forgets_the_oldest"),
    ),
    Guard(
        "a commit remembers so much of the store", "chatd/adapters/sqlite/cache.py",
        "if len(self._entries) > self._bound:", "if False:",
        tests_in("tests/store/test_cache.py", "test_what_is_remembered_is_bounded"),
    ),
    Guard(
        "the roll tells so many at once", "chatd/sessions/roll.py",
        "dict(islice(self._left.items(), LEFT_AT_ONCE))", "dict(self._left)",
        tests_in("tests/sessions/test_roll.py", "test_one_call_is_bounded"),
    ),
    Guard(
        "logins have so many steps a turn", "chatd/sessions/pace.py",
        "self._begun.unpark(count=STEPS_A_TURN)", "self._begun.unpark(count=10**6)",
        tests_in("tests/sessions/test_pace.py", "test_so_many_a_turn"),
    ),
    Guard(
        "Redis: so many bytes wait", REDIS,
        "return self._outbox_bytes + size <= OUTBOX_LIMIT and", "return",
        tests_in(LINKS, "test_bounds_refuse_and_do_not_block"),
    ),
    Guard(
        "Redis: so many replies are due", REDIS,
        " and len(self._due) < WAITING_LIMIT", "",
        tests_in(LINKS, "test_bounds_refuse_and_do_not_block"),
    ),
    Guard(
        "Redis: a reply has so many bytes", REDIS,
        "if unfinished > REPLY_LIMIT:", "if unfinished > 3 * 10**7:",
        tests_in(LINKS, "test_an_endless_reply_is_cut_off"),
    ),
    Guard(
        "Redis: what is no reply ends the link, and nothing else", REDIS,
        "except (hiredis.HiredisError, MemoryError, TypeError) as fault:", "except ZeroDivisionError as fault:",
        tests_in(LINKS, "test_nonsense_is_a_lost_link_never_a_crash"),
    ),
)

PAGES = (
    Guard(
        "a page has so many bytes", READS,
        "WHERE s.total <= ?5 OR s.total = s.size ORDER BY", "WHERE ?5 > 0 ORDER BY",
        tests_in(CONTRACT, "test_pages", "test_a_log_read_is_bounded_in_bytes"),
    ),
    Guard(
        "several logs together have so many bytes", READS,
        "if found and max_bytes < 0:", "if False:",
        tests_in(CONTRACT, "test_several_logs_are_one_read"),
    ),
    Guard(
        "the list has so many bytes", READS,
        "WHERE w.place = 1 OR w.place <= ?4 AND w.total <= ?5 ORDER BY w.place",
        "WHERE w.place <= ?4 AND ?5 > 0 ORDER BY w.place",
        tests_in(CONTRACT, "test_the_list_is_bounded_in_bytes"),
    ),
    Guard(
        "endings come in parts", READS,
        '" ORDER BY e.no LIMIT ?2",', '" AND ?2 > 0 ORDER BY e.no",',
        tests_in("tests/store/test_sqlite.py::TestSqliteDevices", "test_many_endings_come_in_parts"),
    ),
    Guard(
        "a branch of a thread has so many messages", "chatd/adapters/sqlite/current.py",
        "ORDER BY 1 LIMIT {THREAD_EVENTS})", "ORDER BY 1)",
        tests_in("tests/store/test_sqlite_changes.py::TestSqliteChanges", "test_a_branch_is_bounded_and_a_thread_is_not"),
    ),
    Guard(
        "a search has so much time", "chatd/adapters/sqlite/search.py",
        "lambda: thread_time() > worked or monotonic() > passed", "lambda: monotonic() > worked + passed + 3600",
        tests_in("tests/store/test_bounded_search.py", "test_a_search_ends_with_its_time"),
    ),
    Guard(
        "a search has so many terms", QUERY,
        "if len(terms) > MAX_TERMS:", "if False:",
        tests_in("tests/store/test_query.py", "test_what_is_refused"),
    ),
    Guard(
        "a search has so many prefixes", QUERY,
        "if len(prefixes) > MAX_PREFIXES:", "if False:",
        tests_in("tests/store/test_query.py", "test_what_is_refused"),
    ),
    Guard(
        "nothing in a search is the index's own language", "chatd/adapters/sqlite/search.py",
        'text = term.text.replace(\'"\', \'""\').replace("\\0", " ")', 'text = term.text.replace("\\0", " ")',
        tests_in("tests/store/test_sqlite_search.py", "test_terms_are_no_syntax"),
    ),
    Guard(
        "one user's searches wait for each other", "chatd/adapters/sqlite/store.py",
        "async with self._searching.of(user_no):\n            return", "if True:\n            return",
        tests_in("tests/store/test_sqlite_search.py", "test_one_users_searches_hold_up_nobody_elses"),
    ),
)
