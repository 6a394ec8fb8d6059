"""The guards of who may what: members only, from their ``joined`` to their ``left``, each operation by its rule; and unread."""

from __future__ import annotations

from tests.guards.guard import Guard, tests_in

RULES = "chatd/conversations/rules.py"
GROUPS = "chatd/adapters/sqlite/groups.py"
READS = "chatd/adapters/sqlite/reads.py"
CURRENT = "chatd/adapters/sqlite/current.py"
MEMBERSHIPS = "chatd/adapters/sqlite/memberships.py"
SEARCH = "chatd/adapters/sqlite/search.py"
SIGNALS = "chatd/adapters/sqlite/signals.py"

CONTRACT = "tests/store/test_sqlite.py::TestSqlite"
WHO_CAME_BACK = "tests/store/test_sqlite.py::TestSqliteMemberships"
CHANGES = "tests/store/test_sqlite_changes.py::TestSqliteChanges"
SEARCHING = "tests/store/test_sqlite_search.py"

READING = (
    Guard(
        "I8: only members read", READS,
        "WHERE v.id = ?2 AND (v.member OR ?3)", "WHERE v.id = ?2 AND (?3 OR 1)",
        tests_in(CONTRACT, "test_what_a_former_member_reads"),
    ),
    Guard(
        "I8: who was removed reads to their own left event", READS,
        "coalesce(m.left, c.head) AS last,", "c.head AS last,",
        tests_in(CONTRACT, "test_what_a_former_member_reads"),
    ),
    Guard(
        "I8: who joined reads from there on, forwards", MEMBERSHIPS,
        "return max(low, first), last", "return low, last",
        tests_in(CONTRACT, "test_what_a_new_member_reads"),
    ),
    Guard(
        "I8: who joined reads from there on, backwards", MEMBERSHIPS,
        "return first, min(high, last)", "return 1, min(high, last)",
        tests_in(CONTRACT, "test_what_a_new_member_reads"),
    ),
    Guard(
        "I8: what was said in an absence is not read afterwards", MEMBERSHIPS,
        "return max(low, row[0]), row[1]", "return max(low, row[0]), last",
        tests_in(CONTRACT, "test_what_a_former_member_reads"),
    ),
    Guard(
        "I8: threads are of members, from where they may see them", CURRENT,
        " or not sees(connection, no, user_no, seq, first):", ":",
        tests_in(CHANGES, "test_who_sees_a_thread"),
    ),
    Guard(
        "I8: pins are shown from where a member may see them", CURRENT,
        'AND {may_see("t.target", "?1", "?6", "?7")}', "AND ?6 > 0 AND ?7 > 0",
        tests_in(CHANGES, "test_who_sees_a_thread"),
    ),
    Guard(
        "I8: an edit that was made in an absence is not shown", CURRENT,
        'AND {may_see("d.seq", "?1", "?6", "?7")})"""', 'AND ?6 > 0 AND ?7 > 0)"""',
        tests_in(WHO_CAME_BACK, "test_an_edit_in_the_absence"),
    ),
    Guard(
        "I8: search finds what a member may see", SEARCH,
        "AND e.kind = 'message' AND NOT e.deleted AND {MAY_SEE} AND {_SEES_EDIT}",
        "AND e.kind = 'message' AND NOT e.deleted AND {_SEES_EDIT}",
        tests_in(SEARCHING, "test_each_guard_is_what_hides[AND NOT e.deleted-deleted]"),
    ),
    Guard(
        "search finds nothing that was deleted", SEARCH,
        "AND e.kind = 'message' AND NOT e.deleted AND {MAY_SEE}", "AND e.kind = 'message' AND {MAY_SEE}",
        tests_in(SEARCHING, "test_each_guard_is_what_hides[AND coalesce(x.seq, 0) = coalesce(l.seq, 0)-edited]"),
    ),
    Guard(
        "I8: search finds no edit that was made in an absence", SEARCH,
        "AND {MAY_SEE} AND {_SEES_EDIT}", "AND {MAY_SEE}",
        tests_in(WHO_CAME_BACK, "test_an_edit_in_the_absence"),
    ),
    Guard(
        "I8: titles are completed to members", SEARCH,
        'WHERE m.user = ?1 AND m.left IS NULL"', 'WHERE m.user = ?1"',
        tests_in(f"{SEARCHING}::TestSqliteSearch", "test_find"),
    ),
    Guard(
        "I8: members are listed to members", READS,
        "seen = visible(connection, user_no, conv)\n    if seen is None:\n        return None\n    hidden =",
        "seen = visible(connection, user_no, conv) or Visible(1, 1, 1, 1, 1)\n    hidden =",
        tests_in(CONTRACT, "test_members_only"),
    ),
    Guard(
        "search finds a message by the wording that it shows", SEARCH,
        "AND coalesce(x.seq, 0) = coalesce(l.seq, 0) AND e.at < ?5", "AND e.at < ?5",
        tests_in(SEARCHING, "test_each_guard_is_what_hides[AND NOT e.deleted-deleted]"),
    ),
)

OPERATIONS = (
    Guard(
        "send: members", RULES,
        'return NOT_FOUND\n    return Refused(ErrorCode.FORBIDDEN, "you may not write here")',
        'return None\n    return Refused(ErrorCode.FORBIDDEN, "you may not write here")',
        tests_in(CONTRACT, "test_members_only"),
    ),
    Guard(
        "send: not whom the other blocks", RULES,
        'return Refused(ErrorCode.FORBIDDEN, "you may not write here") if blocked else None', "return None",
        tests_in(CONTRACT, "test_accounts_blocks_and_devices"),
    ),
    Guard(
        "send: a reply is to what one may see", "chatd/adapters/sqlite/commit.py",
        'row[0] == "message" and sees(\n            self._connection, no, me, send.reply_to, conversation.first(me)\n'
        "        )",
        'row[0] == "message"',
        tests_in(CONTRACT, "test_a_reply_is_to_a_message"),
    ),
    Guard(
        "edit: one's own", RULES,
        '    if not target.own:\n        return Refused(ErrorCode.FORBIDDEN, "only who wrote a message may edit it")\n', "",
        tests_in(CHANGES, "test_who_may_edit_and_until_when"),
    ),
    Guard(
        "edit: so often", RULES,
        "if edits >= MAX_EDITS:", "if False:",
        tests_in(CHANGES, "test_who_may_edit_and_until_when"),
    ),
    Guard(
        "edit, delete: within the window", RULES,
        "if target.age_ms < window_ms:", "if True:",
        tests_in(CHANGES, "test_who_may_edit_and_until_when", "test_who_may_delete_and_until_when"),
    ),
    Guard(
        "delete: one's own", RULES,
        'if not target.own:\n        return Refused(ErrorCode.FORBIDDEN, "only who wrote a message may delete it',
        'if False:\n        return Refused(ErrorCode.FORBIDDEN, "only who wrote a message may delete it',
        tests_in(CHANGES, "test_who_may_delete_and_until_when"),
    ),
    Guard(
        "delete: of others, a group's owner and admins", RULES,
        'if kind == "group" and role in _STEWARDS:', 'if kind == "group":',
        tests_in(CHANGES, "test_who_may_delete_and_until_when"),
    ),
    Guard(
        "edit, delete, react, pin: what one may see", "chatd/adapters/sqlite/changes.py",
        "row = sees(self._connection, conversation.no, me, seq, conversation.first(me)) and self._cache.one(",
        "row = self._cache.one(",
        tests_in(CHANGES, "test_who_sees_a_thread"),
    ),
    Guard(
        "react: take back one's own", RULES,
        'return None if mine else Refused(ErrorCode.NOT_FOUND, "emoji: no such reaction of yours")', "return None",
        tests_in(CHANGES, "test_reactions"),
    ),
    Guard(
        "react: so many kinds", RULES,
        "if kinds <= MAX_REACTION_KINDS:", "if True:",
        tests_in(CHANGES, "test_reactions"),
    ),
    Guard(
        "pin: a group's owner and admins", RULES,
        'if kind == "group" and (refusal := may_steward(role, kind, "pin")) is not None:',
        'if kind == "" and (refusal := may_steward(role, kind, "pin")) is not None:',
        tests_in(CHANGES, "test_pins"),
    ),
    Guard(
        "pin: so many", RULES,
        "return None if pins <= MAX_PINS else Refused(", "return None if pins >= 0 else Refused(",
        tests_in(CHANGES, "test_pins"),
    ),
    Guard(
        "mute: members", GROUPS,
        "if conversation is None or conversation.role(mute.author.user_no) is None:", "if conversation is None:",
        tests_in(CHANGES, "test_mute"),
    ),
    Guard(
        "add, rename, remove: the owner and admins", RULES,
        'return None if role in _STEWARDS else Refused(ErrorCode.FORBIDDEN, f"only the owner and admins may {what}")',
        "return None",
        tests_in(CONTRACT, "test_roles"),
    ),
    Guard(
        "add, rename: not who is no member", RULES,
        '    if role is None:\n        return NOT_FOUND\n    if kind != "group":\n'
        '        return Refused(ErrorCode.FORBIDDEN, f"a 1:1 conversation has no owner, and nobody may {what}")\n',
        "",
        tests_in(CONTRACT, "test_members_only"),
    ),
    Guard(
        "remove: an admin, the owner alone", RULES,
        'if name != me and target in _STEWARDS and role != "owner":', "if False:",
        tests_in(CONTRACT, "test_roles"),
    ),
    Guard(
        "role: the owner alone", RULES,
        '    if role != "owner":\n        return Refused(ErrorCode.FORBIDDEN, "only the owner may change roles")\n', "",
        tests_in(CONTRACT, "test_roles"),
    ),
    Guard(
        "a group has an owner, whoever leaves", GROUPS,
        'if role == "owner" and (heir := rules.heir(conversation.members)) is not None:',
        'if role == "" and (heir := rules.heir(conversation.members)) is not None:',
        tests_in(CONTRACT, "test_who_leaves_as_owner_is_followed"),
    ),
    Guard(
        "create, add: so many members", RULES,
        "if members <= bound:", "if True:",
        tests_in(CONTRACT, "test_a_group_is_bounded"),
    ),
    Guard(
        "sign_out: one's own devices", "chatd/adapters/sqlite/access.py",
        '"SELECT no FROM devices WHERE user = ? AND name = ? AND NOT gone", user, asked.device',
        '"SELECT no FROM devices WHERE ? > 0 AND name = ? AND NOT gone", user, asked.device',
        tests_in("tests/store/test_sqlite.py::TestSqliteDevices", "test_only_ones_own_devices"),
    ),
    Guard(
        "history, conversations, ...: so often", "chatd/sessions/session.py",
        "if self.limits is not None and (wait := self.limits.requests.take(self.last_heard)):",
        "if self.limits is not None and (wait := 0.0):",
        tests_in("tests/sessions/test_bounds.py", "test_requests_beyond_the_rate_are_refused"),
    ),
)

ACQUAINTANCE = (
    Guard(
        "watch: whom one shares a conversation with, now", SIGNALS,
        'f" WHERE b.user = u.no AND a.left IS NULL AND b.left IS NULL AND {_TOGETHER})"',
        'f" WHERE b.user = u.no AND {_TOGETHER})"',
        tests_in(CONTRACT, "test_who_may_know_of_whom"),
    ),
    Guard(
        "who blocks and who is blocked know nothing of each other's presence", SIGNALS,
        '_TOGETHER = f"(NOT {blocks(\'u.no\', \'?1\')} OR', '_TOGETHER = f"(1 OR NOT {blocks(\'u.no\', \'?1\')} OR',
        tests_in(CONTRACT, "test_who_blocks_and_who_is_blocked_know_nothing_of_each_other"),
    ),
    Guard(
        "... nor of each other's marks, where they are asked for", READS,
        "iif({hidden}, NULL, m.delivered), iif({hidden}, NULL, m.read)", "m.delivered, m.read",
        tests_in(CONTRACT, "test_who_blocks_and_who_is_blocked_know_nothing_of_each_other"),
    ),
    Guard(
        "... nor where they are told", SIGNALS,
        "told = (self._cache.name(user),)", "pass",
        tests_in(CONTRACT, "test_who_blocks_and_who_is_blocked_know_nothing_of_each_other"),
    ),
    Guard(
        "... nor of each other's typing", SIGNALS,
        "Audience(tuple(sorted(json.loads(names))), members, bool(silent))",
        "Audience(tuple(sorted(json.loads(names))), members, not bool(conv))",
        tests_in(CONTRACT, "test_who_blocks_and_who_is_blocked_know_nothing_of_each_other"),
    ),
    Guard(
        "presence is told to acquaintances", "chatd/presence/watching.py",
        "{user: known[user] for user in answered if user in known})", "{user: known.get(user, 0) for user in answered})",
        tests_in("tests/presence/test_presence_actor.py", "test_a_stranger_is_told_nothing"),
    ),
    Guard(
        "I8: an answer from before a removal grants nothing", "chatd/presence/watching.py",
        "if user in watch.wanted and user not in watch.to_ask]", "if user in watch.wanted]",
        tests_in("tests/presence/test_presence_actor.py", "test_an_answer_that_is_out_of_date_grants_nothing"),
    ),
    Guard(
        "what is hidden is not shown", "chatd/presence/roster.py",
        "if person.shows is None or not person.shows[0]:", "if person.shows is None:",
        tests_in("tests/presence/test_presence_pure.py", "test_what_is_hidden_is_not_shown"),
    ),
    Guard(
        "before it is known what is hidden, nothing is shown", "chatd/presence/roster.py",
        "if person.shows is None or not person.shows[0]:",
        "if person.shows is None:\n        return PresenceState(person.status, 0)\n    if not person.shows[0]:",
        tests_in("tests/presence/test_presence_pure.py", "test_what_is_hidden_is_not_shown"),
    ),
    Guard(
        "a hidden last seen is left out", "chatd/presence/roster.py",
        "person.seen if person.shows[1] else 0", "person.seen",
        tests_in("tests/presence/test_presence_pure.py", "test_what_is_hidden_is_not_shown"),
    ),
    Guard(
        "I8: who is not live in a conversation types for nobody there", "chatd/delivery/signals.py",
        "and not known[0].silent and self._is_live(subscriber, conv):", "and not known[0].silent:",
        tests_in("tests/delivery/test_signals.py", "test_who_is_not_live_there_types_for_nobody"),
    ),
    Guard(
        "typing is not told where one blocks the other", "chatd/delivery/signals.py",
        "and not known[0].silent and self._is_live(subscriber, conv):", "and self._is_live(subscriber, conv):",
        tests_in("tests/delivery/test_signals.py", "test_typing_is_not_told_where_one_blocks_the_other"),
    ),
    Guard(
        "I8: with the last conversation in common presence ends", "chatd/presence/watching.py",
        "lost = [user for user in answered if user in watch.granted and user not in known]", "lost: list[str] = []",
        tests_in("tests/presence/test_presence_actor.py", "test_a_stranger_is_told_nothing"),
    ),
    Guard(
        "a former member's marks are told to nobody", SIGNALS,
        "if user not in conversation.members:", "if False:",
        tests_in(CONTRACT, "test_marks_are_merged_over_devices"),
    ),
)

UNREAD = (
    Guard(
        "I10: unread are messages", READS,
        '_COUNTS = "x.kind = \'message\' AND', '_COUNTS = "',
        tests_in(CONTRACT, "test_unread_is_a_function"),
    ),
    Guard(
        "I10: unread are others' messages", READS,
        'AND x.sender <> ?1 AND NOT x.deleted"', 'AND ?1 > 0 AND NOT x.deleted"',
        tests_in(CONTRACT, "test_unread_is_a_function"),
    ),
    Guard(
        "I10: what was deleted is not unread", READS,
        'AND x.sender <> ?1 AND NOT x.deleted"', 'AND x.sender <> ?1"',
        tests_in(CHANGES, "test_what_a_delete_leaves", "test_mentions"),
    ),
    Guard(
        "I10: a read mark never moves back", SIGNALS,
        "read = max(had_read, min(mark.read, last))", "read = min(mark.read, last) or had_read",
        tests_in(CONTRACT, "test_marks_never_move_back"),
    ),
    Guard(
        "I10: a read mark stays within the log", SIGNALS,
        "read = max(had_read, min(mark.read, last))", "read = max(had_read, mark.read)",
        tests_in(CONTRACT, "test_marks_never_move_back"),
    ),
)
