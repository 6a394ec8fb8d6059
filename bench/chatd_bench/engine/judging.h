/* From the socket to what it means: frames, acks, deliveries, and every check of a message. */

#ifndef CHATD_BENCH_JUDGING_H
#define CHATD_BENCH_JUDGING_H

#include "writing.h"

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
    return fail(e, c, m, size, "not foreseen by the dialect, a refusal perhaps");
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

#endif
