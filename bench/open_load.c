/* Sends unary gRPC calls at random times of a given rate, whatever becomes of them.
 *
 *   open_load PORT CONNECTIONS RATE SECONDS GRACE SEED PATH BODY OUT
 *
 * Times are those of a Poisson process. BODY is a file with the message; all calls have it. OUT is
 * written with one record a call: when it was due, in seconds, its latency from then on, in seconds,
 * and its gRPC status, -1 for none within GRACE seconds of the last call and -2 for a reset stream:
 * double, double, double. Next to nothing is done for a call, so that it takes a fraction of what
 * the server needs for it: calls that are due within TURN are sent together, and headers are sent as
 * gRPC's clients do, in full once for a connection and in a byte each from then on.
 *
 * Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK), and gRPC's own mapping onto them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };
enum { HEAD = 9, READ_SIZE = 1 << 20, STATIC_ENTRIES = 61, MOST_ENTRIES = 64 };
/* What a peer may send before it is told to go on, and when it is. */
static const int64_t WINDOW = 0x7FFFFFFF, HALF = 1 << 30, FIRST_WINDOW = 65535;
/* Seconds from one look at what is due, and at what has come, to the next. */
static const double TURN = 0.25e-3;

/* A header that a server has entered into our table: all that matters is whether it is a status. */
typedef struct {
    int is_status, status;
} Entry;

typedef struct {
    int socket;
    uint8_t *in, *out;
    size_t in_size, in_room, out_at, out_size, out_room;
    uint32_t next;   /* stream */
    int64_t window;  /* bytes of DATA that the server takes */
    int64_t received;
    Entry table[MOST_ENTRIES];
    int entries;
} Client;

typedef struct {
    double due, latency, status;
} Call;

static Call *calls;
static size_t call_count, answered;
static int client_count;
static double start;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint8_t *room(Client *c, size_t wanted) {
    if (c->out_at == c->out_size) c->out_at = c->out_size = 0;
    if (c->out_size + wanted > c->out_room) {
        c->out_room = 2 * (c->out_size + wanted);
        c->out = realloc(c->out, c->out_room);
        if (!c->out) die("realloc");
    }
    return c->out + c->out_size;
}

static void frame(Client *c, int kind, int flags, uint32_t stream, const void *data, size_t size) {
    uint8_t *at = room(c, HEAD + size);
    at[0] = (uint8_t)(size >> 16);
    at[1] = (uint8_t)(size >> 8);
    at[2] = (uint8_t)size;
    at[3] = (uint8_t)kind;
    at[4] = (uint8_t)flags;
    uint32_t number = htonl(stream);
    memcpy(at + 5, &number, 4);
    if (size) memcpy(at + HEAD, data, size);
    c->out_size += HEAD + size;
}

static void flush(Client *c) {
    while (c->out_at < c->out_size) {
        ssize_t n = send(c->socket, c->out + c->out_at, c->out_size - c->out_at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN || errno == EINTR) return;
            die("send");
        }
        c->out_at += (size_t)n;
    }
}

static void open_client(Client *c, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    memset(c, 0, sizeof *c);
    c->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (c->socket < 0 || connect(c->socket, (struct sockaddr *)&address, sizeof address))
        die("connect");
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->socket, F_SETFL, O_NONBLOCK);
    c->in_room = 2 * READ_SIZE;
    c->in = malloc(c->in_room);
    c->next = 1;
    c->window = FIRST_WINDOW;
    const char *preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    memcpy(room(c, strlen(preface)), preface, strlen(preface));
    c->out_size += strlen(preface);
    uint8_t settings[6] = {0, 4, 0x7F, 0xFF, 0xFF, 0xFF};
    frame(c, SETTINGS, 0, 0, settings, sizeof settings);
    uint32_t more = htonl((uint32_t)(WINDOW - FIRST_WINDOW));
    frame(c, WINDOW_UPDATE, 0, 0, &more, 4);
    flush(c);
}

static void end_call(uint32_t stream, int index, double status) {
    size_t i = (size_t)(stream / 2) * (size_t)client_count + (size_t)index;
    if (i >= call_count || calls[i].status != -1) return;
    calls[i].status = status;
    calls[i].latency = now() - start - calls[i].due;
    answered++;
}

static void malformed(void) {
    fprintf(stderr, "the server's headers cannot be read\n");
    exit(1);
}

static size_t integer(const uint8_t **at, const uint8_t *end, int bits) {
    size_t most = (1u << bits) - 1, value;
    if (*at >= end) malformed();
    value = *(*at)++ & most;
    if (value < most) return value;
    for (int shift = 0;; shift += 7) {
        if (*at >= end || shift > 21) malformed();
        uint8_t byte = *(*at)++;
        value += (size_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return value;
    }
}

static const uint8_t *string(const uint8_t **at, const uint8_t *end, size_t *size) {
    /* Huffman's code is not read: this server does not write it. */
    if (*at >= end || **at & 0x80) malformed();
    *size = integer(at, end, 7);
    const uint8_t *start = *at;
    if (*size > (size_t)(end - start)) malformed();
    *at += *size;
    return start;
}

static Entry *entry(Client *c, size_t index) {
    if (index <= STATIC_ENTRIES || index > (size_t)(STATIC_ENTRIES + c->entries)) return NULL;
    return &c->table[c->entries - (int)(index - STATIC_ENTRIES)];
}

/* The gRPC status of a header block, -3 for none. All blocks are to be read, in their order. */
static int status_of(Client *c, const uint8_t *at, const uint8_t *end) {
    static const char name[] = "grpc-status";
    int status = -3;
    while (at < end) {
        uint8_t kind = *at;
        if (kind & 0x80) {
            Entry *known = entry(c, integer(&at, end, 7));
            if (known && known->is_status) status = known->status;
            continue;
        }
        if ((kind & 0xE0) == 0x20) {
            if (integer(&at, end, 5) == 0) c->entries = 0;
            continue;
        }
        int enters = kind & 0x40;
        size_t index = integer(&at, end, enters ? 6 : 4), size;
        Entry *known = entry(c, index), now = {known && known->is_status, 0};
        if (index == 0) {
            const uint8_t *text = string(&at, end, &size);
            now.is_status = size == sizeof name - 1 && memcmp(text, name, size) == 0;
        }
        const uint8_t *text = string(&at, end, &size);
        if (now.is_status) {
            for (size_t i = 0; i < size; i++) now.status = 10 * now.status + text[i] - '0';
            status = now.status;
        }
        if (enters) {
            if (c->entries == MOST_ENTRIES) malformed();
            c->table[c->entries++] = now;
        }
    }
    return status;
}

static void take(Client *c, int index, int kind, int flags, uint32_t stream, const uint8_t *data,
                 size_t size) {
    uint32_t number;
    int status;
    switch (kind) {
    case DATA:
        c->received += (int64_t)size;
        if (c->received > HALF) {
            number = htonl((uint32_t)c->received);
            frame(c, WINDOW_UPDATE, 0, 0, &number, 4);
            c->received = 0;
        }
        break;
    case HEADERS:
        if (!(flags & END_HEADERS)) malformed();
        status = status_of(c, data, data + size);
        if (flags & END_STREAM) end_call(stream, index, status);
        break;
    case RST_STREAM:
        end_call(stream, index, -2);
        break;
    case SETTINGS:
        if (!(flags & ACK)) frame(c, SETTINGS, ACK, 0, NULL, 0);
        break;
    case PING:
        if (!(flags & ACK)) frame(c, PING, ACK, 0, data, size);
        break;
    case WINDOW_UPDATE:
        memcpy(&number, data, 4);
        if (stream == 0) c->window += ntohl(number);
        break;
    case GOAWAY:
        fprintf(stderr, "the server goes away\n");
        exit(1);
    }
}

static void receive(Client *c, int index) {
    if (c->in_room - c->in_size < READ_SIZE) {
        c->in_room *= 2;
        c->in = realloc(c->in, c->in_room);
        if (!c->in) die("realloc");
    }
    ssize_t n = recv(c->socket, c->in + c->in_size, READ_SIZE, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) die("recv");
    c->in_size += (size_t)n;
    uint8_t *at = c->in, *end = c->in + c->in_size;
    while (end - at >= HEAD) {
        size_t size = (size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2];
        if ((size_t)(end - at) < HEAD + size) break;
        uint32_t stream;
        memcpy(&stream, at + 5, 4);
        take(c, index, at[3], at[4], ntohl(stream) & 0x7FFFFFFF, at + HEAD, size);
        at += HEAD + size;
    }
    c->in_size = (size_t)(end - at);
    memmove(c->in, at, c->in_size);
    flush(c);
}

/* Writes a header that is entered into the server's table, its name entry NAME of the static one. */
static uint8_t *entering(uint8_t *at, int name, const char *value) {
    size_t size = strlen(value);
    *at++ = (uint8_t)(0x40 | name);
    *at++ = (uint8_t)size;
    memcpy(at, value, size);
    return at + size;
}

int main(int count, char **arguments) {
    if (count != 10) {
        fprintf(stderr, "see the head of the source\n");
        return 2;
    }
    int port = atoi(arguments[1]);
    client_count = atoi(arguments[2]);
    double rate = atof(arguments[3]), seconds = atof(arguments[4]), grace = atof(arguments[5]);
    srand48(atol(arguments[6]));
    /* `:method: POST` and `:scheme: http` are entries of the static table. */
    uint8_t first[1024] = {0x83, 0x86}, *end = first + 2;
    end = entering(end, 4, arguments[7]);   /* :path */
    end = entering(end, 1, "127.0.0.1");    /* :authority */
    memcpy(end, "\x40\x02te\x08trailers", 13);
    end = entering(end + 13, 31, "application/grpc");   /* content-type */
    const uint8_t next[] = {0x83, 0x86, 0xC1, 0xC0, 0xBF, 0xBE};
    FILE *file = fopen(arguments[8], "rb");
    static uint8_t body[1 << 20];
    if (!file) die(arguments[8]);
    size_t body_size = 5 + fread(body + 5, 1, sizeof body - 5, file);
    fclose(file);
    uint32_t length = htonl((uint32_t)(body_size - 5));
    memcpy(body + 1, &length, 4);
    if (body_size > 16384) {
        fprintf(stderr, "the message is larger than a frame\n");
        return 2;
    }

    calls = malloc((size_t)(rate * seconds * 2 + 1000) * sizeof *calls);
    for (double due = 0; (due -= log(1 - drand48()) / rate) < seconds;)
        calls[call_count++] = (Call){due, 0, -1};
    Client *clients = calloc((size_t)client_count, sizeof *clients);
    struct pollfd *waits = calloc((size_t)client_count, sizeof *waits);
    for (int i = 0; i < client_count; i++) {
        open_client(&clients[i], port);
        waits[i].fd = clients[i].socket;
    }
    start = now() + 0.2;
    size_t at = 0;
    while (answered < call_count) {
        double time = now() - start;
        if (at == call_count && time > seconds + grace) break;
        for (; at < call_count && calls[at].due <= time; at++) {
            Client *c = &clients[at % (size_t)client_count];
            if (c->window < (int64_t)body_size) break;
            c->window -= (int64_t)body_size;
            if (c->next == 1)
                frame(c, HEADERS, END_HEADERS, 1, first, (size_t)(end - first));
            else
                frame(c, HEADERS, END_HEADERS, c->next, next, sizeof next);
            frame(c, DATA, END_STREAM, c->next, body, body_size);
            c->next += 2;
        }
        for (int i = 0; i < client_count; i++) {
            if (clients[i].out_at < clients[i].out_size) flush(&clients[i]);
            waits[i].events = POLLIN | (clients[i].out_at < clients[i].out_size ? POLLOUT : 0);
        }
        if (poll(waits, (nfds_t)client_count, 0) < 0 && errno != EINTR) die("poll");
        for (int i = 0; i < client_count; i++) {
            if (waits[i].revents & POLLOUT) flush(&clients[i]);
            if (waits[i].revents & ~POLLOUT) receive(&clients[i], i);
        }
        double left = time + TURN - (now() - start);
        struct timespec rest = {0, left > 0 ? (long)(left * 1e9) : 0};
        nanosleep(&rest, NULL);
    }
    file = fopen(arguments[9], "wb");
    if (!file || fwrite(calls, sizeof *calls, call_count, file) != call_count || fclose(file))
        die(arguments[9]);
    return 0;
}
