/* The timed run of a load generator: thousands of WebSocket clients behind one epoll.
 *
 * Python connects, logs in and joins (driver.py), hands over descriptors with templates and rules (native.py), and
 * calls engine_run until some moment, as often as it likes. Nothing here knows a dialect: see dialects/dialect.py for what
 * it is told, and what it checks on every message. The first fault ends the run; its text is engine_fault's.
 * Times are microseconds of CLOCK_MONOTONIC. The descriptors stay Python's; memory is freed with the process.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

enum { RECEIVE_BYTES = 256 * 1024, BUFFER_BYTES = 4 * 1024 * 1024, READY = 512, RULES = 64, WINDOWS = 8 };
enum { DUE_AT_ONCE = 64, SLOW_EVERY_US = 100000, SHOWN_BYTES = 300 };
enum { BODY = 1, CSEQ_CBOR, CSEQ_DECIMAL, POSITION_CBOR, POSITION_DECIMAL, NEXT_FRAME };
enum { CREDIT_BY_ACK, CREDIT_BY_ECHO, CREDIT_BY_DELIVERY };
enum { LATENCY_DELIVERY, LATENCY_ACK, LATENCY_LAG, LATENCIES };

typedef struct {
    int32_t users, channels, body_bytes, text;
    int32_t ack_number, ack_cumulative, ack_position, position_number;  /* a number of 0: there is none */
    int32_t length_slack, credit, echoes, sample_every, sample_slots;
    int64_t heartbeat_us;
} config;

typedef struct { uint8_t *bytes; size_t size, at; } match;
typedef struct { match match; uint8_t *answer; size_t answer_size; int counter; } rule;
typedef struct { int32_t kind; uint32_t size; const uint8_t *bytes; } operation;
typedef struct { operation *operations; int count; } program;

/* One recipient's place in one channel, and its writing to it. */
typedef struct {
    uint32_t connection, channel;
    uint64_t position;
    uint64_t order;        /* a sum over all that came, of what stands where: equal for all members at the end */
    int64_t rest_bytes;    /* of a delivery, beside body and position; -1: none has come yet */
    uint32_t *received;    /* by rank of the sender */
    uint32_t sent, since_mark, mark_every;
    program send, mark;
} place;

typedef struct { uint32_t cseq, place, count; int64_t intended; } flying;

typedef struct {
    int fd, closed, slow, dirty, waits_to_write;
    uint32_t user, first_place, places;
    uint8_t *in, *out;
    size_t in_size, out_begin, out_size, out_room, hint;
    uint32_t cseq, ack_offset;
    flying *flights;
    uint32_t first_flight, last_flight, flight_room;   /* a ring; the room is a power of two */
    uint32_t window, turn;                             /* closed loop: sends in flight, whose turn it is */
    uint8_t *beat;
    size_t beat_size;
    int64_t beat_due;
    uint64_t delivered;
    int64_t slow_bytes, slow_until;                    /* read per SLOW_EVERY_US while slow */
} client;

typedef struct { uint32_t *ranks; uint32_t senders; } channel;
typedef struct { uint32_t place, slot; uint8_t *bytes; size_t size; } sample;

typedef struct {
    int64_t from, until;
    uint64_t sent, acked, delivered, latencies[LATENCIES][BUCKETS];
} window;

typedef struct {
    config is;
    int epoll;
    client *clients;
    uint32_t client_count, client_room, first_unread;
    place *places;
    uint32_t place_count, place_room;
    channel *channels;
    uint64_t *rank_keys;            /* (channel, user) + 1 -> rank, open addressing */
    uint32_t *rank_values;
    uint32_t rank_room, rank_count;
    int32_t *client_of;             /* user -> client of this process, or -1 */
    match ack, position;
    rule rules[RULES];
    int rule_count, reply_count;    /* replies first */
    const int64_t *plan_due;
    const uint32_t *plan_place;
    int64_t plan_from;
    uint64_t plan_size, plan_at;
    uint32_t *beats;                /* a ring of clients, the next one due first */
    uint32_t first_beat, beat_count, beat_room;
    uint32_t *dirty;
    uint32_t dirty_count;
    uint32_t *slow;
    uint32_t slow_count;
    int64_t slow_due, closed_until, earliest_stamp;
    window windows[WINDOWS];
    int window_count;
    sample *samples;
    uint64_t seen, sampled;
    uint64_t sent, acked, delivered, beats_sent, slow_ended, counters[RULES];
    uint64_t mask_state;
    uint8_t *buffer, *scratch;
    char fault[8192];
} engine;

/* --- faults and memory ---------------------------------------------------------------------- */

static int fail(engine *e, const client *c, const uint8_t *message, size_t size, const char *format, ...) {
    if (e->fault[0]) return -1;
    char *to = e->fault, *end = e->fault + sizeof e->fault - 8;
    to += snprintf(to, 64, "user %u: ", c->user);
    va_list arguments;
    va_start(arguments, format);
    to += vsnprintf(to, 512, format, arguments);
    va_end(arguments);
    if (message) to += snprintf(to, 64, "; %zu bytes: ", size);
    for (size_t i = 0; message && i < size && i < SHOWN_BYTES && to < end; i++)
        to += snprintf(to, 8, message[i] >= 32 && message[i] < 127 ? "%c" : "\\x%02x", message[i]);
    return -1;
}

static void *grown(void *memory, uint32_t *room, uint32_t needed, size_t each) {
    if (needed <= *room) return memory;
    uint32_t more = *room ? *room : 16;
    while (more < needed) more *= 2;
    memory = realloc(memory, more * each);
    if (!memory) abort();
    memset((char *)memory + *room * each, 0, (more - *room) * each);
    *room = more;
    return memory;
}

static void *copied(const void *bytes, size_t size) {
    void *copy = malloc(size + 1);
    if (!copy) abort();
    return size ? memcpy(copy, bytes, size) : copy;
}

static int64_t clock_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static int matches(const match *m, const uint8_t *message, size_t size) {
    return m->at + m->size <= size && !memcmp(message + m->at, m->bytes, m->size);
}

static window *window_of(engine *e, int64_t moment) {
    for (int i = 0; i < e->window_count; i++)
        if (moment >= e->windows[i].from && moment < e->windows[i].until) return &e->windows[i];
    return NULL;
}

static void record(engine *e, int which, int64_t intended, int64_t moment) {
    window *w = window_of(e, intended);
    if (w) w->latencies[which][bucket_of(moment - intended)]++;
}

/* --- writing -------------------------------------------------------------------------------- */

static void watch(engine *e, client *c, uint32_t index) {
    struct epoll_event event = {.data.u32 = index};
    event.events = (c->slow ? 0 : EPOLLIN) | (c->waits_to_write ? EPOLLOUT : 0);
    epoll_ctl(e->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void end_connection(engine *e, client *c) {
    epoll_ctl(e->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    c->closed = 1;
    free(c->in), free(c->out);
    c->in = c->out = NULL;
    c->in_size = c->out_begin = c->out_size = c->out_room = 0;
}

/* Slow readers may be sent away; from anybody else it is a fault. */
static int lost(engine *e, client *c, const char *why) {
    if (c->slow_bytes < 0) return fail(e, c, NULL, 0, "the server ended the connection: %s", why);
    e->slow_ended++;
    end_connection(e, c);
    return 0;
}

static int flush(engine *e, client *c) {
    if (c->closed) return 0;
    size_t left = c->out_size - c->out_begin;
    ssize_t wrote = left ? send(c->fd, c->out + c->out_begin, left, MSG_NOSIGNAL) : 0;
    if (wrote < 0 && errno != EAGAIN && errno != EINTR) return lost(e, c, strerror(errno));
    if (wrote > 0) c->out_begin += (size_t)wrote;
    if (c->out_begin == c->out_size) c->out_begin = c->out_size = 0;
    if (c->waits_to_write != (c->out_size > 0)) {
        c->waits_to_write = c->out_size > 0;
        watch(e, c, (uint32_t)(c - e->clients));
    }
    return 0;
}

static int flush_dirty(engine *e) {
    for (uint32_t i = 0; i < e->dirty_count; i++) {
        client *c = &e->clients[e->dirty[i]];
        c->dirty = 0;
        if (!c->waits_to_write && flush(e, c)) return -1;
    }
    e->dirty_count = 0;
    return 0;
}

static void write_out(engine *e, client *c, uint8_t opcode, const uint8_t *payload, size_t size) {
    if (c->closed) return;
    if (c->out_room < c->out_size + size + 14) {
        c->out_room = (c->out_size + size + 14) * 2;
        c->out = realloc(c->out, c->out_room);
        if (!c->out) abort();
    }
    c->out_size += write_frame(c->out + c->out_size, opcode, payload, size, fresh_mask(&e->mask_state));
    if (!c->dirty) {
        c->dirty = 1;
        e->dirty[e->dirty_count++] = (uint32_t)(c - e->clients);
    }
}

static void run_program(engine *e, client *c, const place *p, const program *which, const stamp *s) {
    uint8_t opcode = e->is.text ? 1 : 2, *to = e->scratch;
    for (int i = 0; i < which->count; i++) {
        const operation *o = &which->operations[i];
        switch (o->kind) {
        case 0: memcpy(to, o->bytes, o->size), to += o->size; break;
        case BODY:
            write_stamp(to, s);
            memset(to + STAMP_BYTES, 'x', (size_t)e->is.body_bytes - STAMP_BYTES);
            to += e->is.body_bytes;
            break;
        case CSEQ_CBOR: to += write_number(to, CBOR, c->cseq); break;
        case CSEQ_DECIMAL: to += write_number(to, DECIMAL, c->cseq); break;
        case POSITION_CBOR: to += write_number(to, CBOR, p->position); break;
        case POSITION_DECIMAL: to += write_number(to, DECIMAL, p->position); break;
        case NEXT_FRAME: write_out(e, c, opcode, e->scratch, (size_t)(to - e->scratch)), to = e->scratch; break;
        }
    }
    write_out(e, c, opcode, e->scratch, (size_t)(to - e->scratch));
}

static void send_message(engine *e, uint32_t place_index, int64_t intended, int64_t now) {
    place *p = &e->places[place_index];
    client *c = &e->clients[p->connection];
    stamp s = {c->user, p->channel, ++p->sent, intended};
    c->cseq++;
    if (c->last_flight - c->first_flight == c->flight_room) {
        uint32_t room = c->flight_room ? c->flight_room * 2 : 8;
        flying *more = calloc(room, sizeof *more);
        if (!more) abort();
        for (uint32_t i = c->first_flight; i != c->last_flight; i++) more[i & (room - 1)] = c->flights[i & (c->flight_room - 1)];
        free(c->flights);
        c->flights = more, c->flight_room = room;
    }
    c->flights[c->last_flight++ & (c->flight_room - 1)] = (flying){c->cseq, place_index, s.count, intended};
    run_program(e, c, p, &p->send, &s);
    e->sent++;
    window *w = window_of(e, now);
    if (w) w->sent++;
    record(e, LATENCY_LAG, intended, now);
}

/* Closed loop: what is done makes room for the next, while it is the time. */
static void send_next(engine *e, client *c, int64_t now) {
    if (c->closed || now >= e->closed_until) return;
    for (uint32_t tried = 0; tried < c->places; tried++) {
        uint32_t index = c->first_place + c->turn++ % c->places;
        if (e->places[index].send.count) {
            send_message(e, index, now, now);
            return;
        }
    }
}

/* --- judging what comes --------------------------------------------------------------------- */

static void drop_flight(client *c, uint32_t at) {
    for (; at != c->first_flight; at--) c->flights[at & (c->flight_room - 1)] = c->flights[(at - 1) & (c->flight_room - 1)];
    c->first_flight++;
}

static void done(engine *e, client *c, flying f, int64_t now) {
    e->acked++;
    window *w = window_of(e, now);
    if (w) w->acked++;
    record(e, LATENCY_ACK, f.intended, now);
    if (c->window) send_next(e, c, now);
}

static uint64_t mixed(uint64_t value) {
    value = (value ^ value >> 31) * 0x9E3779B97F4A7C15ULL;
    return (value ^ value >> 29) * 0xBF58476D1CE4E5B9ULL;
}

static int advance(engine *e, client *c, place *p, stamp what, const uint8_t *m, size_t size, size_t behind,
                   int *width) {
    const uint8_t *at = m + behind, *end = m + size;
    uint64_t position;
    do {  /* the key's bytes may stand by chance within something else; then no number follows */
        at = memmem(at, (size_t)(end - at), e->position.bytes, e->position.size);
        if (!at) return fail(e, c, m, size, "no log position in it");
        at += e->position.size;
        *width = read_number(at, end, e->is.position_number, &position);
    } while (!*width);
    if (position != p->position + 1) {
        const char *fault = position <= p->position ? "a repeat, or disorder" : "a gap";
        return fail(e, c, m, size, "%s in the log of channel %u: position %llu came after %llu", fault, p->channel,
                    (unsigned long long)position, (unsigned long long)p->position);
    }
    p->position = position;
    p->order += mixed(mixed(position) + mixed((uint64_t)what.slot << 32 | what.count));
    return 0;
}

static int take_ack(engine *e, client *c, const uint8_t *m, size_t size, int64_t now) {
    uint64_t number;
    int width = read_number(m + e->ack.at + e->ack.size, m + size, e->is.ack_number, &number);
    size_t behind = e->ack.at + e->ack.size + (size_t)width;
    if (!width)
        return fail(e, c, m, size, "an ack without its number");
    uint32_t cseq = (uint32_t)(number - c->ack_offset), at = c->first_flight;
    if (e->is.ack_cumulative) {
        while (c->first_flight != c->last_flight) {
            flying f = c->flights[c->first_flight & (c->flight_room - 1)];
            if ((int32_t)(f.cseq - cseq) > 0) break;
            c->first_flight++;
            done(e, c, f, now);
        }
        return 0;
    }
    while (at != c->last_flight && c->flights[at & (c->flight_room - 1)].cseq != cseq) at++;
    if (at == c->last_flight) return fail(e, c, m, size, "an ack of %u, which waits for none", cseq);
    flying f = c->flights[at & (c->flight_room - 1)];
    drop_flight(c, at);
    stamp own = {c->user, 0, f.count, 0};
    if (e->is.ack_position && advance(e, c, &e->places[f.place], own, m, size, behind, &width)) return -1;
    done(e, c, f, now);
    return 0;
}

static int rank_of(const engine *e, uint32_t channel_number, uint32_t user, uint32_t *rank) {
    uint64_t key = ((uint64_t)channel_number << 32 | user) + 1;
    for (uint64_t i = key * 0x9E3779B97F4A7C15ULL >> 20; ; i++) {
        uint64_t slot = i & (e->rank_room - 1);
        if (e->rank_keys[slot] == key) return *rank = e->rank_values[slot], 1;
        if (!e->rank_keys[slot]) return 0;
    }
}

static place *place_in(engine *e, const client *c, uint32_t channel_number) {
    for (uint32_t i = 0; i < c->places; i++)
        if (e->places[c->first_place + i].channel == channel_number) return &e->places[c->first_place + i];
    return NULL;
}

static int whole_body(const engine *e, const uint8_t *at, const uint8_t *end) {
    if (end - at < e->is.body_bytes) return 0;
    const uint8_t *filler = at + STAMP_BYTES;
    size_t size = (size_t)e->is.body_bytes - STAMP_BYTES;
    if (filler + size < end && filler[size] == 'x') return 0;
    return !size || (filler[0] == 'x' && !memcmp(filler, filler + 1, size - 1));
}

static void keep_sample(engine *e, const place *p, const stamp *s, const uint8_t *m, size_t size) {
    sample *to = &e->samples[e->sampled++ % (uint64_t)e->is.sample_slots];
    free(to->bytes);
    *to = (sample){(uint32_t)(p - e->places), s->slot, copied(m, size), size};
}

/* A message that is back at its sender, or at one of its recipients, is done where there are no acks. */
static void credit(engine *e, const client *receiver, const stamp *s, int64_t now) {
    if (e->is.credit == CREDIT_BY_ACK || s->slot >= (uint32_t)e->is.users || e->client_of[s->slot] < 0) return;
    client *c = &e->clients[e->client_of[s->slot]];
    if (e->is.credit == CREDIT_BY_ECHO && c != receiver) return;
    for (uint32_t at = c->first_flight; at != c->last_flight; at++) {
        flying f = c->flights[at & (c->flight_room - 1)];
        if (f.count == s->count && e->places[f.place].channel == s->channel) {
            drop_flight(c, at);
            done(e, c, f, now);
            return;
        }
    }
}

static int check_delivery(engine *e, client *c, place *p, const stamp *s, const uint8_t *at, const uint8_t *m, size_t size) {
    uint32_t rank;
    if (!rank_of(e, s->channel, s->slot, &rank)) return fail(e, c, m, size, "%u writes nothing to %u", s->slot, s->channel);
    if (s->slot == c->user && !e->is.echoes) return fail(e, c, m, size, "one's own message");
    uint32_t last = p->received[rank];
    if (s->count != last + 1) {
        const char *what = s->count <= last ? "a repeat, or disorder" : "a loss, or disorder";
        return fail(e, c, m, size, "%s: %u of user %u in channel %u came after %u", what, s->count, s->slot, s->channel, last);
    }
    p->received[rank] = s->count;
    if (!whole_body(e, at, m + size)) return fail(e, c, m, size, "not the body that was sent");
    int width = 0;
    if (e->is.position_number && advance(e, c, p, *s, m, size, 0, &width)) return -1;
    int64_t rest = (int64_t)size - e->is.body_bytes - width;
    if (p->rest_bytes < 0) p->rest_bytes = rest;
    if (llabs(rest - p->rest_bytes) > e->is.length_slack)
        return fail(e, c, m, size, "%lld bytes beside the body, and %lld before", (long long)rest, (long long)p->rest_bytes);
    return 0;
}

static int take_delivery(engine *e, client *c, const stamp *s, const uint8_t *at, const uint8_t *m, size_t size, int64_t now) {
    place *p = place_in(e, c, s->channel);
    if (!p) return fail(e, c, m, size, "not a member of channel %u", s->channel);
    if (check_delivery(e, c, p, s, at, m, size)) return -1;
    if (s->time > now || s->time < e->earliest_stamp) return fail(e, c, m, size, "a time when nothing was sent");
    if (++e->seen % (uint64_t)e->is.sample_every == 0) keep_sample(e, p, s, m, size);
    if (c->slow_bytes < 0) e->delivered++, c->delivered++;
    if (c->slow_bytes < 0 && s->slot != c->user) { /* an echo takes the place of an ack, and is no delivery to another */
        window *w = window_of(e, now);
        if (w) w->delivered++;
        record(e, LATENCY_DELIVERY, s->time, now);
    }
    if (p->mark_every && ++p->since_mark >= p->mark_every) {
        p->since_mark = 0;
        run_program(e, c, p, &p->mark, s);
    }
    credit(e, c, s, now);
    return 0;
}

static int take_message(engine *e, client *c, const uint8_t *m, size_t size, int64_t now) {
    stamp s;
    if (e->is.ack_number && matches(&e->ack, m, size)) return take_ack(e, c, m, size, now);
    const uint8_t *at = find_stamp(m, m + size, c->hint, &s);
    if (at) {
        c->hint = (size_t)(at - m);
        return take_delivery(e, c, &s, at, m, size, now);
    }
    for (int i = 0; i < e->rule_count; i++) {
        const rule *r = &e->rules[i];
        if (!matches(&r->match, m, size)) continue;
        if (r->answer) write_out(e, c, e->is.text ? 1 : 2, r->answer, r->answer_size);
        e->counters[r->counter]++;
        return 0;
    }
    if (c->slow_bytes >= 0) return lost(e, c, "it said goodbye");
    return fail(e, c, m, size, "not known to the dialect");
}

/* Whole frames from the beginning of `data`; what is left of it is returned in `left`. */
static int take_frames(engine *e, client *c, uint8_t *data, size_t size, int64_t now, size_t *left) {
    size_t at = 0, head;
    uint64_t length;
    while (!c->closed && read_head(data + at, size - at, &head, &length)) {
        uint8_t first = data[at];
        if (data[at + 1] & 0x80 || head + length > BUFFER_BYTES - RECEIVE_BYTES)
            return fail(e, c, data + at, size - at, "a frame that is masked, or too long");
        if (size - at < head + length) break;
        uint8_t *payload = data + at + head;
        at += head + length;
        if (first == (e->is.text ? 0x81 : 0x82)) {
            if (take_message(e, c, payload, length, now)) return -1;
        } else if (first == 0x89 && length < 126) {
            write_out(e, c, 0xA, payload, length);
        } else if (first == 0x88 && c->slow_bytes >= 0) {
            return lost(e, c, "it closed");
        } else if (first != 0x8A) {
            return fail(e, c, payload, length, "a frame %#x", first);
        }
    }
    *left = size - at;
    return 0;
}

static void keep(client *c, const uint8_t *rest, size_t size) {
    if (!size && !c->in_size) return;
    free(c->in);
    c->in = size ? copied(rest, size) : NULL;
    c->in_size = size;
}

static int read_some(engine *e, client *c, size_t most) {
    if (c->in_size) memcpy(e->buffer, c->in, c->in_size);
    ssize_t got = recv(c->fd, e->buffer + c->in_size, most, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) return lost(e, c, got ? strerror(errno) : "end of file");
    size_t size = c->in_size + (size_t)got, left = 0;
    if (take_frames(e, c, e->buffer, size, clock_us(), &left)) return -1;
    if (!c->closed) keep(c, e->buffer + size - left, left);
    return 0;
}

/* What had come before the connection was handed over. */
static int take_unread(engine *e) {
    for (; e->first_unread < e->client_count; e->first_unread++) {
        client *c = &e->clients[e->first_unread];
        size_t size = c->in_size, left = 0;
        if (!size) continue;
        memcpy(e->buffer, c->in, size);
        if (take_frames(e, c, e->buffer, size, clock_us(), &left)) return -1;
        if (!c->closed) keep(c, e->buffer + size - left, left);
    }
    return 0;
}

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

static void beat_due(engine *e, int64_t now) {
    while (e->beat_count) {
        uint32_t index = e->beats[e->first_beat & (e->beat_room - 1)];
        client *c = &e->clients[index];
        if (c->beat_due > now) return;
        e->first_beat++;
        if (c->closed) {
            e->beat_count--;
            continue;
        }
        write_out(e, c, e->is.text ? 1 : 2, c->beat, c->beat_size);
        e->beats_sent += !c->slow;
        c->beat_due += e->is.heartbeat_us;
        e->beats[(e->first_beat + e->beat_count - 1) & (e->beat_room - 1)] = index;
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
    if (e->beat_count) {
        int64_t due = e->clients[e->beats[e->first_beat & (e->beat_room - 1)]].beat_due;
        if (due < next) next = due;
    }
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
        for (int i = 0; i < count; i++)
            if (serve(e, &ready[i]) || flush_dirty(e)) break;
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
    if (e->beat_count == e->beat_room) {
        uint32_t room = e->beat_room ? e->beat_room * 2 : 1024, *ring = malloc(room * sizeof *ring);
        if (!ring) abort();
        for (uint32_t i = 0; i < e->beat_count; i++) ring[i] = e->beats[(e->first_beat + i) & (e->beat_room - 1)];
        free(e->beats);
        e->beats = ring, e->beat_room = room, e->first_beat = 0;
    }
    e->beats[(e->first_beat + e->beat_count++) & (e->beat_room - 1)] = index;
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
