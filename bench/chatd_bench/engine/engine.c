/* The timed run of a load generator: thousands of WebSocket clients behind one epoll.
 *
 * Python connects, logs in and joins (driver.py), hands over descriptors with templates and rules (native.py), and
 * calls engine_run until some moment, as often as it likes. Nothing here knows a dialect: see dialects/dialect.py for what
 * it is told, and what it checks on every message. The first fault ends the run; its text is engine_fault's.
 * Times are microseconds of CLOCK_MONOTONIC. The descriptors stay Python's; memory is freed with the process.
 */

#define _GNU_SOURCE
#include "judging.h"

/* --- the loop ------------------------------------------------------------------------------- */

static int64_t plan_due(const engine *e) {
    return e->plan_at < e->plan_size ? e->plan_from + e->plan_due[e->plan_at] : INT64_MAX;
}

static void send_due(engine *e, int64_t now) {
    for (int i = 0; i < DUE_AT_ONCE && plan_due(e) <= now; i++) {
        uint32_t place_index = e->plan_place[e->plan_at];
        if (!e->clients[e->places[place_index].connection].closed) send_message(e, place_index, plan_due(e), now);
        e->plan_at++;
    }
}

static int64_t beat_at(const engine *e, uint32_t place) { return e->clients[e->beats[place]].beat_due; }

static void swap_beats(engine *e, uint32_t one, uint32_t other) {
    uint32_t index = e->beats[one];
    e->beats[one] = e->beats[other], e->beats[other] = index;
}

static void sink_first_beat(engine *e) {
    for (uint32_t place = 0, child; (child = 2 * place + 1) < e->beat_count; place = child) {
        if (child + 1 < e->beat_count && beat_at(e, child + 1) < beat_at(e, child)) child++;
        if (beat_at(e, place) <= beat_at(e, child)) return;
        swap_beats(e, place, child);
    }
}

static void beat_due(engine *e, int64_t now) {
    while (e->beat_count && beat_at(e, 0) <= now) {
        client *c = &e->clients[e->beats[0]];
        if (c->closed) e->beats[0] = e->beats[--e->beat_count];
        else {
            write_out(e, c, e->is.text ? 1 : 2, c->beat, c->beat_size);
            e->beats_sent += !c->slow;
            c->beat_due += e->is.heartbeat_us;
        }
        sink_first_beat(e);
    }
}

static int read_slowly(engine *e, int64_t now) {
    if (!e->slow_count || now < e->slow_due) return 0;
    e->slow_due = now + SLOW_EVERY_US;
    for (uint32_t i = 0; i < e->slow_count; i++) {
        client *c = &e->clients[e->slow[i]];
        if (c->closed || !c->slow) continue;
        if (now >= c->slow_until) c->slow = 0, watch(e, c, e->slow[i]);
        else if (c->slow_bytes && read_some(e, c, (size_t)c->slow_bytes)) return -1;
    }
    return 0;
}

static int wait_ready(const engine *e, struct epoll_event *ready, int64_t until, int64_t now) {
    int64_t next = plan_due(e) < until ? plan_due(e) : until;
    if (e->slow_count && e->slow_due < next) next = e->slow_due;
    if (e->beat_count && beat_at(e, 0) < next) next = beat_at(e, 0);
    int64_t left = next > now ? next - now : 0;
    struct timespec timeout = {left / 1000000, left % 1000000 * 1000};
    int count = (int)syscall(SYS_epoll_pwait2, e->epoll, ready, READY, &timeout, NULL, 0);
    /* Kernels before 5.11: whole milliseconds, and the rest of one by asking again. */
    return count < 0 && errno == ENOSYS ? epoll_wait(e->epoll, ready, READY, (int)(left / 1000)) : count;
}

static int serve(engine *e, const struct epoll_event *event) {
    client *c = &e->clients[event->data.u32];
    if (c->closed) return 0;
    if (event->events & EPOLLOUT && flush(e, c)) return -1;
    if (c->closed || !(event->events & ~(uint32_t)EPOLLOUT)) return 0;
    return read_some(e, c, RECEIVE_BYTES);
}

/* Until `until`; 0, or -1 at a fault. */
int engine_run(engine *e, int64_t until) {
    struct epoll_event ready[READY];
    take_unread(e);
    for (int64_t now; !e->fault[0] && (now = clock_us()) < until;) {
        send_due(e, now);
        beat_due(e, now);
        if (read_slowly(e, now) || flush_dirty(e)) break;
        int count = wait_ready(e, ready, until, now);
        for (int i = 0; i < count; i++) {
            if (i % READS_BETWEEN_SENDS == 0) send_due(e, clock_us());  /* many may be ready: what is due must not wait for all */
            if (serve(e, &ready[i]) || flush_dirty(e)) break;
        }
    }
    return e->fault[0] ? -1 : 0;
}

/* --- what Python says before it runs -------------------------------------------------------- */

engine *engine_new(const config *given, uint64_t seed) {
    engine *e = calloc(1, sizeof *e);
    if (!e) abort();
    e->is = *given;
    e->mask_state = seed | 1;
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->channels = calloc((size_t)given->channels + 1, sizeof *e->channels);
    e->client_of = malloc(((size_t)given->users + 1) * sizeof *e->client_of);
    memset(e->client_of, 0xff, ((size_t)given->users + 1) * sizeof *e->client_of);
    e->samples = calloc((size_t)given->sample_slots, sizeof *e->samples);
    e->buffer = malloc(BUFFER_BYTES);
    e->scratch = malloc(1 << 20);
    e->earliest_stamp = clock_us();
    if (!e->channels || !e->client_of || !e->samples || !e->buffer || !e->scratch || e->epoll < 0) abort();
    return e;
}

static match made_match(const uint8_t *bytes, size_t size, size_t at) { return (match){copied(bytes, size), size, at}; }

void engine_ack(engine *e, const uint8_t *bytes, size_t size, size_t at) { e->ack = made_match(bytes, size, at); }

void engine_position(engine *e, const uint8_t *key, size_t size) { e->position = made_match(key, size, 0); }

/* What may come; `answer` is NULL where it is only counted. -1 when there are too many. */
int engine_rule(engine *e, const uint8_t *bytes, size_t size, size_t at, const uint8_t *answer, size_t answer_size, int counter) {
    if (e->rule_count == RULES || counter >= RULES) return -1;
    e->rules[e->rule_count++] = (rule){made_match(bytes, size, at), answer ? copied(answer, answer_size) : NULL, answer_size, counter};
    return 0;
}

static void place_rank(engine *e, uint64_t key, uint32_t rank) {
    uint64_t i = key * 0x9E3779B97F4A7C15ULL >> 20;
    while (e->rank_keys[i & (e->rank_room - 1)]) i++;
    e->rank_keys[i & (e->rank_room - 1)] = key;
    e->rank_values[i & (e->rank_room - 1)] = rank;
}

/* Who writes to a channel, in the order of their ranks. Before anybody joins it. */
void engine_channel(engine *e, uint32_t number, const uint32_t *senders, uint32_t count) {
    if ((e->rank_count + count) * 2 > e->rank_room) {
        uint64_t *keys = e->rank_keys;
        uint32_t *values = e->rank_values, old = e->rank_room;
        while (e->rank_room < (e->rank_count + count) * 4 || e->rank_room < 64) e->rank_room = e->rank_room ? e->rank_room * 2 : 64;
        e->rank_keys = calloc(e->rank_room, sizeof *e->rank_keys);
        e->rank_values = calloc(e->rank_room, sizeof *e->rank_values);
        if (!e->rank_keys || !e->rank_values) abort();
        for (uint32_t i = 0; i < old; i++)
            if (keys[i]) place_rank(e, keys[i], values[i]);
        free(keys), free(values);
    }
    e->channels[number].senders = count;
    e->rank_count += count;
    for (uint32_t rank = 0; rank < count; rank++) place_rank(e, ((uint64_t)number << 32 | senders[rank]) + 1, rank);
}

/* Take over a live connection with what was read from it already; returns its index, and its places follow. */
uint32_t engine_connection(engine *e, int fd, uint32_t user, uint32_t cseq, uint32_t ack_offset, const uint8_t *in, size_t size) {
    uint32_t room = e->client_room;
    e->clients = grown(e->clients, &e->client_room, e->client_count + 1, sizeof *e->clients);
    if (e->client_room != room) {
        e->dirty = realloc(e->dirty, e->client_room * sizeof *e->dirty);
        e->slow = realloc(e->slow, e->client_room * sizeof *e->slow);
        if (!e->dirty || !e->slow) abort();
    }
    uint32_t index = e->client_count++;
    e->clients[index] = (client){.fd = fd, .user = user, .cseq = cseq, .ack_offset = ack_offset, .slow_bytes = -1,
                                 .in = size ? copied(in, size) : NULL, .in_size = size, .first_place = e->place_count};
    e->client_of[user] = (int32_t)index;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &event);
    return index;
}

static program made_program(const operation *operations, int count) {
    program made = {count ? copied(operations, sizeof *operations * (size_t)count) : NULL, count};
    for (int i = 0; i < count; i++)
        if (!made.operations[i].kind) made.operations[i].bytes = copied(made.operations[i].bytes, made.operations[i].size);
    return made;
}

/* The last connection joins a channel; `sends` is empty for who only listens. Returns the place's index. */
uint32_t engine_place(engine *e, uint32_t channel_number, uint64_t position, const operation *sends, int send_count,
                      const operation *marks, int mark_count, uint32_t mark_every) {
    e->places = grown(e->places, &e->place_room, e->place_count + 1, sizeof *e->places);
    uint32_t *received = calloc(e->channels[channel_number].senders + 1, sizeof *received);
    if (!received) abort();
    e->clients[e->client_count - 1].places++;
    e->places[e->place_count] = (place){.connection = e->client_count - 1, .channel = channel_number, .position = position,
                                        .rest_bytes = -1, .received = received, .mark_every = mark_every,
                                        .send = made_program(sends, send_count), .mark = made_program(marks, mark_count)};
    return e->place_count++;
}

void engine_heartbeat(engine *e, uint32_t index, const uint8_t *message, size_t size, int64_t first) {
    client *c = &e->clients[index];
    c->beat = copied(message, size), c->beat_size = size, c->beat_due = first;
    e->beats = grown(e->beats, &e->beat_room, e->beat_count + 1, sizeof *e->beats);
    e->beats[e->beat_count] = index;
    for (uint32_t place = e->beat_count++; place && beat_at(e, (place - 1) / 2) > beat_at(e, place); place = (place - 1) / 2)
        swap_beats(e, place, (place - 1) / 2);
}

/* From now until then it reads no more than that; it is not measured, and the server may end it. What it got before
 * is no part of `delivered` any more, which can then be compared with what all others have to get. */
void engine_slow(engine *e, uint32_t index, int64_t bytes_per_second, int64_t until) {
    client *c = &e->clients[index];
    e->delivered -= c->delivered;
    c->delivered = 0;
    c->slow = 1, c->slow_bytes = bytes_per_second * SLOW_EVERY_US / 1000000, c->slow_until = until;
    e->slow[e->slow_count++] = index;
    watch(e, c, index);
}

void engine_drop(engine *e, uint32_t index) {
    if (!e->clients[index].closed) end_connection(e, &e->clients[index]);
}

/* Ascending times, counted from `from`; the caller keeps the memory. What was planned before is forgotten. */
void engine_plan(engine *e, const int64_t *due, const uint32_t *places, uint64_t size, int64_t from) {
    e->plan_due = due, e->plan_place = places, e->plan_size = size, e->plan_at = 0, e->plan_from = from;
}

int engine_window(engine *e, int64_t from, int64_t until) {
    if (e->window_count == WINDOWS) return -1;
    e->windows[e->window_count] = (window){.from = from, .until = until};
    return e->window_count++;
}

/* Closed loop, from now on: every sender fills its window, and sends the next for each that is done, until then. */
void engine_fill(engine *e, uint32_t in_flight, int64_t until) {
    e->closed_until = until;
    for (uint32_t i = 0; i < e->client_count; i++) {
        e->clients[i].window = in_flight;
        for (uint32_t sent = 0; sent < in_flight; sent++) send_next(e, &e->clients[i], clock_us());
    }
}

/* --- what Python asks ----------------------------------------------------------------------- */

const char *engine_fault(const engine *e) { return e->fault; }

/* sent, acked, delivered, heartbeats, slow readers that were sent away, what is left of the plan. */
void engine_totals(const engine *e, uint64_t *to) {
    uint64_t totals[] = {e->sent, e->acked, e->delivered, e->beats_sent, e->slow_ended, e->plan_size - e->plan_at};
    memcpy(to, totals, sizeof totals);
}

uint64_t engine_counter(const engine *e, int index) { return e->counters[index]; }

const uint64_t *engine_latencies(const engine *e, int index, int which) { return e->windows[index].latencies[which]; }

void engine_window_totals(const engine *e, int index, uint64_t *to) {
    const window *w = &e->windows[index];
    to[0] = w->sent, to[1] = w->acked, to[2] = w->delivered;
}

int engine_buckets(void) { return BUCKETS; }

int engine_closed(const engine *e, uint32_t index) { return e->clients[index].closed; }

uint32_t engine_in_flight(const engine *e, uint32_t index) { return e->clients[index].last_flight - e->clients[index].first_flight; }

uint32_t engine_sent(const engine *e, uint32_t index) { return e->places[index].sent; }

const uint32_t *engine_received(const engine *e, uint32_t index) { return e->places[index].received; }

uint64_t engine_order(const engine *e, uint32_t index) { return e->places[index].order; }

uint64_t engine_sample_count(const engine *e) {
    return e->sampled < (uint64_t)e->is.sample_slots ? e->sampled : (uint64_t)e->is.sample_slots;
}

const uint8_t *engine_sample(const engine *e, uint64_t index, uint32_t *at_place, uint32_t *slot, size_t *size) {
    const sample *s = &e->samples[index];
    *at_place = s->place, *slot = s->slot, *size = s->size;
    return s->bytes;
}
