/* Sends unary gRPC calls at random times of a given rate, whatever becomes of them.
 *
 *   open_load PORT CONNECTIONS RATE SECONDS GRACE SEED PATH BODY OUT
 *
 * Times are those of a Poisson process. BODY is a file with the message; all calls have it. OUT is
 * written with one record a call: when it was due, in seconds, its latency from then on, in seconds,
 * and its gRPC status, -1 for none within GRACE seconds of the last call and -2 for a reset stream:
 * double, double, double. Next to nothing is done for a call, so that it takes a fraction of what
 * the server needs for it.
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
enum { HEAD = 9, READ_SIZE = 1 << 20 };
/* What a peer may send before it is told to go on, and when it is. */
static const int64_t WINDOW = 0x7FFFFFFF, HALF = 1 << 30, FIRST_WINDOW = 65535;

typedef struct {
    int socket;
    uint8_t *in, *out;
    size_t in_size, in_room, out_at, out_size, out_room;
    uint32_t next;   /* stream */
    int64_t window;  /* bytes of DATA that the server takes */
    int64_t received;
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
    /* Without a table of headers the server cannot refer to earlier ones. */
    uint8_t settings[12] = {0, 1, 0, 0, 0, 0, 0, 4, 0x7F, 0xFF, 0xFF, 0xFF};
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

static double status_of(const uint8_t *block, size_t size) {
    static const char name[] = "grpc-status";
    const uint8_t *at = memmem(block, size, name, sizeof name - 1);
    if (!at || at + sizeof name + 1 > block + size) return -3;
    int length = at[sizeof name - 1];
    int value = 0;
    for (int i = 0; i < length && at + sizeof name + i < block + size; i++)
        value = 10 * value + at[sizeof name + i] - '0';
    return value;
}

static void take(Client *c, int index, int kind, int flags, uint32_t stream, const uint8_t *data,
                 size_t size) {
    uint32_t number;
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
        if (flags & END_STREAM) end_call(stream, index, status_of(data, size));
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

static uint8_t *literal(uint8_t *at, const char *name, const char *value) {
    size_t sizes[2] = {strlen(name), strlen(value)};
    *at++ = 0;
    *at++ = (uint8_t)sizes[0];
    memcpy(at, name, sizes[0]);
    at += sizes[0];
    *at++ = (uint8_t)sizes[1];
    memcpy(at, value, sizes[1]);
    return at + sizes[1];
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
    uint8_t headers[1024], *end = headers;
    end = literal(end, ":method", "POST");
    end = literal(end, ":scheme", "http");
    end = literal(end, ":path", arguments[7]);
    end = literal(end, ":authority", "127.0.0.1");
    end = literal(end, "te", "trailers");
    end = literal(end, "content-type", "application/grpc");
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
            frame(c, HEADERS, END_HEADERS, c->next, headers, (size_t)(end - headers));
            frame(c, DATA, END_STREAM, c->next, body, body_size);
            c->next += 2;
        }
        for (int i = 0; i < client_count; i++) {
            if (clients[i].out_at < clients[i].out_size) flush(&clients[i]);
            waits[i].events = POLLIN | (clients[i].out_at < clients[i].out_size ? POLLOUT : 0);
        }
        double left = at < call_count ? calls[at].due - (now() - start) : 0.05;
        if (left < 0) left = 0;
        struct timespec wait = {(time_t)left, (long)((left - floor(left)) * 1e9)};
        if (ppoll(waits, (nfds_t)client_count, &wait, NULL) < 0 && errno != EINTR) die("ppoll");
        for (int i = 0; i < client_count; i++) {
            if (waits[i].revents & POLLOUT) flush(&clients[i]);
            if (waits[i].revents & ~POLLOUT) receive(&clients[i], i);
        }
    }
    file = fopen(arguments[9], "wb");
    if (!file || fwrite(calls, sizeof *calls, call_count, file) != call_count || fclose(file))
        die(arguments[9]);
    return 0;
}
