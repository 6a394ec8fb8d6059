/* From what is to be said to the socket: programs, frames, and what the kernel does not take at once. */

#ifndef CHATD_BENCH_WRITING_H
#define CHATD_BENCH_WRITING_H

#include "state.h"

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

#endif
