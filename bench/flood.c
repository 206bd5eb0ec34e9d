/* The sender of a load: HTTP/2 with prior knowledge, requests written as ready bytes, each timed.
 *
 * Compiled, because it shares a core with what it measures: a request costs it less than a twentieth of what it costs
 * Envoy to refuse one. It reads of an answer only what kind it is, by the frames it comes in and the bytes of its
 * status. Started by `bench/flood.py`, which says what the arguments are and reads the output. Sources: RFC 9113, RFC 7541.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 8, STREAMS_MAX = 1000 /* of one connection: Envoy's own limit is 1024 */, READ_BYTES = 1 << 18 };
enum { DATA, HEADERS, RST = 3, SETTINGS, PING = 6 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };
enum { OK, REFUSED, FAILED };
static const double PATIENCE_SECONDS = 10;
static const char *const VERDICTS[] = {"ok", "refused", "failed"};
static const char NUMBER[] = "%NUMBER%", A_UUID[] = "%UUID%______________________________";

typedef struct {
    uint8_t *bytes;
    size_t size, room;
} Buffer;

typedef struct {
    double began, late;
    uint8_t open, ok_head, data, refused;
} Call;

typedef struct {
    int fd;
    uint32_t under_way, next, room;
    Call *calls; /* by number of the stream, halved */
    Buffer in, out;
} Connection;

static Connection connections[CONNECTIONS];
static Buffer head, body;
static double measured_from, until;
static uint32_t under_way, turn, callers;
static uint64_t number, dice;
static unsigned long sent;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t drawn(void) { /* xorshift64*: S. Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016 */
    dice ^= dice >> 12, dice ^= dice << 25, dice ^= dice >> 27;
    return dice * 2685821657736338717u;
}

static uint8_t *more(Buffer *buffer, size_t size) {
    if (buffer->size + size > buffer->room) {
        buffer->room = 2 * (buffer->size + size);
        if (!(buffer->bytes = realloc(buffer->bytes, buffer->room))) die("memory");
    }
    buffer->size += size;
    return buffer->bytes + buffer->size - size;
}

static uint8_t *frame(Connection *to, uint8_t kind, uint8_t flags, uint32_t stream, const void *payload, size_t size) {
    uint8_t *at = more(&to->out, 9 + size);
    const uint8_t begin[9] = {size >> 16, size >> 8, size, kind, flags, stream >> 24, stream >> 16, stream >> 8, stream};
    memcpy(at, begin, 9);
    if (size) memcpy(at + 9, payload, size);
    return at + 9;
}

static void fill(uint8_t *in, size_t size) { /* another number and another UUID for each request */
    char text[40];
    uint8_t *at = memmem(in, size, NUMBER, 8);
    if (at) {
        snprintf(text, sizeof text, "%08x", (unsigned)number);
        memcpy(at, text, 8);
    }
    if ((at = memmem(in, size, A_UUID, 36))) {
        uint64_t a = drawn(), b = drawn();
        snprintf(text, sizeof text, "%08x-%04x-4%03x-8%03x-%012llx", (unsigned)(a >> 32), (unsigned)(a >> 16 & 0xffff),
                 (unsigned)(a & 0xfff), (unsigned)(b >> 52), (unsigned long long)(b & 0xffffffffffff));
        memcpy(at, text, 36);
    }
}

static int full(void) {
    for (int i = 0; i < CONNECTIONS; i++)
        if (connections[i].under_way < STREAMS_MAX) return 0;
    return 1;
}

static void ask(double began, double late) {
    Connection *to;
    do to = &connections[turn++ % CONNECTIONS];
    while (to->under_way >= STREAMS_MAX);
    uint32_t stream = 2 * to->next + 1;
    if (to->next == to->room) {
        to->room = to->room ? 2 * to->room : 1024;
        if (!(to->calls = realloc(to->calls, to->room * sizeof(Call)))) die("memory");
    }
    to->calls[to->next++] = (Call){.began = began, .late = late, .open = 1};
    to->under_way++, under_way++, number++;
    sent += began >= measured_from;
    fill(frame(to, HEADERS, END_HEADERS | (body.size ? 0 : END_STREAM), stream, head.bytes, head.size), head.size);
    if (body.size) fill(frame(to, DATA, END_STREAM, stream, body.bytes, body.size), body.size);
}

static int holds(const uint8_t *in, size_t size, const char *sign, size_t length) {
    return memmem(in, size, sign, length) != NULL;
}

/* `grpc-status: 8` and `:status: 429`, as an encoder without a table of its own may write them. */
static int refuses(const uint8_t *in, size_t size) {
    return holds(in, size, "grpc-status\1" "8", 13) || holds(in, size, "\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\1" "8", 11) ||
           holds(in, size, "\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x81\x7b", 11) || holds(in, size, "429", 3) ||
           holds(in, size, "\x68\x4f\xff", 3);
}

static void ended(Connection *from, Call *call, int reset) {
    double at = now();
    int verdict = reset ? FAILED : call->data && call->ok_head ? OK : call->refused ? REFUSED : FAILED;
    call->open = 0, from->under_way--, under_way--;
    if (call->began >= measured_from)
        printf("%s %.4f %.4f\n", VERDICTS[verdict], (at - call->began) * 1e3, call->late * 1e3);
    if (callers && at < until) ask(at, 0);
}

static void take(Connection *from, uint8_t kind, uint8_t flags, uint32_t stream, const uint8_t *payload, size_t size) {
    if (kind == SETTINGS && !(flags & ACK)) frame(from, SETTINGS, ACK, 0, NULL, 0);
    if (kind == PING && !(flags & ACK)) frame(from, PING, ACK, 0, payload, size);
    if (!stream || stream / 2 >= from->next || !from->calls[stream / 2].open) return;
    Call *call = &from->calls[stream / 2];
    if (kind == HEADERS) {
        size_t skip = size && payload[0] == 0x20; /* a change of the table's size */
        if (!call->data && size > skip && payload[skip] == 0x88) call->ok_head = 1; /* `:status: 200` */
        if (refuses(payload, size)) call->refused = 1;
    }
    if (kind == DATA) call->data = 1;
    if (kind == RST || ((kind == HEADERS || kind == DATA) && flags & END_STREAM)) ended(from, call, kind == RST);
}

static void receive(Connection *from) {
    ssize_t got;
    do {
        got = recv(from->fd, more(&from->in, READ_BYTES), READ_BYTES, 0);
        from->in.size -= READ_BYTES - (got > 0 ? (size_t)got : 0);
    } while (got == READ_BYTES);
    if (!got || (got < 0 && errno != EAGAIN)) die("the door closed a connection");
    size_t at = 0;
    while (from->in.size - at >= 9) {
        uint8_t *in = from->in.bytes + at;
        size_t size = (size_t)in[0] << 16 | in[1] << 8 | in[2];
        if (from->in.size - at < 9 + size) break;
        take(from, in[3], in[4], ((uint32_t)in[5] << 24 | in[6] << 16 | in[7] << 8 | in[8]) & 0x7fffffff, in + 9, size);
        at += 9 + size;
    }
    memmove(from->in.bytes, from->in.bytes + at, from->in.size -= at);
}

static void flush_all(void) {
    for (int i = 0; i < CONNECTIONS; i++) {
        Buffer *out = &connections[i].out;
        if (!out->size) continue;
        ssize_t gone = send(connections[i].fd, out->bytes, out->size, MSG_NOSIGNAL);
        if (gone < 0 && errno != EAGAIN) die("send");
        if (gone > 0) memmove(out->bytes, out->bytes + gone, out->size -= (size_t)gone);
    }
}

static void wait_for(double seconds) { /* until something comes, or so long */
    struct pollfd polled[CONNECTIONS];
    struct timespec most = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};
    for (int i = 0; i < CONNECTIONS; i++)
        polled[i] = (struct pollfd){connections[i].fd, POLLIN | (connections[i].out.size ? POLLOUT : 0), 0};
    if (ppoll(polled, CONNECTIONS, &most, NULL) <= 0) return;
    for (int i = 0; i < CONNECTIONS; i++)
        if (polled[i].revents & ~POLLOUT) receive(&connections[i]);
}

static void dial(const char *host, const char *port) {
    static const uint8_t settings[] = {0, 1, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff}; /* no table, any window */
    static const uint8_t window[] = {0x40, 0, 0, 0};
    struct addrinfo *found, asked = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo(host, port, &asked, &found)) die(host);
    for (int i = 0; i < CONNECTIONS; i++) {
        Connection *to = &connections[i];
        to->fd = socket(found->ai_family, SOCK_STREAM, 0);
        if (to->fd < 0 || connect(to->fd, found->ai_addr, found->ai_addrlen)) die("connect");
        setsockopt(to->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        fcntl(to->fd, F_SETFL, O_NONBLOCK);
        memcpy(more(&to->out, 24), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        frame(to, SETTINGS, 0, 0, settings, sizeof settings);
        frame(to, 8, 0, 0, window, sizeof window);
    }
    freeaddrinfo(found);
    flush_all();
}

int main(int count, char **argument) {
    if (count != 10) return fprintf(stderr, "started by bench/flood.py\n"), 2;
    double seconds = atof(argument[3]), per_second = atof(argument[5]), warm = atof(argument[6]);
    callers = (uint32_t)atoi(argument[4]);
    if (atoi(argument[7]) >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(atoi(argument[7]), &cores);
        if (sched_setaffinity(0, sizeof cores, &cores)) die("core");
    }
    size_t sizes[] = {strtoul(argument[8], NULL, 10), strtoul(argument[9], NULL, 10)};
    if (fread(more(&head, sizes[0]), 1, sizes[0], stdin) != sizes[0]) die("head");
    if (sizes[1] && fread(more(&body, sizes[1]), 1, sizes[1], stdin) != sizes[1]) die("body");
    prctl(PR_SET_TIMERSLACK, 1000L);
    struct timespec clock;
    clock_gettime(CLOCK_REALTIME, &clock);
    dice = (uint64_t)clock.tv_sec * 1000000007u + (uint64_t)clock.tv_nsec;
    /* Faster than any load counts, so the next one begins beyond. */
    number = (uint64_t)(((double)clock.tv_sec + (double)clock.tv_nsec / 1e9) * 20000);
    static char output[1 << 24];
    setvbuf(stdout, output, _IOFBF, sizeof output);

    dial(argument[1], argument[2]);
    for (double greeted = now() + 0.1; now() < greeted;) wait_for(0.02), flush_all();
    double began_at = now();
    measured_from = began_at + warm, until = began_at + seconds;
    for (uint32_t i = 0; i < callers; i++) ask(now(), 0);
    double due = callers ? until : began_at;
    for (double at = began_at; at < until; at = now()) {
        for (; due <= at && due < until && !full(); due -= log(((double)(drawn() >> 11) + 1) / 9007199254740993.0) / per_second)
            ask(due, at - due);
        flush_all();
        double left = (due < until ? due : until) - now();
        if (full()) left = 0.001;
        wait_for(left > 0 ? left : 0);
    }
    while (under_way && now() < until + PATIENCE_SECONDS) flush_all(), wait_for(0.01);
    printf("end %lu %u\n", sent, under_way);
    return 0;
}
