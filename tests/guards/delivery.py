"""The guards between a commit and a socket: one order for all, nothing lost that the bus has lost, and nobody else's word."""

from __future__ import annotations

from tests.guards.guard import Guard, tests_in

TOPIC = "chatd/delivery/topic.py"
HUB = "chatd/delivery/hub.py"
REPAIR = "chatd/delivery/repair.py"
ENVELOPE = "chatd/delivery/envelope.py"
BUS = "chatd/adapters/redis/bus.py"
BOARD = "chatd/adapters/redis/presence.py"
WATCHED = "chatd/presence/watched.py"
WATCHING = "chatd/presence/watching.py"

TOPICS = "tests/delivery/test_topic.py"
HUBS = "tests/delivery/test_hub.py"
ENVELOPES = "tests/delivery/test_envelope.py"
BUSES = "tests/bus/test_redis_bus.py::TestRedisBus"
BOARDS = "tests/redis/test_board.py"
PRESENCE = "tests/presence/test_presence_actor.py"
PURE = "tests/presence/test_presence_pure.py"

ORDER = (
    Guard(
        "I6, I9: a repeat is dropped, and not held either", TOPIC,
        "if head is None or seq <= head:", "if head is None:",
        tests_in(TOPICS, "test_a_repeat_is_dropped_and_not_held"),
    ),
    Guard(
        "I4, I6: what is beyond a hole waits", TOPIC,
        "if seq == head + 1 and not self._held:", "if not self._held:",
        tests_in(TOPICS, "test_releases_are_the_prefix_in_order_each_once"),
    ),
    Guard(
        "I6: who has not read what was released is not live", TOPIC,
        "or subscriber not in self._apart or not self.in_step(position):", "or subscriber not in self._apart:",
        tests_in(TOPICS, "test_a_follower_behind_cannot_join"),
    ),
    Guard(
        "I8: who was removed while they read is not made live", TOPIC,
        "if self._apart is None or subscriber not in self._apart or not self.in_step(position):",
        "if self._apart is None or not self.in_step(position):",
        tests_in(TOPICS, "test_who_left_cannot_join"),
    ),
    Guard(
        "I6: who is ahead of the topic is not live", TOPIC,
        "if position > self.head:", "if position > self.head + 100:",
        tests_in(TOPICS, "test_a_follower_ahead_skips_what_it_has"),
    ),
    Guard(
        "I6: who was ahead becomes live with the event that they have", TOPIC,
        "at != _BEHIND and at <= released]", "at != _BEHIND and at <= (self.head or 0)]",
        tests_in(TOPICS, "test_a_follower_ahead_skips_what_it_has"),
    ),
    Guard(
        "I6: nobody is live before they have what was committed meanwhile", TOPIC,
        "return position >= (self.seen if self.head is None else self.head)", "return position >= (self.head or 0)",
        tests_in(TOPICS, "test_nobody_live_counts_but_releases_nothing"),
    ),
    Guard(
        "I7: a topic in which nobody is live says nothing of the store", HUB,
        "            fresh = fresh or topic.head is None\n", "",
        tests_in(HUBS, "test_a_topic_in_which_nobody_is_live_yet_says_nothing_of_the_store"),
    ),
    Guard(
        "in the sending session the ack stands in the event's place", HUB,
        "if subscriber.device_no == device_no and subscriber.epoch == epoch:  # is_own", "if False:  #",
        tests_in("tests/delivery/test_fan_out.py", "test_the_ack_stands_in_the_place_of_ones_own_event"),
    ),
    Guard(
        "I6: who was added again while they were replayed goes on there", "chatd/sessions/replay.py",
        "        if conv not in session.followed and session.ended is None:\n", "        if False:\n",
        tests_in("tests/sessions/test_replay.py", "test_who_was_added_again_meanwhile_goes_on_where_the_replay_ended"),
    ),
    Guard(
        "I6: a client has nothing beyond the log", "chatd/sessions/replay.py",
        "max(min(said.get(s.conv, s.cursor), s.last), s.first - 1)", "max(said.get(s.conv, s.cursor), s.first - 1)",
        tests_in("tests/sessions/test_positions.py", "test_what_a_client_claims_to_have_beyond_the_log_it_has_not"),
    ),
    Guard(
        "I8: nobody begins before their joined", "chatd/sessions/replay.py",
        "max(min(said.get(s.conv, s.cursor), s.last), s.first - 1)", "min(said.get(s.conv, s.cursor), s.last)",
        tests_in("tests/sessions/test_positions.py", "test_nobody_begins_before_their_time"),
    ),
)

REMOVAL = (
    Guard(
        "I8: who was removed is given nothing from their left event on", HUB,
        '            if kind == "left":\n                self._detach(topic, event)\n', "",
        tests_in(HUBS, "test_who_still_reads_the_store_is_not_detached"),
    ),
    Guard(
        "I6: only who is live is detached", HUB,
        "for subscriber in [subscriber for subscriber in topic.live if subscriber.user == user]:",
        "for subscriber in [subscriber for subscriber in topic.subscribers() if subscriber.user == user]:",
        tests_in(HUBS, "test_who_still_reads_the_store_is_not_detached", "test_who_is_ahead_of_a_removal_is_not_detached"),
    ),
    Guard(
        "I7: who was removed looks whether they were added again", HUB,
        "            subscriber.conversation_began(topic.conv)\n", "",
        tests_in(HUBS, "test_who_still_reads_the_store_is_not_detached"),
    ),
)

LOSSES = (
    Guard(
        "I6: the last event that the bus lost is noticed", REPAIR,
        "                    topic.note(head)\n", "",
        tests_in(HUBS, "test_the_last_message_that_the_bus_lost_is_found"),
    ),
    Guard(
        "I6: a hole that a look has found is filled", REPAIR,
        "                        self._hub.gapped.add(conv)\n", "",
        tests_in(HUBS, "test_the_last_message_that_the_bus_lost_is_found"),
    ),
    Guard(
        "I7: a membership that the bus lost is announced", REPAIR,
        "self._hub.announce(user, conv)", "pass",
        tests_in(HUBS, "test_a_membership_that_the_bus_lost_is_found"),
    ),
    Guard(
        "I6: an announcement makes a topic gapped", TOPIC,
        "        if seq > self.seen:\n            self.seen = seq\n\n", "\n",
        tests_in(TOPICS, "test_the_last_event_lost_is_noticed_by_its_announcement"),
    ),
    Guard(
        "a sign-out that the bus lost is found by looking", "chatd/delivery/endings.py",
        "self._hub.end_sessions(user, device_no, epoch)", "pass",
        tests_in(HUBS, "test_each_look_finds_what_has_ended_since"),
    ),
    Guard(
        "a sign-out stands in the store for the nodes to find", "chatd/adapters/sqlite/access.py",
        "[(*one, self._now) for one in ended]", "[(*one, self._now) for one in ended[:0]]",
        tests_in("tests/store/test_sqlite.py::TestSqliteDevices", "test_endings_are_found_by_looking"),
    ),
    Guard(
        "a sign-out is told to the other nodes", HUB,
        "        for one in envelope.ended:\n            self.end_sessions(*one)\n", "",
        tests_in(HUBS, "test_a_sign_out_goes_to_all_nodes"),
    ),
    Guard(
        "a sign-out reaches who is about to enter", HUB,
        "if self._ended.get(subscriber.device_no, 0) > epoch:", "if False:",
        tests_in(HUBS, "test_who_enters_after_the_sign_out_is_ended_too"),
    ),
    Guard(
        "the bus is subscribed again after a loss", BUS,
        "if wanted := [channel for channel in chunk if channel in self._channels]:",
        "if wanted := [channel for channel in chunk[:0] if channel in self._channels]:",
        tests_in(BUSES, "test_lost_is_said_after_the_channels_are_back"),
    ),
    Guard(
        "I6: the bus says that it may have lost something when it is back", BUS,
        "        if missed:\n            self._on_lost()\n", "",
        tests_in(BUSES, "test_lost_is_said_after_the_channels_are_back"),
    ),
    Guard(
        "a server that does not confirm holds nobody up", BUS,
        "CONFIRM_SECONDS = 1.0", "CONFIRM_SECONDS = 1000.0",
        tests_in("tests/bus/test_redis_bus.py", "test_a_silent_server_holds_nobody_up"),
    ),
    Guard(
        "a Redis that is silent is found out", "chatd/adapters/redis/link.py",
        "if heard == self._heard:", "if False:",
        tests_in("tests/redis/test_link.py", "test_a_silent_server_is_found_out"),
    ),
)

FORGERY = (
    Guard(
        "the bus: what no node of this server sealed is dropped", ENVELOPE,
        "if not compare_digest(self._code(node, channel, body), code):", "if False:",
        tests_in(ENVELOPES),
    ),
    Guard(
        "the bus: a node's name is proven, too", ENVELOPE,
        'code.update(b"%b%b\\0%b" % (node, channel, body))', 'code.update(b"%b\\0%b" % (channel, body))',
        tests_in(ENVELOPES, "test_what_is_not_as_it_was_sealed_is_a_forgery"),
    ),
    Guard(
        "the bus: nothing is played again on another channel", ENVELOPE,
        'code.update(b"%b%b\\0%b" % (node, channel, body))', 'code.update(b"%b\\0%b" % (node, body))',
        tests_in(ENVELOPES, "test_what_was_sealed_for_one_channel_is_a_forgery_on_another"),
    ),
    Guard(
        "the bus: the code is of this deployment's key", ENVELOPE,
        'derived = blake2b(key, digest_size=32, person=b"chatd-bus").digest()', "derived = bytes(32) if key else key",
        tests_in(ENVELOPES, "test_who_has_not_the_key_seals_nothing"),
    ),
    Guard(
        "the bus: forgeries are counted", HUB,
        "            self._metrics.bus_forged += 1\n", "",
        tests_in(ENVELOPES, "test_the_hub_drops_and_counts_forgeries"),
    ),
    Guard(
        "the bus key is not the signing key", "chatd/accounts/tokens.py",
        'self.bus_key = blake2b(key, digest_size=32, person=b"chatd-bus-key").digest()', "self.bus_key = key",
        tests_in("tests/accounts/test_tokens.py", "test_bus_key_is_another_one"),
    ),
    Guard(
        "the board: what is no lease of ours is left out", BOARD,
        ' or parts[2] not in (b"0", b"1", b"2"):', ":",
        tests_in(BOARDS, "test_what_is_not_ours_is_left_out"),
    ),
)

LEASES = (
    Guard(
        "presence: the lease of a node that died ends, on the board", BOARD,
        "if ends and tonumber(ends) > now then", "if ends then ends = math.max(ends, now + 1000)",
        tests_in(BOARDS, "test_a_lease_ends_by_itself"),
    ),
    Guard(
        "presence: ... and where it is known", WATCHED,
        "if held.until <= now and name != node]:", "if held.until < 0 and name != node]:",
        tests_in(PURE, "test_leases_of_other_nodes_run_out_and_own_ones_do_not"),
    ),
    Guard(
        "presence: a flush is noticed", BOARD,
        "if before and self._board != before:", "if False:",
        tests_in(BOARDS, "test_a_flush_is_noticed"),
    ),
    Guard(
        "presence: what was heard during a read is not undone by it", WATCHING,
        "if watched.heard != heard:", "if False:",
        tests_in(PRESENCE, "test_what_was_heard_during_a_read_is_not_undone_by_it"),
    ),
    Guard(
        "presence: while Redis is away, what is known holds", WATCHED,
        "Held(held.state, max(held.until, until))", "Held(held.state, held.until)",
        tests_in(PURE, "test_leases_of_other_nodes_run_out_and_own_ones_do_not"),
    ),
    Guard(
        "presence: who comes back within the expiry was never gone", "chatd/presence/roster.py",
        "person.gone_at = now + self.expiry", "person.gone_at = now",
        tests_in(PURE, "test_who_comes_back_was_never_gone"),
    ),
    Guard(
        "typing: a lease ends by itself", "chatd/delivery/typing.py",
        "return [(lease, self._forget(lease)) for lease in self._timers.due(now)]", "return []",
        tests_in("tests/delivery/test_typing.py", "test_leases_against_a_model"),
    ),
    Guard(
        "devices: a node that died takes its devices offline", "chatd/adapters/sqlite/reads.py",
        'ON n.id = d.node AND n.until > ?2"', 'ON n.id = d.node AND ?2 > 0"',
        tests_in("tests/store/test_sqlite.py::TestSqliteDevices", "test_online_is_a_session_on_a_node_that_runs"),
    ),
    Guard(
        "devices: a session that is over says nothing of a newer one", "chatd/adapters/sqlite/access.py",
        "for no, epoch in call.left if self._cache.device(no).epoch == epoch]", "for no, epoch in call.left]",
        tests_in("tests/store/test_sqlite.py::TestSqliteDevices", "test_online_is_a_session_on_a_node_that_runs"),
    ),
)
