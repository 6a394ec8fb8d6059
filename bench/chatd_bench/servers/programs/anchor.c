/* The physical limit: a relay that does nothing but read a message, make one frame, and write it to N sockets.

   One thread, level-triggered epoll, plain sockets; one send() for each delivery, as the message comes. With `gather`, what
   comes for a socket within one turn of the loop is written at its end, by one send(). What does not fit into a socket is
   kept and written when it does. No checks, no limits, no history. What it understands is in dialects/relay.py. It trusts
   its clients: it is made for one generator on one machine.

   anchor PORT [gather]: listens on 127.0.0.1 until it is killed. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES 65536  /* of one read, and the longest message */
#define EVENTS 1024
#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

typedef struct {
    int fd, upgraded, user, waits; /* waits: until the socket takes more */
    char *in;  /* what has been read of an unfinished frame; NULL while there is none */
    size_t in_length;
    char *out; /* what could not be written yet */
    size_t out_length, out_room;
} Connection;

typedef struct {
    Connection **members;
    size_t count, room;
} Group;

static int epoll_fd, gather;
static Connection **dirty; /* with gather: whoever has something to be written at the end of this turn */
static size_t dirty_count, dirty_room;
static Connection **users;
static size_t users_room;
static Group *groups;
static size_t groups_room;
static char buffer[2 * READ_BYTES]; /* what is left of a frame, and behind it what is read */

static void *must(void *memory) {
    if (memory == NULL) {
        fputs("anchor: no memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* Make room for the item of that number; what is new is zero. */
static void *grown(void *items, size_t *room, size_t number, size_t size) {
    if (number < *room)
        return items;
    size_t wanted = 2 * number + 64;
    items = must(realloc(items, wanted * size));
    memset((char *)items + *room * size, 0, (wanted - *room) * size);
    *room = wanted;
    return items;
}

/* --- SHA-1 (FIPS 180-4) of a short text, for the handshake ------------------------------------------------------- */

static uint32_t rolled(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

static void sha1_block(uint32_t state[5], const unsigned char *block) {
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rolled(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = rolled(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rolled(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void sha1(const char *text, size_t length, unsigned char digest[20]) {
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char padded[128] = {0}; /* a key and the GUID are 60 bytes: two blocks */
    memcpy(padded, text, length);
    padded[length] = 0x80;
    size_t blocks = length + 9 > 64 ? 2 : 1;
    padded[64 * blocks - 2] = (unsigned char)(length * 8 >> 8);
    padded[64 * blocks - 1] = (unsigned char)(length * 8);
    for (size_t i = 0; i < blocks; i++)
        sha1_block(state, padded + 64 * i);
    for (int i = 0; i < 20; i++)
        digest[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const unsigned char digest[20], char text[29]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char bytes[21] = {0};
    memcpy(bytes, digest, 20);
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)bytes[3 * i] << 16 | bytes[3 * i + 1] << 8 | bytes[3 * i + 2];
        for (int j = 0; j < 4; j++)
            text[4 * i + j] = digits[three >> (18 - 6 * j) & 63];
    }
    text[27] = '=';
    text[28] = 0;
}

/* --- connections --------------------------------------------------------------------------------------------------- */

static void watch(Connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static void wait_for_room(Connection *c, int wait) {
    if (c->waits != wait)
        watch(c, EPOLL_CTL_MOD, wait ? EPOLLIN | EPOLLOUT : EPOLLIN);
    c->waits = wait;
}

static void give(Connection *c, const char *bytes, size_t length) {
    if (c->out_length == 0 && gather) {
        dirty = grown(dirty, &dirty_room, dirty_count, sizeof *dirty);
        dirty[dirty_count++] = c;
    } else if (c->out_length == 0) {
        ssize_t written = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (written == (ssize_t)length || (written < 0 && errno != EAGAIN))
            return; /* who has gone is noticed where it is read */
        if (written > 0)
            bytes += written, length -= (size_t)written;
        wait_for_room(c, 1);
    }
    c->out = grown(c->out, &c->out_room, c->out_length + length, 1);
    memcpy(c->out + c->out_length, bytes, length);
    c->out_length += length;
}

static void give_rest(Connection *c) {
    ssize_t written = send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
    if (written < 0 && errno != EAGAIN)
        written = (ssize_t)c->out_length; /* who has gone is noticed where it is read */
    if (written > 0) {
        c->out_length -= (size_t)written;
        memmove(c->out, c->out + written, c->out_length);
    }
    wait_for_room(c, c->out_length > 0);
}

/* The end of a turn: all that was gathered in it. */
static void give_gathered(void) {
    for (size_t i = 0; i < dirty_count; i++)
        if (dirty[i] != NULL && !dirty[i]->waits)
            give_rest(dirty[i]);
    dirty_count = 0;
}

static void leave(Connection *c) {
    if (c->user >= 0 && users[c->user] == c)
        users[c->user] = NULL;
    for (size_t g = 0; g < groups_room; g++)
        for (size_t i = 0; i < groups[g].count; i++)
            if (groups[g].members[i] == c)
                groups[g].members[i--] = groups[g].members[--groups[g].count];
    for (size_t i = 0; i < dirty_count; i++)
        if (dirty[i] == c)
            dirty[i] = NULL;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* --- what clients say ---------------------------------------------------------------------------------------------- */

/* Write the header of a text or other frame in front of `payload`, which has four bytes of room there; its beginning. */
static char *framed(char *payload, size_t length, int opcode) {
    if (length < 126) {
        payload[-2] = (char)(0x80 | opcode);
        payload[-1] = (char)length;
        return payload - 2;
    }
    payload[-4] = (char)(0x80 | opcode);
    payload[-3] = 126;
    payload[-2] = (char)(length >> 8);
    payload[-1] = (char)length;
    return payload - 4;
}

static void say(Connection *c, const char *text, size_t length, int opcode) {
    char made[256];
    length = length > 125 ? 125 : length;
    memcpy(made + 4, text, length);
    char *frame = framed(made + 4, length, opcode);
    give(c, frame, (size_t)(made + 4 + length - frame));
}

/* d<user>,<cseq>,<body> and g<group>,<cseq>,<body>: m<sender>,<body> to the others, a<cseq> to the sender. */
static void relay(Connection *c, char *payload, size_t length) {
    static char made[READ_BYTES + 64];
    char *comma, *end = payload + length;
    size_t target = strtoul(payload + 1, &comma, 10);
    char *cseq = comma + 1, *body = memchr(cseq, ',', (size_t)(end - cseq));
    if (body == NULL)
        return;
    size_t head = (size_t)sprintf(made + 4, "m%d,", c->user);
    size_t size = (size_t)(end - body - 1);
    memcpy(made + 4 + head, body + 1, size);
    char *frame = framed(made + 4, head + size, 1);
    size_t frame_length = (size_t)(made + 4 + head + size - frame);
    if (*payload == 'd') {
        if (target < users_room && users[target] != NULL)
            give(users[target], frame, frame_length);
    } else if (target < groups_room) {
        Group *group = &groups[target];
        for (size_t i = 0; i < group->count; i++)
            if (group->members[i] != c)
                give(group->members[i], frame, frame_length);
    }
    char ack[32];
    say(c, ack, (size_t)snprintf(ack, sizeof ack, "a%.*s", (int)(body - cseq), cseq), 1);
}

static void take(Connection *c, char *payload, size_t length) {
    size_t number = strtoul(payload + 1, NULL, 10);
    if (*payload == 'd' || *payload == 'g') {
        relay(c, payload, length);
    } else if (*payload == 'l') {
        users = grown(users, &users_room, number, sizeof *users);
        users[number] = c;
        c->user = (int)number;
        say(c, "ok", 2, 1);
    } else if (*payload == 'j') {
        groups = grown(groups, &groups_room, number, sizeof *groups);
        Group *group = &groups[number];
        group->members = grown(group->members, &group->room, group->count, sizeof *group->members);
        group->members[group->count++] = c;
        say(c, "ok", 2, 1);
    }
}

/* Answer the upgrade request that begins at `bytes`; its length, or 0 while it is not whole. */
static size_t upgrade(Connection *c, char *bytes, size_t length) {
    char *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    *end = 0;
    char *key = strcasestr(bytes, "sec-websocket-key:");
    char text[128], accept[29];
    unsigned char digest[20];
    int found = key == NULL ? 0 : sscanf(key + 18, " %24s", text);
    if (found == 1) {
        strcat(text, GUID);
        sha1(text, strlen(text), digest);
        base64(digest, accept);
        int answer = snprintf(text, sizeof text, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                              "Connection: Upgrade\r\n");
        give(c, text, (size_t)answer);
        answer = snprintf(text, sizeof text, "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
        give(c, text, (size_t)answer);
        c->upgraded = 1;
    }
    return (size_t)(end + 4 - bytes);
}

/* Take the frame that begins at `bytes`; its length, or 0 while it is not whole. */
static size_t frame(Connection *c, char *bytes, size_t length) {
    unsigned char *head = (unsigned char *)bytes;
    size_t header = 6;
    if (length < header)
        return 0;
    size_t size = head[1] & 127;
    if (size == 126) {
        header = 8;
        size = (size_t)head[2] << 8 | head[3];
    }
    if (length < header + size)
        return 0;
    char *payload = bytes + header, key[4];
    memcpy(key, payload - 4, 4);
    for (size_t i = 0; i < size; i++)
        payload[i] ^= key[i & 3];
    int opcode = head[0] & 15;
    if (opcode == 1 || opcode == 2) {
        char behind = payload[size];
        payload[size] = 0; /* numbers end where the message does; there is always a byte of room */
        take(c, payload, size);
        payload[size] = behind;
    } else if (opcode == 9) {
        say(c, payload, size, 10);
    } else if (opcode == 8) {
        say(c, payload, size, 8);
    }
    return header + size;
}

/* Read once; 0 when the connection has ended. */
static int readable(Connection *c) {
    size_t kept = c->in_length;
    memcpy(buffer, c->in, kept);
    ssize_t got = recv(c->fd, buffer + kept, READ_BYTES, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    char *at = buffer;
    size_t left = kept + (size_t)got, used;
    while (left > 0 && (used = (c->upgraded ? frame : upgrade)(c, at, left)) > 0)
        at += used, left -= used;
    if (left > READ_BYTES / 2)
        return 0;
    if (left > 0) {
        c->in = must(realloc(c->in, left));
        memcpy(c->in, at, left);
    }
    c->in_length = left;
    return 1;
}

static void accept_all(int listening) {
    int fd, on = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Connection *c = must(calloc(1, sizeof *c));
        c->in = must(malloc(1));
        c->fd = fd;
        c->user = -1;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static int listen_at(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0) {
        perror("anchor");
        exit(1);
    }
    return fd;
}

int main(int count, char **arguments) {
    if (count < 2)
        return 2;
    gather = count > 2 && strcmp(arguments[2], "gather") == 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(0);
    Connection listening = {.fd = listen_at(atoi(arguments[1]))};
    watch(&listening, EPOLL_CTL_ADD, EPOLLIN);
    static struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (c == &listening) {
                accept_all(listening.fd);
                continue;
            }
            if (events[i].events & EPOLLOUT)
                give_rest(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !readable(c))
                leave(c);
        }
        give_gathered();
    }
}
