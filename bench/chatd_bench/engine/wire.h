/* What stands in frames and messages: masks, numbers, stamps, latency buckets. Pure functions, no allocation. */

#ifndef CHATD_BENCH_WIRE_H
#define CHATD_BENCH_WIRE_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CBOR = 1, DECIMAL = 2 };
enum { STAMP_BYTES = 43, STAMP_SLOT = 1, STAMP_CHANNEL = 8, STAMP_COUNT = 15, STAMP_TIME = 26 };
enum { HALF_BUCKETS_BITS = 10, HALF_BUCKETS = 1 << HALF_BUCKETS_BITS, BUCKETS = 24 * HALF_BUCKETS };

typedef struct {
    uint32_t slot, channel, count;
    int64_t time;
} stamp;

/* HdrHistogram's index of a value, for three significant digits from 1 on. */
static inline uint32_t bucket_of(int64_t us) {
    uint64_t value = us < 0 ? 0 : (uint64_t)us;
    int bits = 64 - __builtin_clzll(value | (2 * HALF_BUCKETS - 1)) - (HALF_BUCKETS_BITS + 1);
    uint32_t index = ((uint32_t)(bits + 1) << HALF_BUCKETS_BITS) + (uint32_t)(value >> bits) - HALF_BUCKETS;
    return index < BUCKETS ? index : BUCKETS - 1;
}

/* xorshift64*: masks have to be fresh (RFC 6455, 5.3), not secret from anybody here. */
static inline uint32_t fresh_mask(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * 2685821657736338717ULL) >> 32);
}

static inline void apply_mask(uint8_t *to, const uint8_t *from, size_t size, uint32_t mask) {
    uint64_t wide = (uint64_t)mask << 32 | mask;
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t eight;
        memcpy(&eight, from + at, 8);
        eight ^= wide;
        memcpy(to + at, &eight, 8);
    }
    const uint8_t *key = (const uint8_t *)&mask;
    for (; at < size; at++) to[at] = from[at] ^ key[at & 3];
}

/* A client's final frame; returns its size. `to` has room for 14 bytes more than the payload. */
static inline size_t write_frame(uint8_t *to, uint8_t opcode, const uint8_t *payload, size_t size, uint32_t mask) {
    size_t head = 2;
    to[0] = 0x80 | opcode;
    if (size < 126) {
        to[1] = 0x80 | (uint8_t)size;
    } else if (size < 65536) {
        to[1] = 0x80 | 126;
        to[2] = (uint8_t)(size >> 8), to[3] = (uint8_t)size;
        head = 4;
    } else {
        to[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) to[2 + i] = (uint8_t)(size >> (56 - 8 * i));
        head = 10;
    }
    memcpy(to + head, &mask, 4);
    apply_mask(to + head + 4, payload, size, mask);
    return head + 4 + size;
}

/* A server's frame at `p`: its head's size and its payload's. 0 when that much is not there yet. */
static inline int read_head(const uint8_t *p, size_t have, size_t *head, uint64_t *size) {
    if (have < 2) return 0;
    *head = 2, *size = p[1] & 0x7f;
    if (*size >= 126) {
        int width = *size == 126 ? 2 : 8;
        if (have < 2 + (size_t)width) return 0;
        *size = 0;
        for (int i = 0; i < width; i++) *size = *size << 8 | p[2 + i];
        *head = 2 + (size_t)width;
    }
    return 1;
}

/* A number as the server wrote it; its width in bytes, or 0 when it is none. */
static inline int read_number(const uint8_t *p, const uint8_t *end, int kind, uint64_t *value) {
    *value = 0;
    if (p >= end) return 0;
    if (kind == DECIMAL) {
        const uint8_t *from = p;
        for (; p < end && *p >= '0' && *p <= '9' && p - from < 18; p++) *value = *value * 10 + (*p - '0');
        return (int)(p - from);
    }
    if (*p < 24) return *value = *p, 1;
    if (*p > 0x1b) return 0;
    int width = 1 << (*p - 0x18);
    if (end - p < 1 + width) return 0;
    for (int i = 1; i <= width; i++) *value = *value << 8 | p[i];
    return 1 + width;
}

/* The shortest form; returns its width. `to` has room for 20 bytes. */
static inline int write_number(uint8_t *to, int kind, uint64_t value) {
    if (kind == DECIMAL) {
        uint8_t digits[20];
        int width = 0;
        do digits[width++] = (uint8_t)('0' + value % 10); while (value /= 10);
        for (int i = 0; i < width; i++) to[i] = digits[width - 1 - i];
        return width;
    }
    if (value < 24) return to[0] = (uint8_t)value, 1;
    int step = value < 256 ? 0 : value < 65536 ? 1 : value < 1ULL << 32 ? 2 : 3;
    int width = 1 << step;
    to[0] = (uint8_t)(0x18 + step);
    for (int i = 0; i < width; i++) to[1 + i] = (uint8_t)(value >> (8 * (width - 1 - i)));
    return 1 + width;
}

static inline void write_digits(uint8_t *to, int width, uint64_t value) {
    for (int i = width - 1; i >= 0; i--, value /= 10) to[i] = (uint8_t)('0' + value % 10);
}

static inline void write_stamp(uint8_t *to, const stamp *s) {
    to[0] = to[STAMP_BYTES - 1] = '~';
    to[STAMP_CHANNEL - 1] = to[STAMP_COUNT - 1] = to[STAMP_TIME - 1] = '.';
    write_digits(to + STAMP_SLOT, 6, s->slot);
    write_digits(to + STAMP_CHANNEL, 6, s->channel);
    write_digits(to + STAMP_COUNT, 10, s->count);
    write_digits(to + STAMP_TIME, 16, (uint64_t)s->time);
}

static inline int read_digits(const uint8_t *p, int width, uint64_t *value) {
    *value = 0;
    for (int i = 0; i < width; i++) {
        uint8_t digit = (uint8_t)(p[i] - '0');
        if (digit > 9) return 0;
        *value = *value * 10 + digit;
    }
    return 1;
}

static inline int read_stamp(const uint8_t *p, const uint8_t *end, stamp *s) {
    if (end - p < STAMP_BYTES || p[0] != '~' || p[STAMP_BYTES - 1] != '~') return 0;
    if (p[STAMP_CHANNEL - 1] != '.' || p[STAMP_COUNT - 1] != '.' || p[STAMP_TIME - 1] != '.') return 0;
    uint64_t slot, channel, count, time;
    if (!read_digits(p + STAMP_SLOT, 6, &slot) || !read_digits(p + STAMP_CHANNEL, 6, &channel)) return 0;
    if (!read_digits(p + STAMP_COUNT, 10, &count) || !read_digits(p + STAMP_TIME, 16, &time)) return 0;
    *s = (stamp){(uint32_t)slot, (uint32_t)channel, (uint32_t)count, (int64_t)time};
    return 1;
}

/* Where the stamp stands, looked for at `hint` first, where the last one stood; NULL when there is none. */
static inline const uint8_t *find_stamp(const uint8_t *p, const uint8_t *end, size_t hint, stamp *s) {
    if (hint < (size_t)(end - p) && read_stamp(p + hint, end, s)) return p + hint;
    for (; p < end && (p = memchr(p, '~', (size_t)(end - p))); p++)
        if (read_stamp(p, end, s)) return p;
    return NULL;
}

#endif
