"""The guards of the store: what is acknowledged is on the disk, once, under the next number; and its file is nobody else's."""

from __future__ import annotations

from tests.guards.guard import Guard, tests_in

COMMIT = "chatd/adapters/sqlite/commit.py"
DATABASE = "chatd/adapters/sqlite/database.py"
STORE = "chatd/adapters/sqlite/store.py"
CACHE = "chatd/adapters/sqlite/cache.py"
ACCESS = "chatd/adapters/sqlite/access.py"
READS = "chatd/adapters/sqlite/reads.py"
UPKEEP = "chatd/upkeep.py"
VERIFICATION = "chatd/adapters/sqlite/verification.py"
COPYING = "chatd/adapters/sqlite/copying.py"

SQLITE = "tests/store/test_sqlite.py"
CONTRACT = f"{SQLITE}::TestSqlite"
DEVICES = f"{SQLITE}::TestSqliteDevices"
CHANGES = "tests/store/test_sqlite_changes.py"
KEEPING = "tests/upkeep/test_upkeep.py"
RESTORING = "tests/upkeep/test_restore.py"

DURABILITY = (
    Guard(
        "I1: a commit is on the disk when it returns", DATABASE,
        "PRAGMA synchronous = FULL", "PRAGMA synchronous = OFF",
        tests_in(SQLITE, "test_the_file_is_private_and_synced"),
    ),
    Guard(
        "I1, I2: outcomes are told when COMMIT has returned", STORE,
        "await trio.to_thread.run_sync(self._finish, commit, trio_thread, meanwhile, limiter=self._writing)",
        "trio_thread.run_sync_soon(self._finish, commit, trio_thread, None)",
        tests_in(SQLITE, "test_a_full_disk_refuses_and_recovers"),
    ),
    Guard(
        "I1: what the disk refused is refused", STORE,
        "with translated():\n            commit.flush()",
        "from contextlib import suppress\n        with suppress(apsw.Error):\n            commit.flush()",
        tests_in(SQLITE, "test_a_full_disk_refuses_and_recovers"),
    ),
    Guard(
        "I1: of a commit that failed nothing is remembered", STORE,
        "self._cache.forget()\n        try:", "try:",
        tests_in(SQLITE, "test_of_a_commit_that_failed_nothing_stays"),
    ),
    Guard(
        "I1: a commit that failed is undone", STORE,
        'self._connection.execute("ROLLBACK")', "pass",
        tests_in(SQLITE, "test_of_a_commit_that_failed_nothing_stays"),
    ),
    Guard(
        "what was committed is told, also where the next commit fails", "chatd/store/writer.py",
        "self._settle_committed()\n        self._committed = batch, outcomes", "self._committed = batch, outcomes",
        tests_in("tests/store/test_writer.py", "test_a_batch_that_fails_does_not_touch_the_one_before"),
    ),
    Guard(
        "I1: who drains stores what is queued", "chatd/store/writer.py",
        "while self._mailbox:\n                await self._keep_apart()",
        "if self._mailbox:\n                await self._keep_apart()",
        tests_in("tests/store/test_writer.py", "test_what_was_committed_is_released_though_the_store_tells_of_no_wait"),
    ),
)

DEDUPE = (
    Guard(
        "I3: a repeat appends nothing and gets the first ack", COMMIT,
        "if numbered and operation.cseq <= device.cseq:  # type: ignore[union-attr]", "if False:",
        tests_in(CONTRACT, "test_repeats_gaps_and_reuse"),
    ),
    Guard(
        "I3: the same cseq with other content is cseq_reused", COMMIT,
        "return Repeated(sent.cseq, conv, seq, at) if same else Refused(ErrorCode.CSEQ_REUSED, _REUSED)",
        "return Repeated(sent.cseq, conv, seq, at)",
        tests_in(CONTRACT, "test_repeats_gaps_and_reuse"),
    ),
    Guard(
        "I3: the same words to somebody else are other content", COMMIT,
        "payload == sent.payload and self._goes_to(sent, conv)", "payload == sent.payload",
        tests_in(CONTRACT, "test_a_repeat_goes_where_the_first_went"),
    ),
    Guard(
        "I3: a repeated change is told by its digest", COMMIT,
        "same = digest == (content_digest(sent.to, sent.payload) if type(sent) is Send else sent.digest)", "same = True",
        tests_in(f"{CHANGES}::TestSqliteChanges", "test_changes_are_numbered_as_sends_are"),
    ),
    Guard(
        "I3: a cseq beyond the next one is cseq_gap", COMMIT,
        "if sent.cseq != device.cseq + 1:", "if False:",
        tests_in(CONTRACT, "test_repeats_gaps_and_reuse"),
    ),
    Guard(
        "I3: what is refused uses no cseq", COMMIT,
        "if type(outcome) is Appended:\n            device.cseq = sent.cseq",
        "if True:\n            device.cseq = sent.cseq",
        tests_in(CONTRACT, "test_a_refused_send_consumes_nothing"),
    ),
    Guard(
        "I3: a device that was signed out keeps its cseq", ACCESS,
        "device = device or self._make(user, opening.device)",
        "device = device or self._make(user, opening.device)\n            device.cseq = 0",
        tests_in(DEVICES, "test_a_signed_out_device_comes_back_as_a_new_one"),
    ),
    Guard(
        "I3, I4: what another process has committed is read anew", CACHE,
        "if version != self._version:", "if self._version < 0:",
        tests_in(CONTRACT, "test_two_stores_at_once"),
    ),
)

ORDER = (
    Guard(
        "I4: time does not go back in a log", COMMIT,
        "conversation.newest = max(conversation.newest, self._now)", "conversation.newest = self._now",
        tests_in(CONTRACT, "test_contiguous_over_batches"),
    ),
    Guard(
        "I4: two users have one 1:1 conversation", CACHE,
        "pair = (min(one, other), max(one, other))", "pair = (one, other)",
        tests_in(CONTRACT, "test_one_conversation_between_two"),
    ),
    Guard(
        "I7: what was committed is never left out of a look", READS,
        "WHERE e.no > ?1 AND e.no <= ?2 GROUP BY e.conv", "WHERE e.no > ?1 + 1 AND e.no <= ?2 GROUP BY e.conv",
        tests_in(CONTRACT, "test_what_was_committed_is_never_omitted"),
    ),
    Guard(
        "I7: a cursor never moves back", "chatd/adapters/sqlite/signals.py",
        "DO UPDATE SET seq = max(seq, ?3)", "DO UPDATE SET seq = ?3",
        tests_in(CONTRACT, "test_marks_never_move_back"),
    ),
    Guard(
        "I7: a new device begins at the read mark", ACCESS,
        "max(read, self._last(conv, left, head) - self._new_device_events, first - 1)", "self._last(conv, left, head)",
        tests_in(CONTRACT, "test_a_new_device_begins_at_the_read_mark"),
    ),
    Guard(
        "who waits for the write lock is next", STORE,
        "if not (self._turnstile.enter() and self._begins_at_once()):", "if not self._begins_at_once():",
        tests_in("tests/store/test_turnstile.py", "test_who_waits_is_next"),
    ),
)

FENCING = (
    Guard(
        "I5: an older session changes nothing", COMMIT,
        "if author.epoch != device.epoch:", "if False:",
        tests_in(CONTRACT, "test_a_newer_session_fences_off_the_older"),
    ),
    Guard(
        "I5: a hello makes the epoch greater", ACCESS,
        "device.epoch += 1\n        device.gone = False", "device.gone = False",
        tests_in(CONTRACT, "test_a_newer_session_fences_off_the_older"),
    ),
    Guard(
        "a session that was signed out moves no mark either", COMMIT,
        "return rules.SIGNED_OUT", "pass",
        tests_in(DEVICES, "test_a_sign_out_fences_at_once"),
    ),
    Guard(
        "a sign-out makes the epoch greater", ACCESS,
        "device.epoch += 1\n            device.ended = device.epoch", "device.ended = device.epoch",
        tests_in(DEVICES, "test_a_sign_out_fences_at_once"),
    ),
    Guard(
        "a refusal that tells of a newer session ends this one", "chatd/sessions/session.py",
        "if refused is REPLACED:", "if False:",
        tests_in("tests/sessions/test_bounds.py", "test_a_refusal_that_tells_of_a_newer_session_ends_this_one"),
    ),
    Guard(
        "one session a device: the older one is told", "chatd/delivery/hub.py",
        "if other.device == device and other.epoch < epoch:", "if False:",
        tests_in("tests/delivery/test_hub.py", "test_the_newest_session_of_a_device_stays"),
    ),
    Guard(
        "one session a device: who comes late is told", "chatd/delivery/hub.py",
        "if any(other.device == device and other.epoch > epoch for other in sessions):", "if False:",
        tests_in("tests/delivery/test_hub.py", "test_the_newest_session_of_a_device_stays"),
    ),
)

BACKUP = (
    Guard(
        "a backup is verified when it is made", UPKEEP,
        "report = verification.verify(draft / STORE, tell)\n            _describe(draft, report)",
        "report = Report({}, 0)\n            _describe(draft, report)",
        tests_in(KEEPING, "test_a_backup_of_what_is_broken_says_so"),
    ),
    Guard(
        "a backup is not written over", UPKEEP,
        "if target.exists():", "if False:",
        tests_in(KEEPING, "test_a_backup_appears_whole_or_not_at_all"),
    ),
    Guard(
        "a backup's file is its owner's alone", COPYING,
        "    target.chmod(0o600)\n", "",
        tests_in(KEEPING, "test_a_backup_appears_whole_or_not_at_all"),
    ),
    Guard(
        "a backup has the signing key only where that was asked for", UPKEEP,
        "if with_key:", "if True:",
        tests_in(KEEPING, "test_a_backup_appears_whole_or_not_at_all"),
    ),
    Guard(
        "what an earlier restore has kept is not written over", UPKEEP,
        "if not any(name.with_name(name.name + end).exists() for end in", "if not any(() for end in",
        tests_in(KEEPING, "test_a_restore_takes_only_what_is_sound"),
    ),
    Guard(
        "a signing key that is there is not written over", UPKEEP,
        "if (backup / KEY).exists() and not (data / KEY).exists():", "if (backup / KEY).exists():",
        tests_in(KEEPING, "test_the_key_goes_along_where_it_is_asked_for"),
    ),
    Guard(
        "only what is sound is restored", UPKEEP,
        "if report.broken:", "if False:",
        tests_in(KEEPING, "test_a_restore_takes_only_what_is_sound"),
    ),
    Guard(
        "a store is replaced only where that was asked for", UPKEEP,
        "if store.exists() and not replace:", "if False:",
        tests_in(KEEPING, "test_a_restore_takes_only_what_is_sound"),
    ),
    Guard(
        "a store that a server has open is not replaced", UPKEEP,
        "            fold_log_exclusively(store)\n", "            pass\n",
        tests_in(KEEPING, "test_no_restore_beside_a_server"),
    ),
    Guard(
        "a backup that was changed is not restored", UPKEEP,
        'elif digest != about.get("sha256"):', "elif False:",
        tests_in(RESTORING, "test_a_backup_that_was_changed_is_not_restored"),
    ),
    Guard(
        "a backup of which rows are missing is not restored", UPKEEP,
        "if any(about.get(name) != counted for name, counted in report.counts.items()):", "if False:",
        tests_in(RESTORING, "test_a_backup_of_format_1_is_taken_with_a_word"),
    ),
    Guard(
        "a write-ahead log without its store is not taken for the new one's", UPKEEP,
        "    _put_aside(store)\n", "    store.exists() and _put_aside(store)\n",
        tests_in(RESTORING, "test_a_log_that_a_killed_server_left_is_not_applied"),
    ),
    Guard(
        "what an interrupted restore left is not taken for the draft's", UPKEEP,
        '.restoring"\n        _remove(draft)\n', '.restoring"\n',
        tests_in(RESTORING, "test_what_an_interrupted_restore_left_is_not_taken"),
    ),
    Guard(
        "what is no file is not opened", DATABASE,
        "if path.exists() and not path.is_file():", "if False:",
        tests_in(RESTORING, "test_what_is_no_file_is_refused"),
    ),
    Guard(
        "a trigger in a backup is not restored", VERIFICATION,
        "yield f\"the {kind} {name} is not chatd's\"", "continue",
        tests_in(RESTORING, "test_a_planted_trigger_is_never_restored"),
    ),
    Guard(
        "verify: what every event says can be read", VERIFICATION,
        "if fields_of(kind, payload) is None:", "if False:",
        tests_in(KEEPING, "test_what_is_broken_is_found"),
    ),
    Guard(
        "verify: a payload is the one that its digest is of", VERIFICATION,
        "elif digest and not _is_digest(digest, kind, payload, told(conv, sender)):", "elif False:",
        tests_in(KEEPING, "test_a_payload_that_is_not_its_digests"),
    ),
    Guard(
        "a damaged event shuts nobody out", READS,
        "    kind, said = readable(conv, seq, kind, bytes.fromhex(payload))\n", "    said = bytes.fromhex(payload)\n",
        tests_in("tests/store/test_damaged_events.py", "test_all_that_is_read_goes_on"),
    ),
    Guard(
        "an operator is warned of secrets that others may read", "chatd/precautions.py",
        "if name and (mode := _mode(Path(name))) & BY_ALL:", "if name and (mode := _mode(Path(name))) & 0:",
        tests_in("tests/config/test_precautions.py", "test_secrets_that_others_may_read_or_change"),
    ),
    Guard(
        "verify: every log is 1, 2, 3, ...", VERIFICATION,
        "HAVING count(e.no) != c.head OR (c.head > 0 AND", "HAVING (c.head > 9 AND",
        tests_in(KEEPING, "test_what_is_broken_is_found"),
    ),
    Guard(
        "verify: every number of a device is stored once", VERIFICATION,
        "HAVING count(e.no) != d.cseq OR (d.cseq > 0 AND max(e.cseq) != d.cseq)", "HAVING 0",
        tests_in(KEEPING, "test_what_is_broken_is_found"),
    ),
    Guard(
        "verify: every cursor is within its log", VERIFICATION,
        "WHERE x.seq > c.head OR x.seq < 0", "WHERE 0",
        tests_in(KEEPING, "test_what_is_broken_is_found"),
    ),
    Guard(
        "a file of a newer chatd is not touched", DATABASE,
        "if version > known:", "if False:",
        tests_in(SQLITE, "test_a_newer_schema_is_refused"),
    ),
)

FILES = (
    Guard(
        "the store's file is its owner's alone", DATABASE,
        "    path.touch(mode=0o600, exist_ok=True)\n    path.chmod(0o600)\n", "",
        tests_in(SQLITE, "test_the_file_is_private_and_synced"),
    ),
    Guard(
        "who reads the store cannot write", DATABASE,
        'connection.execute("PRAGMA query_only = ON")', "pass",
        tests_in(SQLITE, "test_who_reads_cannot_write"),
    ),
    Guard(
        "what was deleted is overwritten in the file", DATABASE,
        'connection.execute("PRAGMA secure_delete = ON")', 'connection.execute("PRAGMA secure_delete = OFF")',
        tests_in(CHANGES, "test_no_file_keeps_what_was_deleted"),
    ),
    Guard(
        "what was deleted goes out of the write-ahead log", STORE,
        "                self._unscrubbed |= commit.redacted\n", "",
        tests_in(CHANGES, "test_a_delete_waits_for_no_checkpoint"),
    ),
    Guard(
        "a deleted message leaves its edits no words", "chatd/adapters/sqlite/changes.py",
        '(cbor2.dumps({"body": "", "target": seq}), conv, seq)',
        '(cbor2.dumps({"body": "secret", "target": seq}), conv, seq)',
        tests_in(f"{CHANGES}::TestSqliteChanges", "test_what_a_delete_leaves"),
    ),
    Guard(
        "the signing key's file is its owner's alone", "chatd/accounts/signing_key.py",
        "if status.st_mode & 0o077:", "if False:",
        tests_in("tests/accounts/test_signing_key.py", "test_refuses_what_others_may_touch"),
    ),
    Guard(
        "the signing key is read through no link", "chatd/accounts/signing_key.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK", "os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK",
        tests_in("tests/accounts/test_signing_key.py", "test_refuses_links_and_other_things"),
    ),
    Guard(
        "the search index lets words go for good", "chatd/adapters/sqlite/search_index.py",
        "INSERT INTO found (found, rank) VALUES ('secure-delete', 1);\n", "",
        tests_in("tests/store/test_sqlite_search.py", "test_the_index_lets_go_for_good"),
    ),
)
