/* What the engine knows of its connections, channels and the run; faults, and memory. */

#ifndef CHATD_BENCH_STATE_H
#define CHATD_BENCH_STATE_H

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

enum { RECEIVE_BYTES = 256 * 1024, BUFFER_BYTES = 4 * 1024 * 1024, READY = 512, READS_BETWEEN_SENDS = 8, RULES = 64, WINDOWS = 64 };
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

typedef struct { uint32_t senders; } channel;
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
    int rule_count;
    const int64_t *plan_due;
    const uint32_t *plan_place;
    int64_t plan_from;
    uint64_t plan_size, plan_at;
    uint32_t *beats;                /* a heap of clients, the next one due first */
    uint32_t beat_count, beat_room;
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

#endif
