"""The guards of the wire: what a peer may send, how much of it and how slowly, and that a fault in it ends nobody else."""

from __future__ import annotations

from tests.guards.guard import Guard, tests_in

FRAMES = "chatd/wire/frames.py"
LINK = "chatd/wire/link.py"
STREAM = "chatd/wire/stream_link.py"
POLLER = "chatd/wire/poller.py"
HEAD = "chatd/listener/head.py"
HTTP = "chatd/listener/http.py"
LISTENER = "chatd/listener/listener.py"
CBOR = "protocol/chatd_protocol/cbor.py"
JSON = "protocol/chatd_protocol/json_form.py"
CODEC = "protocol/chatd_protocol/codec.py"

FRAME_TESTS = "tests/wire/test_frames.py"
LINK_TESTS = "tests/wire/test_link.py"
HEAD_TESTS = "tests/http/test_head.py"
SERVING = "tests/http/test_http_serving.py"
DOOR = "tests/http/test_listener.py"
CODEC_TESTS = "tests/protocol/test_codec.py"
VECTORS = "tests/protocol/test_vectors.py"

BROKEN = tests_in(FRAME_TESTS, "test_broken_frames_are_refused")

RFC_6455 = (
    Guard(
        "5.1: a client's frames are masked", FRAMES,
        "if not second & 0x80:", "if False:",
        BROKEN,
    ),
    Guard(
        "5.2: no reserved bits", FRAMES,
        "if first & 0x70:", "if False:",
        BROKEN,
    ),
    Guard(
        "5.2: known opcodes", FRAMES,
        "if opcode > PONG or 0x3 <= opcode <= 0x7:", "if False:",
        BROKEN,
    ),
    Guard(
        "5.2: lengths in their shortest form", FRAMES,
        "if size < (126 if width == 2 else 65536):", "if False:",
        BROKEN,
    ),
    Guard(
        "5.4: no message within a message", FRAMES,
        "elif self._fragments is not None:\n            raise", "elif False:\n            raise",
        BROKEN,
    ),
    Guard(
        "5.4: no continuation of nothing", FRAMES,
        'if self._fragments is None:\n                raise FrameError(PROTOCOL_ERROR, "continuation of no message")  # 5.4',
        "pass",
        BROKEN,
    ),
    Guard(
        "5.5: control frames are whole", FRAMES,
        "if not first & 0x80:\n                raise", "if False:\n                raise",
        BROKEN,
    ),
    Guard(
        "5.5: control frames are of 125 bytes", FRAMES,
        "if second & 0x7F > MAX_CONTROL_PAYLOAD:", "if False:",
        BROKEN,
    ),
    Guard(
        "8.1: text is UTF-8", FRAMES,
        "if opcode == TEXT:\n        try:", "if False:\n        try:",
        BROKEN,
    ),
    Guard(
        "8.1: text that is none is refused before its last fragment", FRAMES,
        "if self._fragment_opcode != TEXT or self._fragments is None:", "if True:",
        BROKEN,
    ),
    Guard(
        "7.4: close codes that may be sent", FRAMES,
        "if code not in _SENDABLE_CODES and not 3000 <= code <= 4999:", "if False:",
        tests_in(FRAME_TESTS, "test_close_codes_that_may_not_be_sent"),
    ),
    Guard(
        "I9: a frame is so large, by its head alone", FRAMES,
        "if size > self._max_message:", "if False:",
        tests_in(FRAME_TESTS, "test_an_oversize_frame_is_refused_before_its_payload"),
    ),
    Guard(
        "I9: fragments together are so large", FRAMES,
        "if sum(map(len, self._fragments)) > self._max_message:", "if False:",
        tests_in(FRAME_TESTS, "test_fragments_together_meet_the_limit"),
    ),
    Guard(
        "I9: a message has so many fragments", FRAMES,
        "if len(self._fragments) > MAX_FRAGMENTS:", "if False:",
        tests_in(FRAME_TESTS, "test_empty_fragments_are_counted"),
    ),
    Guard(
        "a session has frames of one kind", "chatd/sessions/session.py",
        "elif opcode != frames.PONG:", "elif False:",
        tests_in("tests/sessions/test_bounds.py", "test_frames_of_the_other_kind_end_the_session"),
    ),
)

MESSAGES = (
    Guard(
        "I9: a message is so large", CODEC,
        "if len(data) > bound:", "if False:",
        tests_in(CODEC_TESTS, "test_size_bounds"),
    ),
    Guard(
        "CBOR: no tags", CBOR,
        '    "semantic_decoders": dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag),\n', "",
        tests_in(VECTORS, "test_refused"),
    ),
    Guard(
        "CBOR: no tags that nobody knows", CBOR,
        '    "tag_hook": _refuse_tag,\n', "",
        tests_in(CODEC_TESTS, "test_every_tag_is_refused"),
    ),
    Guard(
        "CBOR: definite lengths", CBOR,
        '"allow_indefinite": False,', '"allow_indefinite": True,',
        tests_in(VECTORS, "test_refused"),
    ),
    Guard(
        "CBOR: each key once", CBOR,
        '"allow_duplicate_keys": False,', '"allow_duplicate_keys": True,',
        tests_in(VECTORS, "test_refused"),
    ),
    Guard(
        "CBOR: nothing behind the message", CBOR,
        "if end != _SEAL or _SEAL in data:", "if end != _SEAL:",
        tests_in(CODEC_TESTS, "test_who_knows_the_seal_smuggles_nothing_behind_a_message"),
    ),
    Guard(
        "CBOR: nothing behind the message, the slow way", CBOR,
        "if source.tell() != len(data):", "if False:",
        tests_in(VECTORS, "test_refused"),
    ),
    Guard(
        "so deep, and no deeper", CBOR,
        "if depth > MAX_DEPTH:", "if False:",
        tests_in(CODEC_TESTS, "test_depth_in_json"),
    ),
    Guard(
        "maps and arrays in CBOR: so many", CBOR,
        "if containers > MAX_CONTAINERS:", "if False:",
        tests_in(CODEC_TESTS, "test_what_takes_long_to_read_is_refused"),
    ),
    Guard(
        "maps and arrays in JSON: so many", JSON,
        'if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:', "if False:",
        tests_in(CODEC_TESTS, "test_what_takes_long_to_read_is_refused"),
    ),
    Guard(
        "items: so many", CODEC,
        "if weight > cbor.MAX_ITEMS:", "if False:",
        tests_in(CODEC_TESTS, "test_what_takes_long_to_read_is_refused"),
    ),
    Guard(
        "numbers are finite", CBOR,
        "if not isfinite(value):", "if False:",
        tests_in(VECTORS, "test_refused"),
    ),
    Guard(
        "JSON: each key once", JSON,
        "if len(fields) != len(pairs):", "if False:",
        tests_in(VECTORS, "test_refused"),
    ),
    Guard(
        "JSON: no half of a surrogate pair", JSON,
        'if b"\\\\u" in data:', "if False:",
        tests_in(CODEC_TESTS, "test_half_of_a_surrogate_pair_is_called_so"),
    ),
    Guard(
        "JSON: bytes have one form", JSON,
        'return data if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text else otherwise', "return data",
        tests_in(CODEC_TESTS, "test_base64_in_another_form_is_no_bytes"),
    ),
    Guard(
        "CBOR: what is read quickly is whole", "protocol/chatd_protocol/plain_send.py",
        "if at + size == len(data) else None", "if at + size <= len(data) else None",
        tests_in("tests/protocol/test_plain_send.py", "test_damaged_sends_are_never_read_otherwise"),
    ),
    Guard(
        "a page has so many events", "protocol/chatd_protocol/messages.py",
        "Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]", "Limit = Annotated[int, Meta(ge=1)]",
        tests_in(VECTORS, "test_refused"),
    ),
)

HTTP_HEADS = (
    Guard(
        "I9: a head is so large", HEAD,
        "if len(data) >= MAX_HEAD_BYTES:", "if False:",
        tests_in(HEAD_TESTS, "test_head_end_bounds"),
    ),
    Guard(
        "I9: a head has so many headers", HEAD,
        'if data.count(b"\\r\\n") > MAX_HEADERS + 2:', "if False:",
        tests_in(HEAD_TESTS, "test_bad_heads"),
    ),
    Guard(
        "lines end in one way", HEAD,
        "if _BARE_LINE_END.search(data) or _FOLDED_LINE.search(data) or _CONTROL.search(data):", "if False:",
        tests_in(HEAD_TESTS, "test_bad_heads"),
    ),
    Guard(
        "a body has one length", HEAD,
        'if head.all(b"content-length") and head.all(b"transfer-encoding"):', "if False:",
        tests_in(HEAD_TESTS, "test_bad_heads"),
    ),
    Guard(
        "a host stands once", HEAD,
        'if names.count(b"host") != 1 or not', "if not",
        tests_in(HEAD_TESTS, "test_bad_heads"),
    ),
    Guard(
        "a handshake is ASCII", HEAD,
        "if any(not (name.isascii() and value.isascii()) for name, value in head.headers):", "if False:",
        tests_in(HEAD_TESTS, "test_bad_upgrades", "test_any_value_of_any_handshake_header"),
    ),
    Guard(
        "a host is one that others can read", HEAD,
        'host.decode("idna")', 'host.decode("ascii")',
        tests_in(HEAD_TESTS, "test_bad_upgrades"),
    ),
    Guard(
        "each header of a handshake stands once", HEAD,
        "    _check_handshake(head)\n", "",
        tests_in(HEAD_TESTS, "test_bad_upgrades"),
    ),
    Guard(
        "a subprotocol in common", HEAD,
        "if choose_subprotocol(head) is None:", "if False:",
        tests_in(HEAD_TESTS, "test_bad_upgrades"),
    ),
    Guard(
        "no tunnels", HEAD,
        'if request.method == b"CONNECT":', 'if request.method == b"":',
        tests_in(SERVING, "test_hostile_heads"),
    ),
    Guard(
        "I9: a body is so large", HTTP,
        "if len(body) > self._limits.body_bytes:", "if False:",
        tests_in(SERVING, "test_oversize_bodies"),
    ),
    Guard(
        "I9: a body has so many chunks", HTTP,
        "if chunks > self._limits.chunks:", "if False:",
        tests_in(SERVING, "test_a_body_has_so_many_chunks"),
    ),
    Guard(
        "who is refused for too many requests has the connection closed", HTTP,
        "if last or response.status == HTTPStatus.TOO_MANY_REQUESTS:", "if last:",
        tests_in(SERVING, "test_who_is_refused_for_too_many_has_the_connection_closed"),
    ),
    Guard(
        "I9: a connection makes so many requests", HTTP,
        "last=turn == self._limits.requests - 1", "last=False",
        tests_in(SERVING, "test_connection_ends_after_its_requests"),
    ),
    Guard(
        "a head comes within its time", HTTP,
        "head: float = 5", "head: float = 3600",
        tests_in(SERVING, "test_slow_head_is_cut"),
    ),
    Guard(
        "a body comes within its time", HTTP,
        "with trio.move_on_after(self._deadlines.body):", "with trio.move_on_after(self._deadlines.body * 100):",
        tests_in(SERVING, "test_slow_body_is_cut"),
    ),
    Guard(
        "who falls silent is closed", HTTP,
        "idle: float = 15", "idle: float = 3600",
        tests_in(SERVING, "test_silent_connections_end"),
    ),
    Guard(
        "who does not read is closed", HTTP,
        "send: float = 10", "send: float = 3600",
        tests_in(SERVING, "test_client_that_does_not_read"),
    ),
    Guard(
        "a fault of ours is one request's", HTTP,
        'except Exception:\n            log.exception("http.failed"',
        'except ZeroDivisionError:\n            log.exception("http.failed"',
        tests_in(SERVING, "test_faults_of_ours_are_500"),
    ),
)

CONNECTIONS = (
    Guard(
        "I9: so many connections, in all", LISTENER,
        "return self.connections >= self._max_connections or self._per_address", "return self._per_address",
        tests_in(DOOR, "test_there_are_so_many_connections"),
    ),
    Guard(
        "I9: so many connections of an address", LISTENER,
        " or self._per_address[address] >= self._max_per_address\n", "\n",
        tests_in(DOOR, "test_there_are_so_many_connections"),
    ),
    Guard(
        "a crowd is not told for ever", LISTENER,
        "if self._tls is None and not self._telling.take(trio.current_time()):", "if True:",
        tests_in(DOOR, "test_a_crowd_is_not_told_for_ever"),
    ),
    Guard(
        "who may not is closed without a task", "chatd/listener/accepting.py",
        "if not admit(peer):", "if False:",
        tests_in("tests/http/test_accepting.py", "test_who_is_not_admitted_is_closed"),
    ),
    Guard(
        "who goes makes room", LISTENER,
        "if not carried:\n                self._left(address)", "pass",
        tests_in(DOOR, "test_there_are_so_many_connections"),
    ),
    Guard(
        "I9: so many farewells", LISTENER,
        "self._tls is not None or self._farewells >= MAX_FAREWELLS:", "self._tls is not None:",
        tests_in(DOOR, "test_farewells_are_bounded"),
    ),
    Guard(
        "an address connects so often", LISTENER,
        "if verdict.wait_s > 0:\n            self._metrics.connections_refused += 1",
        "if False:\n            self._metrics.connections_refused += 1",
        tests_in(DOOR, "test_an_address_may_connect_so_often"),
    ),
    Guard(
        "who says nothing to a TLS server is closed", LISTENER,
        "with trio.fail_after(self._handshake_seconds):", "with trio.fail_after(3600):",
        tests_in(DOOR, "test_who_says_nothing_is_closed"),
    ),
    Guard(
        "who says nothing is closed", LISTENER,
        "Deadlines(head=handshake_seconds)", "Deadlines(head=3600)",
        tests_in(DOOR, "test_who_says_nothing_is_closed"),
    ),
    Guard(
        "a connection's fault is its own", LISTENER,
        "except Exception:\n            self._metrics.connection_faults += 1\n"
        '            log.exception("connection.failed")\n        finally:\n            if not carried:',
        "finally:\n            if not carried:",
        tests_in(DOOR, "test_a_fault_ends_one_connection_alone"),
    ),
    Guard(
        "I9: the kernel keeps so much of what one sends", "chatd/listener/accepting.py",
        "        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)\n", "",
        tests_in("tests/http/test_accepting.py", "test_the_kernel_keeps_so_much_of_a_connection"),
    ),
    Guard(
        "I9: the kernel keeps so much of what one does not read", "chatd/listener/accepting.py",
        "        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)\n", "",
        tests_in("tests/http/test_accepting.py", "test_the_kernel_keeps_so_much_of_a_connection"),
    ),
    Guard(
        "where there is no descriptor, the listener waits for one", "chatd/listener/accepting.py",
        "if fault.errno in _CAPACITY:",
        "if fault.errno in _CAPACITY:\n                        raise\n                    if False:",
        tests_in("tests/http/test_accepting.py", "test_no_room_is_no_end"),
    ),
)

LINKS = (
    Guard(
        "I9: an outbox has so many bytes", LINK,
        "(box.bytes > self._max_bytes or len(box.frames) > self._max_frames)", "len(box.frames) > self._max_frames",
        tests_in(LINK_TESTS, "test_an_outbox_is_bounded_in_bytes"),
    ),
    Guard(
        "I9: an outbox has so many frames", LINK,
        "(box.bytes > self._max_bytes or len(box.frames) > self._max_frames)", "box.bytes > self._max_bytes",
        tests_in(LINK_TESTS, "test_an_outbox_is_bounded_in_frames"),
    ),
    Guard(
        "I9: a batch gathers so much for a link", LINK,
        "if self._pending_bytes > self._max_bytes:", "if False:",
        tests_in(LINK_TESTS, "test_what_is_gathered_is_bounded"),
    ),
    Guard(
        "a farewell is not written into a frame", LINK,
        "kept = self.frames[0] if self.started and self.frames else None", "kept = None",
        tests_in(LINK_TESTS, "test_a_farewell_comes_whole_behind_the_frame_that_is_half_out"),
    ),
    Guard(
        "who reads no farewell is closed hard", LINK,
        "        self._registry.schedule_abort(self, LINGER_SECONDS)\n", "",
        tests_in(LINK_TESTS, "test_who_reads_no_farewell_is_closed_hard"),
    ),
    Guard(
        "who is not to be read is not read", LINK,
        "readable=not self._paused, writable=self._outbox is not None", "readable=True, writable=self._outbox is not None",
        tests_in(LINK_TESTS, "test_a_link_that_is_not_to_be_read_is_not_watched"),
    ),
    Guard(
        "a fault behind a link ends that link alone", POLLER,
        "except Exception:", "except ZeroDivisionError:",
        tests_in(LINK_TESTS, "test_a_fault_behind_a_link_ends_that_link_alone"),
    ),
    Guard(
        "a fault in a flush ends that link alone", LINK,
        "except Exception:  #", "except ZeroDivisionError:  #",
        tests_in(LINK_TESTS, "test_a_fault_in_a_flush_keeps_nothing_from_the_others"),
    ),
    Guard(
        "I9: TLS: an outbox has so many bytes", STREAM,
        "if self.waiting_bytes > self._max_bytes or len(self._outbox.frames) > self._max_frames:",
        "if len(self._outbox.frames) > self._max_frames:",
        tests_in(LINK_TESTS, "test_a_stream_is_bounded_too"),
    ),
    Guard(
        "I9: TLS: an outbox has so many frames", STREAM,
        " or len(self._outbox.frames) > self._max_frames:", ":",
        tests_in(LINK_TESTS, "test_a_stream_is_bounded_too"),
    ),
    Guard(
        "TLS: who reads no farewell is closed hard", STREAM,
        "        self._scope.deadline = trio.current_time() + LINGER_SECONDS\n", "",
        tests_in(LINK_TESTS, "test_a_stream_is_bounded_too"),
    ),
    Guard(
        "who writes is heard beside a flood", POLLER,
        "READ_BYTES = 4096", "READ_BYTES = 65536",
        tests_in("tests/wire/test_poller.py", "test_who_writes_is_heard_beside_a_flood"),
    ),
    Guard(
        "who writes is heard among thousands who are gone", POLLER,
        "if not ends:\n                        continue\n                    ends -= 1", "pass",
        tests_in("tests/wire/test_poller.py", "test_who_writes_is_heard_among_many_who_have_gone"),
    ),
)
