/*
 * runtime/stream.c, listener.c and tls.c: both ends on one loop, and sockets of our own where an
 * end of theirs would behave too well. One turn of the loop at a time, until a condition holds or
 * 30 s are over. Each test ends with a loop in which nothing is left.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "aff.h"
#include "certificates.h"
#include "stream.h"

/* One turn of the loop at a time; what stands after it is done before each. */
#define RUN_UNTIL(condition)                                                                       \
    for (uint64_t limit_ = uv_hrtime() + 30000000000u; !(condition); take_turn(limit_, #condition))

#define LENGTH(array) (sizeof(array) / sizeof *(array))

enum { SIDES_MAX = 256, TIMEOUT_MS = 20000 };

static uv_loop_t loop;
static uv_timer_t heartbeat; /* so that UV_RUN_ONCE returns */
static bool in_call;         /* no callback may run inside a call */

static void take_turn(uint64_t limit, const char *condition) {
    if (uv_hrtime() > limit) fail_msg("30 s are over without: %s", condition);
    uv_run(&loop, UV_RUN_ONCE);
}

/* --- memory that runs out: the linker sends our objects' calls here (see Makefile) -------------
 */

static atomic_size_t allocations, fail_at; /* 0: none fails */

static bool fails_now(void) {
    return fail_at > 0 && atomic_fetch_add(&allocations, 1) + 1 == fail_at;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t size) {
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
    return fails_now() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size) {
    return fails_now() ? NULL : __real_realloc(memory, size);
}

char *__wrap_strdup(const char *text) {
    return fails_now() ? NULL : __real_strdup(text);
}

/* --- one end of a connection, and what has happened there --------------------------------------
 */

typedef struct {
    aff_stream *stream; /* NULL: closed */
    unsigned ups, downs;
    char reason[256];
    bool refused;
    size_t received;
    char last[64]; /* the last bytes that came, as far as they go */
    size_t last_len;
    bool echo, checks; /* checks: byte n is pattern(n) */
    bool close_on_up, close_on_data, close_on_down;
    SSL *ssl; /* of a `probe` */
} side;

static char pattern(size_t n) {
    return (char)(n * 2654435761u >> 13);
}

static void close_side(side *at) {
    if (at->stream == NULL) return;
    aff_stream_close(at->stream);
    at->stream = NULL;
}

static void expect_callback(const side *at) {
    assert_false(in_call);
    assert_non_null(at->stream);    /* nothing comes after the close, */
    assert_int_equal(at->downs, 0); /* and nothing after down */
}

static void on_up(void *arg) {
    side *at = arg;
    expect_callback(at);
    assert_int_equal(at->received, 0);
    at->ups++;
    if (at->close_on_up) close_side(at);
}

static void on_data(void *arg, const char *bytes, size_t len) {
    side *at = arg;
    expect_callback(at);
    assert_int_equal(at->ups, 1);
    assert_true(len > 0);
    for (size_t i = 0; at->checks && i < len; i++)
        if (bytes[i] != pattern(at->received + i)) fail_msg("byte %zu", at->received + i);
    at->received += len;
    at->last_len = len < sizeof at->last ? len : sizeof at->last;
    memcpy(at->last, bytes + len - at->last_len, at->last_len);
    if (at->echo) {
        in_call = true;
        aff_stream_write(at->stream, bytes, len);
        aff_stream_flush(at->stream);
        in_call = false;
    }
    if (at->close_on_data) close_side(at);
}

static void on_down(void *arg, const char *reason) {
    side *at = arg;
    expect_callback(at);
    at->downs++;
    snprintf(at->reason, sizeof at->reason, "%s", reason);
    at->refused = aff_stream_was_refused(at->stream);
    assert_int_equal(aff_stream_pending(at->stream), 0);
    if (at->close_on_down) close_side(at);
}

static const aff_stream_callbacks callbacks = {.up = on_up, .data = on_data, .down = on_down};

static int try_connect(side *at, const char *host, uint16_t port, aff_tls *tls) {
    in_call = true;
    aff_stream_target target = {.host = host, .port = port, .tls = tls, .timeout_ms = TIMEOUT_MS};
    int status = aff_stream_connect(&loop, &target, &callbacks, at, &at->stream);
    in_call = false;
    return status;
}

static void connect_to(side *at, const char *host, uint16_t port, aff_tls *tls) {
    assert_int_equal(try_connect(at, host, port, tls), 0);
}

static void say(side *at, const char *bytes, size_t len) {
    in_call = true;
    aff_stream_write(at->stream, bytes, len);
    aff_stream_flush(at->stream);
    in_call = false;
}

static bool has_heard(const side *at, const char *text) {
    return at->last_len == strlen(text) && memcmp(at->last, text, at->last_len) == 0;
}

#define assert_reason(at, text)                                                                    \
    do {                                                                                           \
        if (strstr((at)->reason, (text)) == NULL)                                                  \
            fail_msg("\"%s\" is not in \"%s\"", (text), (at)->reason);                             \
    } while (0)

static void expect_down(side *at, const char *reason) {
    RUN_UNTIL(at->downs == 1);
    assert_reason(at, reason);
    close_side(at);
}

/* --- a listener, and the streams it has accepted ---------------------------------------------- */

typedef struct {
    aff_listener *listener;
    uint16_t port;
    side sides[SIDES_MAX];
    size_t count;
    side pattern; /* what a new side is like */
    bool ignore, refuse, close_listener;
} server;

static server here; /* the running test's */

static const char hint[] = "does that port speak TLS?";

static void on_accepted(void *arg, aff_stream *stream) {
    server *at = arg;
    assert_false(in_call);
    assert_true(at->count < SIDES_MAX);
    if (at->close_listener) {
        aff_listener_close(at->listener);
        at->listener = NULL;
    }
    if (at->ignore) return;
    if (at->refuse) {
        aff_stream_close(stream);
        return;
    }
    side *fresh = &at->sides[at->count++];
    *fresh = at->pattern;
    fresh->stream = stream;
    in_call = true;
    aff_stream_accept(stream, &callbacks, fresh);
    in_call = false;
}

static void serve_at(const char *host, aff_tls *tls) {
    char error[200] = "";
    here = (server){0};
    int status = aff_listen(&loop, host, 0, tls, on_accepted, &here, &here.listener, &here.port,
                            error, sizeof error);
    if (status != 0) fail_msg("%s", error);
    assert_int_not_equal(here.port, 0);
}

static void serve(aff_tls *tls) {
    serve_at("127.0.0.1", tls);
}

static void stop_serving(void) {
    for (size_t i = 0; i < here.count; i++) close_side(&here.sides[i]);
    if (here.listener != NULL) aff_listener_close(here.listener);
    here.listener = NULL;
}

static bool is_loop_empty(void) {
    return !uv_loop_alive(&loop); /* the heartbeat does not count */
}

/* --- who is who --------------------------------------------------------------------------------
 */

static identity ca, other_ca, for_localhost, for_addresses, for_other, expired, client, stranger;

static int make_identities(void **state) {
    (void)state;
    ca = identity_new(&(identity_config){.common_name = "ca", .is_ca = true}, NULL);
    other_ca = identity_new(&(identity_config){.common_name = "other ca", .is_ca = true}, NULL);
    for_localhost = identity_new(
        &(identity_config){.common_name = "a", .names = "DNS:localhost,DNS:*.wild.test"}, &ca);
    for_addresses =
        identity_new(&(identity_config){.common_name = "b", .names = "IP:127.0.0.1,IP:::1"}, &ca);
    for_other = identity_new(&(identity_config){.common_name = "c", .names = "DNS:c.test"}, &ca);
    expired = identity_new(
        &(identity_config){.common_name = "d", .names = "IP:127.0.0.1", .expired = true}, &ca);
    client = identity_new(&(identity_config){.common_name = "client"}, &ca);
    stranger = identity_new(&(identity_config){.common_name = "client"}, &other_ca);
    return 0;
}

static int forget_identities(void **state) {
    (void)state;
    identity *all[] = {&ca,        &other_ca, &for_localhost, &for_addresses,
                       &for_other, &expired,  &client,        &stranger};
    for (size_t i = 0; i < LENGTH(all); i++) identity_free(all[i]);
    return 0;
}

static aff_tls *new_tls(const aff_tls_config *config, bool is_server) {
    aff_tls *tls = NULL;
    char error[200] = "";
    int status = aff_tls_new(config, is_server, &tls, error, sizeof error);
    if (status != 0) fail_msg("%s", error);
    return tls;
}

static aff_tls *server_tls(const identity *id) {
    aff_tls_config config = {.cert = pem(id->cert_pem), .key = pem(id->key_pem)};
    return new_tls(&config, true);
}

static aff_tls *client_tls(const identity *believed) {
    aff_tls_config config = {.ca = pem(believed->cert_pem), .reject_unauthorized = true};
    return new_tls(&config, false);
}

/* --- a resolver with names of our own: resolver.c's calls come here ----------------------------
 */

typedef int resolve_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static uv_sem_t resolver_gate;            /* hung.test and hung2.test wait for it */
static atomic_uint resolvers_hung, asked; /* so often; for them, ever */

__attribute__((visibility("default"))) int getaddrinfo(const char *restrict name,
                                                       const char *restrict service,
                                                       const struct addrinfo *restrict hints,
                                                       struct addrinfo **restrict result) {
    resolve_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    const char *list[3] = {name};
    if (name != NULL && strcmp(name, "three.test") == 0)
        memcpy(list, (const char *[]){"127.0.0.3", "::1", "127.0.0.1"}, sizeof list);
    if (name != NULL && (strcmp(name, "c.test") == 0 || strcmp(name, "x.wild.test") == 0))
        list[0] = "127.0.0.1";
    if (name != NULL && strcmp(name, "six.test") == 0) list[0] = "::1";
    if (name != NULL && (strcmp(name, "hung.test") == 0 || strcmp(name, "hung2.test") == 0)) {
        resolvers_hung++;
        asked++;
        uv_sem_wait(&resolver_gate);
        resolvers_hung--;
        return EAI_AGAIN;
    }
    if (name != NULL && strcmp(name, "none.test") == 0) return EAI_NONAME;
    struct addrinfo **end = result;
    for (size_t i = 0; i < LENGTH(list) && (i == 0 || list[i] != NULL); i++) {
        int status = real(list[i], service, hints, end);
        if (status != 0 && list[1] == NULL) return status; /* else it is of another family */
        while (*end != NULL) end = &(*end)->ai_next;       /* glibc frees a list node by node */
    }
    return 0;
}

/* Lets those go on that hang, and waits until they have. */
static void free_resolvers(void) {
    for (unsigned n = resolvers_hung; n > 0; n--) uv_sem_post(&resolver_gate);
    RUN_UNTIL(resolvers_hung == 0);
}

/* --- plain sockets -----------------------------------------------------------------------------
 */

static struct sockaddr_in loopback(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* A socket that listens, and what it is not asked for it does not do. */
static int listen_silently(int backlog, uint16_t *port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(0);
    socklen_t len = sizeof address;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, backlog), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static int dial(uint16_t port, int flags) {
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    assert_true(fd >= 0);
    struct sockaddr_in address = loopback(port);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        assert_int_equal(errno, EINPROGRESS);
    return fd;
}

static void reset(int fd) {
    struct linger at_once = {.l_onoff = 1};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    close(fd);
}

/* A port that nobody listens at. */
static uint16_t free_port(void) {
    uint16_t port;
    close(listen_silently(1, &port));
    return port;
}

/* --- setting up ------------------------------------------------------------------------------ */

static void ignore_heartbeat(uv_timer_t *timer) {
    (void)timer;
}

static int set_up(void **state) {
    (void)state;
    here = (server){0};
    in_call = false;
    fail_at = 0;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_timer_init(&loop, &heartbeat), 0);
    assert_int_equal(uv_timer_start(&heartbeat, ignore_heartbeat, 20, 20), 0);
    uv_unref((uv_handle_t *)&heartbeat);
    return 0;
}

/* What a test leaves in the loop makes it fail. */
static int tear_down(void **state) {
    (void)state;
    fail_at = 0;
    stop_serving();
    for (uint64_t limit = uv_hrtime() + 30000000000u; !is_loop_empty() && uv_hrtime() < limit;)
        uv_run(&loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&heartbeat, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
    return uv_loop_close(&loop);
}

/* --- tests: connecting -------------------------------------------------------------------------
 */

static void expect_echo(const char *host, aff_tls *tls) {
    side at = {0};
    here.pattern.echo = true;
    connect_to(&at, host, here.port, tls);
    aff_stream_write(at.stream, "hel", 3); /* before it is up */
    aff_stream_flush(at.stream);
    aff_stream_write(at.stream, "lo", 2);
    assert_int_equal(aff_stream_pending(at.stream), 5);
    RUN_UNTIL(at.received == 5);
    assert_int_equal(at.ups, 1);
    assert_int_equal(aff_stream_pending(at.stream), 0);
    say(&at, "again", 5);
    RUN_UNTIL(at.received == 10);
    assert_true(has_heard(&at, "again"));
    side *there = &here.sides[here.count - 1];
    close_side(&at);
    RUN_UNTIL(there->downs == 1);
    assert_reason(there, "the other side has closed the connection");
}

static void test_echo(void **state) {
    (void)state;
    serve(NULL);
    expect_echo("127.0.0.1", NULL);
    expect_echo("localhost", NULL);
    stop_serving();
    serve_at("::1", NULL);
    expect_echo("::1", NULL);
    expect_echo("three.test", NULL);
    stop_serving();
    serve_at("localhost", NULL);
    expect_echo("localhost", NULL);
    stop_serving();
    serve_at("six.test", NULL);
    expect_echo("six.test", NULL);
    stop_serving();
    serve_at(NULL, NULL);
    expect_echo("::1", NULL);
    expect_echo("127.0.0.1", NULL);
}

static void test_tls_echo(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    serve(ours);
    expect_echo("127.0.0.1", theirs);
    stop_serving();
    serve_at("::1", ours);
    expect_echo("::1", theirs);
    stop_serving();
    aff_tls_free(ours);
    ours = server_tls(&for_localhost);
    serve(ours);
    expect_echo("localhost", theirs);
    expect_echo("x.wild.test", theirs);
    aff_tls_free(ours);
    expect_echo("localhost", theirs); /* the listener has kept it */
    aff_tls_free(theirs);
}

static void test_a_context_is_kept_by_its_streams(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    serve(ours);
    side at = {0};
    connect_to(&at, "127.0.0.1", here.port, theirs);
    aff_tls_free(ours);
    aff_tls_free(theirs);
    RUN_UNTIL(at.ups == 1 && here.count == 1 && here.sides[0].ups == 1);
    aff_listener_close(here.listener); /* its streams live on */
    here.listener = NULL;
    here.sides[0].echo = true;
    say(&at, "x", 1);
    RUN_UNTIL(at.received == 1);
    close_side(&at);
}

static void test_bad_arguments(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    char long_name[AFF_STREAM_HOST_MAX + 2], error[200];
    memset(long_name, 'a', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    side at = {0};
    assert_int_equal(try_connect(&at, NULL, 1, NULL), AFF_EINVAL);
    assert_int_equal(try_connect(&at, "", 1, NULL), AFF_EINVAL);
    assert_int_equal(try_connect(&at, long_name, 1, NULL), AFF_EINVAL);
    assert_int_equal(try_connect(&at, "::1", 0, NULL), AFF_EINVAL);
    assert_int_equal(try_connect(&at, "::1", 1, ours), AFF_EINVAL);
    char long_path[200];
    memset(long_path, 'a', sizeof long_path);
    long_path[sizeof long_path - 1] = '\0';
    const aff_stream_target bad[] = {{.host = "::1", .port = 1},
                                     {.host = "x", .port = 1, .family = AF_UNIX, .timeout_ms = 1},
                                     {.path = "", .timeout_ms = 1},
                                     {.path = long_path, .timeout_ms = 1},
                                     {.path = "/x", .tls = theirs, .timeout_ms = 1}};
    for (size_t i = 0; i < LENGTH(bad); i++)
        assert_int_equal(aff_stream_connect(&loop, &bad[i], &callbacks, NULL, &at.stream),
                         AFF_EINVAL);
    assert_null(at.stream);
    aff_listener *none = NULL;
    assert_int_equal(
        aff_listen(&loop, "::1", 0, theirs, on_accepted, NULL, &none, NULL, error, sizeof error),
        AFF_EINVAL);
    assert_non_null(strstr(error, "needs a server's TLS"));
    assert_int_equal(aff_listen(&loop, "none.test", 0, NULL, on_accepted, NULL, &none, NULL, error,
                                sizeof error),
                     AFF_EINVAL);
    assert_non_null(strstr(error, "unknown node or service"));
    uint16_t port;
    int taken = listen_silently(1, &port);
    assert_int_equal(aff_listen(&loop, "127.0.0.1", port, NULL, on_accepted, NULL, &none, NULL,
                                error, sizeof error),
                     AFF_EINVAL);
    assert_non_null(strstr(error, "address already in use"));
    assert_null(none);
    close(taken);
    aff_tls_free(ours);
    aff_tls_free(theirs);
    aff_tls_free(NULL);
}

static void test_refused(void **state) {
    (void)state;
    uint16_t port = free_port();
    const char *hosts[] = {"127.0.0.1", "localhost", "three.test"};
    for (size_t i = 0; i < LENGTH(hosts); i++) {
        side at = {0};
        connect_to(&at, hosts[i], port, NULL);
        expect_down(&at, "connection refused");
        assert_false(at.refused);
    }
}

static void test_unreachable(void **state) {
    (void)state;
    side at = {0};
    connect_to(&at, "255.255.255.255", 1, NULL); /* fails at once */
    expect_down(&at, "connect: ");
}

static void test_unresolvable(void **state) {
    (void)state;
    side at = {0};
    connect_to(&at, "none.test", 1, NULL);
    aff_stream_write(at.stream, "dropped", 7);
    RUN_UNTIL(at.downs == 1);
    assert_reason(&at, "resolve none.test: unknown node or service");
    say(&at, "dropped", 7);
    assert_int_equal(aff_stream_pending(at.stream), 0);
    close_side(&at);
}

static void test_every_address_is_tried(void **state) {
    (void)state;
    serve(NULL); /* at the last of three */
    expect_echo("three.test", NULL);
}

static void test_which_address_is_first(void **state) {
    (void)state;
    serve_at("::1", NULL); /* the second of three */
    uint16_t port = here.port;
    int other = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in third = loopback(port);
    assert_int_equal(setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes), 0);
    assert_int_equal(bind(other, (struct sockaddr *)&third, sizeof third), 0);
    assert_int_equal(listen(other, 8), 0);
    static const bool is_second[] = {true, true, false, true, true, false};
    for (unsigned first = 0; first < LENGTH(is_second); first++) {
        side at = {0};
        aff_stream_target target = {
            .host = "three.test", .port = port, .timeout_ms = TIMEOUT_MS, .first = first};
        size_t count = here.count;
        assert_int_equal(aff_stream_connect(&loop, &target, &callbacks, &at, &at.stream), 0);
        RUN_UNTIL(at.ups == 1);
        if (is_second[first]) RUN_UNTIL(here.count == count + 1);
        assert_int_equal(here.count, count + is_second[first]);
        close_side(&at);
    }
    close(other);
}

static void test_family(void **state) {
    (void)state;
    serve_at("::1", NULL); /* the second of three */
    static const int families[] = {AF_INET6, AF_INET};
    for (size_t i = 0; i < LENGTH(families); i++) {
        side at = {0};
        aff_stream_target target = {.host = "three.test",
                                    .port = here.port,
                                    .family = families[i],
                                    .timeout_ms = TIMEOUT_MS};
        assert_int_equal(aff_stream_connect(&loop, &target, &callbacks, &at, &at.stream), 0);
        if (families[i] == AF_INET6) {
            RUN_UNTIL(at.ups == 1 && here.count == 1);
            close_side(&at);
        } else {
            expect_down(&at, "connect: connection refused");
        }
    }
}

static void test_unix_socket(void **state) {
    (void)state;
    char dir[] = "/tmp/aff-stream-XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_non_null(mkdtemp(dir));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", dir);
    aff_stream_target target = {.path = address.sun_path, .timeout_ms = TIMEOUT_MS};
    side at = {0}, nobody = {0};
    assert_int_equal(aff_stream_connect(&loop, &target, &callbacks, &nobody, &nobody.stream), 0);
    expect_down(&nobody, "connect: no such file or directory");
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(aff_stream_connect(&loop, &target, &callbacks, &at, &at.stream), 0);
    RUN_UNTIL(at.ups == 1);
    int fd = accept(listener, NULL, NULL);
    memcpy(aff_stream_put(at.stream, 5), "hello", 5);
    say(&at, "!", 1);
    char heard[8];
    assert_int_equal(read(fd, heard, sizeof heard), 6); /* in one go */
    assert_memory_equal(heard, "hello!", 6);
    assert_int_equal(write(fd, "hi", 2), 2);
    RUN_UNTIL(at.received == 2);
    close(fd);
    expect_down(&at, "the other side has closed the connection");
    close(listener);
    unlink(address.sun_path);
    assert_int_equal(rmdir(dir), 0);
}

static void expect_timeout(const char *host, uint16_t port, aff_tls *tls, const char *reason) {
    side at = {0};
    aff_stream_target target = {.host = host, .port = port, .tls = tls, .timeout_ms = 30};
    assert_int_equal(aff_stream_connect(&loop, &target, &callbacks, &at, &at.stream), 0);
    expect_down(&at, reason);
    assert_int_equal(at.ups, 0);
    assert_false(at.refused);
}

static void test_timeouts(void **state) {
    (void)state;
    aff_tls *tls = client_tls(&ca);
    uint16_t port;
    int silent = listen_silently(8, &port);
    expect_timeout("127.0.0.1", port, tls,
                   "the TLS handshake took too long (does that port speak TLS?)");
    close(silent);
    int hole = listen_silently(0, &port), filler[3];
    for (size_t i = 0; i < LENGTH(filler); i++) filler[i] = dial(port, SOCK_NONBLOCK);
    expect_timeout("127.0.0.1", port, NULL, "connecting took too long");
    for (size_t i = 0; i < LENGTH(filler); i++) close(filler[i]);
    close(hole);
    expect_timeout("hung.test", port, NULL, "resolving hung.test took too long");
    RUN_UNTIL(is_loop_empty() && resolvers_hung == 1); /* which keeps nobody */
    free_resolvers();
    aff_tls_free(tls);
}

/* An accepted stream has 10 s for its handshake: the test winds them forward. */
static void wind_forward(uv_handle_t *handle, void *arg) {
    uv_timer_t *timer = (uv_timer_t *)handle;
    if (handle->type != UV_TIMER || timer == &heartbeat || !uv_is_active(handle)) return;
    uint64_t due_ms = uv_timer_get_due_in(timer);
    assert_true(due_ms > AFF_STREAM_HANDSHAKE_MS / 2 && due_ms <= AFF_STREAM_HANDSHAKE_MS);
    assert_int_equal(uv_timer_start(timer, timer->timer_cb, 0, 0), 0);
    ++*(unsigned *)arg;
}

static void test_a_client_that_says_nothing(void **state) {
    (void)state;
    aff_tls *tls = server_tls(&for_addresses);
    serve(tls);
    int fd = dial(here.port, 0);
    RUN_UNTIL(here.count == 1);
    unsigned timers = 0;
    uv_walk(&loop, wind_forward, &timers);
    assert_int_equal(timers, 1);
    expect_down(&here.sides[0], "the TLS handshake took too long");
    assert_null(strstr(here.sides[0].reason, hint));
    close(fd);
    aff_tls_free(tls);
}

/* --- tests: whom to believe --------------------------------------------------------------------
 */

/* The client goes down for `reason`, or comes up if NULL. */
static void expect_verdict(const char *host, const identity *shown, aff_tls_config config,
                           const char *reason) {
    aff_tls *ours = server_tls(shown), *theirs = new_tls(&config, false);
    serve(ours);
    side at = {0};
    connect_to(&at, host, here.port, theirs);
    if (reason != NULL) {
        expect_down(&at, reason);
        assert_int_equal(at.ups, 0);
        assert_true(at.refused);
        assert_null(strstr(at.reason, hint));
        RUN_UNTIL(here.count == 1 && here.sides[0].downs == 1);
        assert_int_equal(here.sides[0].ups, 0);
        assert_reason(&here.sides[0], "TLS: "); /* our alert said why */
    } else {
        RUN_UNTIL(at.ups == 1);
        close_side(&at);
    }
    stop_serving();
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

static void test_certificates_of_servers(void **state) {
    (void)state;
    aff_tls_config strict = {.ca = pem(ca.cert_pem), .reject_unauthorized = true};
    expect_verdict("127.0.0.1", &for_addresses, strict, NULL);
    expect_verdict("127.0.0.1", &for_localhost, strict, "IP address mismatch");
    expect_verdict("localhost", &for_other, strict, "hostname mismatch");
    expect_verdict("c.test", &for_other, strict, NULL);
    expect_verdict("127.0.0.1", &expired, strict, "certificate has expired");
    expect_verdict("127.0.0.1", &stranger, strict, "unable to get local issuer certificate");
    strict.ca = pem(other_ca.cert_pem);
    expect_verdict("127.0.0.1", &for_addresses, strict, "unable to get local issuer certificate");
    strict.ca = (aff_slice){0}; /* the system's */
    expect_verdict("127.0.0.1", &for_addresses, strict, "unable to get local issuer certificate");
}

static void test_another_name_than_the_host(void **state) {
    (void)state;
    aff_tls_config config = {
        .ca = pem(ca.cert_pem), .server_name = "c.test", .reject_unauthorized = true};
    expect_verdict("127.0.0.1", &for_other, config, NULL);
    expect_verdict("localhost", &for_localhost, config, "hostname mismatch");
    config.server_name = "127.0.0.1";
    expect_verdict("localhost", &for_addresses, config, NULL);
    config.server_name = "";
    expect_verdict("localhost", &for_localhost, config, NULL);
}

static void test_without_reject_unauthorized(void **state) {
    (void)state;
    expect_verdict("127.0.0.1", &expired, (aff_tls_config){0}, NULL);
    expect_verdict("localhost", &for_other, (aff_tls_config){.ca = pem(other_ca.cert_pem)}, NULL);
}

static void test_several_cas(void **state) {
    (void)state;
    char both[8192];
    snprintf(both, sizeof both, "# two\n%s\n%s", other_ca.cert_pem, ca.cert_pem);
    aff_tls_config config = {.ca = pem(both), .reject_unauthorized = true};
    expect_verdict("127.0.0.1", &for_addresses, config, NULL);
}

static void test_chain(void **state) {
    (void)state;
    identity between =
        identity_new(&(identity_config){.common_name = "between", .is_ca = true}, &ca);
    identity leaf =
        identity_new(&(identity_config){.common_name = "leaf", .names = "IP:127.0.0.1"}, &between);
    aff_tls_config strict = {.ca = pem(ca.cert_pem), .reject_unauthorized = true};
    expect_verdict("127.0.0.1", &leaf, strict, "unable to get local issuer certificate");
    char chain[8192], *own = leaf.cert_pem;
    snprintf(chain, sizeof chain, "%s%s", own, between.cert_pem);
    leaf.cert_pem = chain;
    expect_verdict("127.0.0.1", &leaf, strict, NULL);
    leaf.cert_pem = own;
    identity_free(&leaf);
    identity_free(&between);
}

/* Under TLS 1.3 a client is up before the server has seen its certificate. */
static void expect_client(const identity *shown, const char *reason) {
    aff_tls_config config = {.ca = pem(ca.cert_pem),
                             .cert = pem(for_addresses.cert_pem),
                             .key = pem(for_addresses.key_pem),
                             .reject_unauthorized = true,
                             .request_cert = true};
    aff_tls *ours = new_tls(&config, true);
    config.cert = pem(shown != NULL ? shown->cert_pem : NULL);
    config.key = pem(shown != NULL ? shown->key_pem : NULL);
    aff_tls *theirs = new_tls(&config, false);
    serve(ours);
    side at = {0};
    connect_to(&at, "127.0.0.1", here.port, theirs);
    if (reason != NULL) {
        RUN_UNTIL(here.count == 1);
        expect_down(&here.sides[0], reason);
        assert_int_equal(here.sides[0].ups, 0);
        expect_down(&at, "alert");
        assert_true(at.refused);
    } else {
        RUN_UNTIL(at.ups == 1 && here.sides[0].ups == 1);
    }
    close_side(&at);
    stop_serving();
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

static void test_certificates_of_clients(void **state) {
    (void)state;
    expect_client(&client, NULL);
    expect_client(NULL, "peer did not return a certificate");
    expect_client(&stranger, "unable to get local issuer certificate");
    expect_client(&expired, "certificate has expired");
}

static void expect_bad(aff_tls_config config, bool is_server, const char *reason) {
    aff_tls *tls = NULL;
    char error[200] = "";
    assert_int_equal(aff_tls_new(&config, is_server, &tls, error, sizeof error), AFF_EINVAL);
    assert_null(tls);
    if (strstr(error, reason) == NULL) fail_msg("\"%s\" is not in \"%s\"", reason, error);
    assert_int_equal(ERR_peek_error(), 0);
}

static void test_bad_configuration(void **state) {
    (void)state;
    aff_slice cert = pem(client.cert_pem), key = pem(client.key_pem), junk = pem("nonsense");
    aff_slice broken = pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    aff_slice huge = {cert.data, AFF_TLS_PEM_MAX + 1};
    char name[AFF_TLS_NAME_MAX + 2];
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = '\0';
    expect_bad((aff_tls_config){0}, true, "a server needs cert and key");
    expect_bad((aff_tls_config){.cert = cert}, true, "cert needs key");
    expect_bad((aff_tls_config){.key = key}, false, "key needs cert");
    expect_bad((aff_tls_config){.ca = junk}, false, "ca: no PEM certificate in it");
    expect_bad((aff_tls_config){.ca = broken}, false, "ca: ");
    expect_bad((aff_tls_config){.ca = huge}, false, "too long");
    expect_bad((aff_tls_config){.server_name = name}, false, "name is too long");
    expect_bad((aff_tls_config){.cert = junk, .key = key}, true, "cert: no PEM certificate in it");
    expect_bad((aff_tls_config){.cert = cert, .key = junk}, true, "key: no PEM private key in it");
    expect_bad((aff_tls_config){.cert = cert, .key = cert}, true, "key: no PEM private key in it");
    expect_bad((aff_tls_config){.cert = cert, .key = pem(stranger.key_pem)}, true,
               "key: it is not the key of cert");
    expect_bad((aff_tls_config){.cert = cert, .key = key, .request_cert = true}, true, "needs ca");
    char half[4096]; /* a good one, and then the beginning of another */
    snprintf(half, sizeof half, "%s%.100s", ca.cert_pem, other_ca.cert_pem);
    expect_bad((aff_tls_config){.ca = pem(half)}, false, "ca: ");
}

static void test_passphrase(void **state) {
    (void)state;
    char *locked = identity_locked_key(&client, "open sesame");
    aff_tls_config config = {.cert = pem(client.cert_pem), .key = pem(locked)};
    expect_bad(config, true, "key: it is encrypted, and there is no passphrase");
    config.passphrase = pem("open barley");
    expect_bad(config, true, "key: wrong passphrase");
    char long_one[AFF_TLS_PASSPHRASE_MAX + 2];
    memset(long_one, 'a', sizeof long_one);
    long_one[sizeof long_one - 1] = '\0';
    config.passphrase = pem(long_one);
    expect_bad(config, true, "passphrase is too long");
    config.passphrase.len--;
    expect_bad(config, true, "key: wrong passphrase");
    config.passphrase = pem("open sesame");
    aff_tls_free(new_tls(&config, true));
    free(locked);
}

/* --- tests: what the wire does -----------------------------------------------------------------
 */

/* A client with an SSL of the test's own, over a plain stream. */
static void probe_send(side *at, size_t chunk) {
    char bytes[65536];
    int n;
    while ((n = BIO_read(SSL_get_wbio(at->ssl), bytes, (int)chunk)) > 0) {
        say(at, bytes, (size_t)n);
        if (chunk == 1) uv_run(&loop, UV_RUN_NOWAIT); /* each byte by itself */
    }
}

static void on_probe_data(void *arg, const char *bytes, size_t len) {
    side *at = arg;
    assert_int_equal(BIO_write(SSL_get_rbio(at->ssl), bytes, (int)len), len);
    at->received += len;
}

static void probe(side *at, int version) {
    static const aff_stream_callbacks on = {.up = on_up, .data = on_probe_data, .down = on_down};
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    assert_non_null(ctx);
    SSL_CTX_set_security_level(ctx, 0);
    assert_int_equal(SSL_CTX_set_max_proto_version(ctx, version), 1);
    at->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    SSL_set_bio(at->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(at->ssl);
    aff_stream_target target = {.host = "127.0.0.1", .port = here.port, .timeout_ms = TIMEOUT_MS};
    assert_int_equal(aff_stream_connect(&loop, &target, &on, at, &at->stream), 0);
    RUN_UNTIL(at->ups == 1);
}

static void probe_until_up(side *at, size_t chunk) {
    RUN_UNTIL(SSL_do_handshake(at->ssl) == 1) {
        probe_send(at, chunk);
    }
    probe_send(at, chunk);
}

static void probe_end(side *at) {
    close_side(at);
    SSL_free(at->ssl);
    ERR_clear_error();
}

static void test_versions(void **state) {
    (void)state;
    aff_tls *tls = server_tls(&for_addresses);
    serve(tls);
    side old = {0};
    probe(&old, TLS1_1_VERSION);
    (void)SSL_do_handshake(old.ssl);
    probe_send(&old, 65536);
    RUN_UNTIL(here.count == 1);
    expect_down(&here.sides[0], "TLS: unsupported protocol");
    RUN_UNTIL(old.downs == 1 && old.received > 0);
    probe_end(&old);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        side at = {0};
        probe(&at, version);
        probe_until_up(&at, 65536);
        assert_int_equal(SSL_version(at.ssl), version);
        RUN_UNTIL(here.sides[here.count - 1].ups == 1);
        probe_end(&at);
    }
    aff_tls_free(tls);
}

static void test_partial_records(void **state) {
    (void)state;
    aff_tls *tls = server_tls(&for_addresses);
    serve(tls);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        side at = {0};
        probe(&at, version);
        probe_until_up(&at, 1);
        assert_int_equal(SSL_write(at.ssl, "bit by bit", 10), 10);
        probe_send(&at, 1);
        side *there = &here.sides[here.count - 1];
        RUN_UNTIL(there->received == 10);
        assert_true(has_heard(there, "bit by bit"));
        probe_end(&at);
    }
    aff_tls_free(tls);
}

/* What a client says together with the end of its handshake. */
static void test_early_words(void **state) {
    (void)state;
    aff_tls *tls = server_tls(&for_addresses);
    serve(tls);
    here.pattern.echo = true;
    side at = {0};
    probe(&at, TLS1_3_VERSION);
    RUN_UNTIL(SSL_do_handshake(at.ssl) == 1) {
        probe_send(&at, 65536);
    }
    assert_int_equal(SSL_write(at.ssl, "first", 5), 5);
    probe_send(&at, 65536); /* with Finished, in one go */
    char answer[16];
    RUN_UNTIL(SSL_read(at.ssl, answer, sizeof answer) == 5);
    assert_memory_equal(answer, "first", 5);
    probe_end(&at);
    aff_tls_free(tls);
}

static void test_no_renegotiation(void **state) {
    (void)state;
    aff_tls *tls = server_tls(&for_addresses);
    serve(tls);
    side at = {0};
    probe(&at, TLS1_2_VERSION);
    probe_until_up(&at, 65536);
    RUN_UNTIL(here.count == 1 && here.sides[0].ups == 1);
    assert_int_equal(SSL_renegotiate(at.ssl), 1);
    RUN_UNTIL(SSL_do_handshake(at.ssl) != 1 && SSL_get_error(at.ssl, -1) == SSL_ERROR_SSL) {
        probe_send(&at, 65536);
    }
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
    probe_end(&at);
    RUN_UNTIL(here.sides[0].downs == 1);
    aff_tls_free(tls);
}

static void test_goodbye(void **state) {
    (void)state;
    aff_tls *tls = server_tls(&for_addresses);
    serve(tls);
    char byte;
    side first = {0}, second = {0};
    probe(&first, TLS1_3_VERSION);
    probe_until_up(&first, 65536);
    RUN_UNTIL(here.sides[0].ups == 1);
    close_side(&here.sides[0]); /* says it */
    RUN_UNTIL(first.downs == 1);
    assert_int_equal(SSL_read(first.ssl, &byte, 1), 0);
    assert_int_equal(SSL_get_error(first.ssl, 0), SSL_ERROR_ZERO_RETURN);
    probe_end(&first);
    probe(&second, TLS1_3_VERSION);
    probe_until_up(&second, 65536);
    RUN_UNTIL(here.count == 2 && here.sides[1].ups == 1);
    (void)SSL_shutdown(second.ssl); /* hears it, and says it too */
    probe_send(&second, 65536);
    expect_down(&here.sides[1], "the other side has closed the connection");
    RUN_UNTIL(SSL_shutdown(second.ssl) == 1);
    probe_end(&second);
    aff_tls_free(tls);
}

static void test_garbage(void **state) {
    (void)state;
    static const char *const garbage[] = {"GET / HTTP/1.1\r\n\r\n", "garbage, long enough for it",
                                          "\x16\x03\x01\xff\xff and so on", "\x16\x03\x01"};
    static const char *const reasons[] = {
        "TLS: http request", "TLS: ", "TLS: ", "the other side has closed the connection"};
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    serve(ours);
    for (size_t i = 0; i < LENGTH(garbage); i++) {
        side at = {0};
        connect_to(&at, "127.0.0.1", here.port, NULL);
        RUN_UNTIL(at.ups == 1 && here.count == i + 1);
        say(&at, garbage[i], strlen(garbage[i]));
        RUN_UNTIL(aff_stream_pending(at.stream) == 0);
        if (i == 3) close_side(&at);
        expect_down(&here.sides[i], reasons[i]);
        assert_int_equal(here.sides[i].ups, 0);
        close_side(&at);
    }
    stop_serving();
    serve(NULL); /* and a server that does not speak TLS */
    side at = {0};
    connect_to(&at, "127.0.0.1", here.port, theirs);
    RUN_UNTIL(here.count == 1 && here.sides[0].ups == 1);
    say(&here.sides[0], "-ERR unknown command\r\n", 22);
    expect_down(&at, "TLS: ");
    assert_reason(&at, hint);
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

static void test_garbage_after_the_handshake(void **state) {
    (void)state;
    aff_tls *tls = server_tls(&for_addresses);
    serve(tls);
    side at = {0};
    probe(&at, TLS1_3_VERSION);
    probe_until_up(&at, 65536);
    RUN_UNTIL(here.sides[0].ups == 1);
    say(&at, "\x17\x03\x03\0\x20 not what anybody has encrypted!", 38);
    expect_down(&here.sides[0], "TLS: ");
    probe_end(&at);
    aff_tls_free(tls);
}

static void test_resets(void **state) {
    (void)state;
    serve(NULL);
    int fd = dial(here.port, 0);
    RUN_UNTIL(here.count == 1 && here.sides[0].ups == 1);
    reset(fd);
    expect_down(&here.sides[0], "read: connection reset by peer");
    fd = dial(here.port, 0); /* noticed by writing */
    RUN_UNTIL(here.count == 2 && here.sides[1].ups == 1);
    reset(fd);
    say(&here.sides[1], "x", 1);
    RUN_UNTIL(here.sides[1].downs == 1);
    stop_serving();
    aff_tls *ours = server_tls(&for_addresses);
    serve(ours);
    fd = dial(here.port, 0);
    RUN_UNTIL(here.count == 1);
    reset(fd);
    expect_down(&here.sides[0], "read: connection reset by peer");
    aff_tls_free(ours);
}

/* Data that has come before the reset is not lost to a failed write. */
static void test_last_words(void **state) {
    (void)state;
    serve(NULL);
    int fd = dial(here.port, 0);
    RUN_UNTIL(here.count == 1 && here.sides[0].ups == 1);
    assert_int_equal(write(fd, "bye", 3), 3);
    shutdown(fd, SHUT_RDWR);
    close(fd);
    say(&here.sides[0], "x", 1);
    say(&here.sides[0], "y", 1); /* fails: the answer to x was a reset */
    RUN_UNTIL(here.sides[0].downs == 1);
    assert_true(has_heard(&here.sides[0], "bye"));
}

/* Writes in random chunks as long as little is pending. Returns how much is written. */
static size_t pour(side *at, size_t from, size_t total, unsigned *seed) {
    static char chunk[200000];
    while (at->ups == 1 && from < total && aff_stream_pending(at->stream) < 1 << 20) {
        size_t len = 1 + (size_t)rand_r(seed) % (rand_r(seed) % 4 == 0 ? sizeof chunk : 3000);
        if (len > total - from) len = total - from;
        for (size_t i = 0; i < len; i++) chunk[i] = pattern(from + i);
        aff_stream_write(at->stream, chunk, len);
        from += len;
    }
    aff_stream_flush(at->stream);
    return from;
}

static void expect_pour(aff_tls *ours, aff_tls *theirs, unsigned seed) {
    enum { TOTAL = 10 << 20 };
    print_message("seed %u\n", seed);
    serve(ours);
    here.pattern.checks = true;
    side at = {.checks = true};
    connect_to(&at, "127.0.0.1", here.port, theirs);
    RUN_UNTIL(at.ups == 1 && here.count == 1 && here.sides[0].ups == 1);
    side *there = &here.sides[0];
    size_t to = 0, back = 0;
    RUN_UNTIL(at.received == TOTAL && there->received == TOTAL) {
        to = pour(&at, to, TOTAL, &seed);
        back = pour(there, back, TOTAL, &seed);
    }
    assert_int_equal(aff_stream_pending(at.stream) + aff_stream_pending(there->stream), 0);
    close_side(&at);
    stop_serving();
}

static void test_10_mb_both_ways(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    for (unsigned seed = 1; seed <= 3; seed++) {
        expect_pour(NULL, NULL, seed);
        expect_pour(ours, theirs, seed);
    }
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

/* More than the socket takes, and more on top of what waits. */
static void expect_bursts(aff_tls *ours, aff_tls *theirs, unsigned seed) {
    static char burst[3 << 20];
    print_message("seed %u\n", seed);
    serve(ours);
    here.pattern.checks = true;
    side at = {0};
    connect_to(&at, "127.0.0.1", here.port, theirs);
    RUN_UNTIL(at.ups == 1);
    size_t total = 0;
    for (unsigned i = 0; i < 40; i++) {
        size_t len = 1 + (size_t)rand_r(&seed) % sizeof burst;
        for (size_t k = 0; k < len; k++) burst[k] = pattern(total + k);
        say(&at, burst, len);
        total += len;
        size_t most = rand_r(&seed) % 3 == 0 ? 0 : (size_t)rand_r(&seed) % (8 << 20);
        RUN_UNTIL(aff_stream_pending(at.stream) <= most);
    }
    RUN_UNTIL(here.sides[0].received == total);
    assert_int_equal(aff_stream_pending(at.stream), 0);
    close_side(&at);
    stop_serving();
}

static void test_bursts(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    for (unsigned seed = 1; seed <= 2; seed++) {
        expect_bursts(NULL, NULL, seed);
        expect_bursts(ours, theirs, seed);
    }
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

/* One large write, which the socket takes bit by bit. */
static void test_a_slow_reader(void **state) {
    (void)state;
    enum { TOTAL = 32 << 20 };
    uint16_t port;
    int listener = listen_silently(8, &port);
    side at = {0};
    connect_to(&at, "127.0.0.1", port, NULL);
    RUN_UNTIL(at.ups == 1);
    char *bytes = malloc(TOTAL);
    assert_non_null(bytes);
    for (size_t i = 0; i < TOTAL; i++) bytes[i] = pattern(i);
    aff_stream_write(at.stream, bytes, TOTAL);
    assert_int_equal(aff_stream_pending(at.stream), TOTAL);
    aff_stream_flush(at.stream);
    size_t pending = aff_stream_pending(at.stream);
    assert_true(pending > 0 && pending < TOTAL);
    say(&at, "end", 3);
    assert_int_equal(aff_stream_pending(at.stream), pending + 3);
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    static char part[1 << 20];
    size_t got = 0;
    ssize_t n = 0;
    RUN_UNTIL(got == TOTAL + 3) {
        while ((n = read(fd, part, sizeof part)) > 0) {
            size_t len = got + (size_t)n <= TOTAL ? (size_t)n : TOTAL - got;
            assert_memory_equal(part, bytes + got, len);
            got += (size_t)n;
        }
        assert_true(n < 0 && errno == EAGAIN);
    }
    assert_int_equal(aff_stream_pending(at.stream), 0);
    free(bytes);
    close_side(&at);
    close(fd);
    close(listener);
}

static void test_too_much_pending(void **state) {
    (void)state;
    serve(NULL);
    side at = {0};
    connect_to(&at, "127.0.0.1", here.port, NULL);
    in_call = true;
    aff_stream_write(at.stream, "x", 1);
    assert_null(aff_stream_put(at.stream, AFF_STREAM_PENDING_MAX));
    assert_int_equal(aff_stream_pending(at.stream), 1);
    aff_stream_write(at.stream, "", AFF_STREAM_PENDING_MAX); /* not looked at */
    in_call = false;
    expect_down(&at, aff_error_text(AFF_EFULL));
    assert_int_equal(at.ups, 0);
}

/* --- tests: many, and few --------------------------------------------------------------------- */

static void test_many(void **state) {
    (void)state;
    enum { MANY = 200 };
    static side at[MANY];
    memset(at, 0, sizeof at);
    serve(NULL);
    here.pattern.echo = true;
    for (size_t i = 0; i < MANY; i++) {
        connect_to(&at[i], "127.0.0.1", here.port, NULL);
        aff_stream_write(at[i].stream, "hello", 5);
    }
    for (size_t i = 0; i < MANY; i++) RUN_UNTIL(at[i].received == 5);
    for (size_t i = 0; i < MANY; i += 2) close_side(&at[i]);
    stop_serving();
    for (size_t i = 1; i < MANY; i += 2) expect_down(&at[i], "closed the connection");
}

static void test_many_handshakes(void **state) {
    (void)state;
    enum { MANY = AFF_STREAM_HANDSHAKES_MAX, MORE = 5 };
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    serve(ours);
    int fds[MANY + MORE];
    for (size_t i = 0; i < MANY; i++) fds[i] = dial(here.port, 0);
    RUN_UNTIL(here.count == MANY);
    for (size_t i = MANY; i < MANY + MORE; i++) {
        char byte;
        fds[i] = dial(here.port, SOCK_NONBLOCK);
        RUN_UNTIL(read(fds[i], &byte, 1) == 0); /* closed at once */
    }
    assert_int_equal(here.count, MANY);
    close(fds[0]); /* makes room for one */
    RUN_UNTIL(here.sides[0].downs == 1);
    expect_echo("127.0.0.1", theirs);
    expect_echo("127.0.0.1", theirs); /* who is up does not count */
    close_side(&here.sides[1]);       /* nor who is closed */
    close_side(&here.sides[2]);
    side at[2] = {0};
    connect_to(&at[0], "127.0.0.1", here.port, theirs);
    connect_to(&at[1], "127.0.0.1", here.port, theirs);
    RUN_UNTIL(at[0].ups == 1 && at[1].ups == 1);
    close_side(&at[0]);
    close_side(&at[1]);
    for (size_t i = 1; i < MANY + MORE; i++) close(fds[i]);
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

static void test_not_accepted(void **state) {
    (void)state;
    serve(NULL);
    side at[3] = {0};
    here.ignore = true;
    connect_to(&at[0], "127.0.0.1", here.port, NULL);
    expect_down(&at[0], "the other side has closed the connection");
    here.ignore = false;
    here.refuse = true;
    connect_to(&at[1], "127.0.0.1", here.port, NULL);
    expect_down(&at[1], "the other side has closed the connection");
    here.close_listener = true;
    connect_to(&at[2], "127.0.0.1", here.port, NULL);
    expect_down(&at[2], "the other side has closed the connection");
}

/* --- tests: closing ----------------------------------------------------------------------------
 */

typedef enum { CLIENT, ACCEPTED, LISTENER, CLOSERS } closer;

/* Closes one of the three after so many turns. Returns whether both ends were up by then. */
static bool close_after(unsigned turns, closer who, const char *host, aff_tls *ours,
                        aff_tls *theirs) {
    serve(ours);
    here.pattern.echo = true;
    side at = {0};
    connect_to(&at, host, here.port, theirs);
    aff_stream_write(at.stream, "hello", 5);
    uint64_t limit = uv_hrtime() + 30000000000u;
    for (unsigned i = 0; i < turns; i++) uv_run(&loop, UV_RUN_ONCE);
    while (who == ACCEPTED && here.count == 0 && uv_hrtime() < limit) uv_run(&loop, UV_RUN_ONCE);
    bool both = at.received == 5;
    if (who == CLIENT) close_side(&at);
    if (who == ACCEPTED) close_side(&here.sides[0]);
    stop_serving();
    if (who != CLIENT) RUN_UNTIL(at.downs == 1); /* it has nobody to speak to now */
    assert_int_equal(at.downs, who == CLIENT ? 0 : 1);
    close_side(&at);
    RUN_UNTIL(is_loop_empty());
    return both;
}

static void test_close_at_every_stage(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_localhost), *theirs = client_tls(&ca);
    const char *plain[] = {"127.0.0.1", "localhost", "three.test"};
    for (closer who = 0; who < CLOSERS; who++) {
        for (size_t i = 0; i < LENGTH(plain); i++)
            for (unsigned turns = 0; !close_after(turns, who, plain[i], NULL, NULL); turns++)
                assert_true(turns < 1000);
        for (unsigned turns = 0; !close_after(turns, who, "localhost", ours, theirs); turns++)
            assert_true(turns < 1000);
    }
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

/* Names that hang keep nobody, and take one thread each. */
static void test_close_while_resolving(void **state) {
    (void)state;
    enum { MANY = 8 };
    side at[MANY] = {0};
    asked = 0;
    for (size_t i = 0; i < MANY; i++)
        connect_to(&at[i], i % 2 == 0 ? "hung.test" : "hung2.test", 1, NULL);
    RUN_UNTIL(resolvers_hung == 2);
    side six = {0}; /* is another question */
    aff_stream_target target = {
        .host = "hung.test", .port = 1, .family = AF_INET6, .timeout_ms = TIMEOUT_MS};
    assert_int_equal(aff_stream_connect(&loop, &target, &callbacks, &six, &six.stream), 0);
    RUN_UNTIL(resolvers_hung == 3);
    close_side(&six);
    assert_false(is_loop_empty());
    for (size_t i = 0; i < MANY - 2; i++) close_side(&at[i]);
    serve(NULL); /* other names are looked up meanwhile */
    expect_echo("localhost", NULL);
    stop_serving();
    free_resolvers();
    expect_down(&at[MANY - 2], "resolve hung.test: ");
    expect_down(&at[MANY - 1], "resolve hung2.test: ");
    RUN_UNTIL(is_loop_empty());
    assert_int_equal(asked, 3);
}

static void test_close_within_callbacks(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    for (unsigned tls = 0; tls < 2; tls++) {
        for (unsigned when = 0; when < 6; when++) {
            serve(tls ? ours : NULL);
            side at = {.close_on_up = when == 0, .close_on_data = when == 1, .close_on_down = true};
            here.pattern = (side){.echo = true,
                                  .close_on_up = when == 2,
                                  .close_on_data = when == 3,
                                  .close_on_down = true};
            here.refuse = when == 4;
            here.close_listener = when == 5;
            connect_to(&at, "127.0.0.1", here.port, tls ? theirs : NULL);
            aff_stream_write(at.stream, "hello", 5);
            RUN_UNTIL(at.stream == NULL || at.received == 5);
            close_side(&at);
            RUN_UNTIL(here.count == 0 || here.sides[0].stream == NULL);
            stop_serving();
            RUN_UNTIL(is_loop_empty());
        }
    }
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

static void test_close_with_a_write_under_way(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_addresses), *theirs = client_tls(&ca);
    for (unsigned tls = 0; tls < 2; tls++) {
        serve(tls ? ours : NULL);
        side at = {0};
        connect_to(&at, "127.0.0.1", here.port, tls ? theirs : NULL);
        RUN_UNTIL(at.ups == 1);
        char *bytes = calloc(1, 32 << 20);
        assert_non_null(bytes);
        say(&at, bytes, 32 << 20);
        free(bytes);
        assert_true(aff_stream_pending(at.stream) > 0);
        close_side(&at);
        RUN_UNTIL(here.count == 1 && here.sides[0].downs == 1);
        stop_serving();
    }
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

/* --- tests: memory that runs out ---------------------------------------------------------------
 */

/* An echo in which the n-th allocation fails. Returns false when it had no n-th. */
static bool echo_without(size_t n, const char *host, aff_tls *ours, aff_tls *theirs, size_t len) {
    static const char zeros[3 << 20];
    serve(ours);
    here.pattern.echo = true;
    side at = {0};
    allocations = 0;
    fail_at = n;
    int status = try_connect(&at, host, here.port, theirs);
    if (status == 0) {
        aff_stream_write(at.stream, zeros, len);
        RUN_UNTIL(at.downs == 1 || at.received == len);
    } else {
        assert_int_equal(status, AFF_ENOMEM);
    }
    fail_at = 0;
    assert_false(at.refused);
    bool failed = allocations >= n, there_down = here.count > 0 && here.sides[0].downs == 1;
    if (at.downs == 1 && !there_down) assert_reason(&at, aff_error_text(AFF_ENOMEM));
    if (there_down) assert_reason(&here.sides[0], aff_error_text(AFF_ENOMEM));
    if (!failed) assert_int_equal(at.received, len);
    close_side(&at);
    stop_serving();
    RUN_UNTIL(is_loop_empty());
    return failed;
}

static void test_no_memory(void **state) {
    (void)state;
    aff_tls *ours = server_tls(&for_localhost), *theirs = client_tls(&ca);
    size_t n;
    for (size_t len = 5; len <= 3 << 20; len += (3 << 20) - 5) {
        for (n = 1; echo_without(n, "127.0.0.1", NULL, NULL, len);) n++;
        assert_true(n > 4);
        for (n = 1; echo_without(n, "localhost", ours, theirs, len);) n++;
        assert_true(n > 8);
    }
    aff_tls_free(ours);
    aff_tls_free(theirs);
}

static void test_no_memory_to_listen(void **state) {
    (void)state;
    aff_listener *none = NULL;
    char error[200];
    fail_at = 1;
    allocations = 0;
    assert_int_equal(
        aff_listen(&loop, "::1", 0, NULL, on_accepted, NULL, &none, NULL, error, sizeof error),
        AFF_ENOMEM);
    assert_string_equal(error, aff_error_text(AFF_ENOMEM));
    assert_null(none);
}

static void test_no_memory_for_a_context(void **state) {
    (void)state;
    aff_tls_config config = {.cert = pem(client.cert_pem),
                             .key = pem(client.key_pem),
                             .ca = pem(ca.cert_pem),
                             .server_name = "a"};
    for (fail_at = 1; fail_at <= 2; fail_at++) {
        aff_tls *tls = NULL;
        char error[200];
        allocations = 0;
        assert_int_equal(aff_tls_new(&config, true, &tls, error, sizeof error), AFF_ENOMEM);
        assert_string_equal(error, aff_error_text(AFF_ENOMEM));
        assert_null(tls);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    uv_sem_init(&resolver_gate, 0);
    const struct CMUnitTest tests[] = {
        TEST(test_echo),
        TEST(test_tls_echo),
        TEST(test_a_context_is_kept_by_its_streams),
        TEST(test_bad_arguments),
        TEST(test_refused),
        TEST(test_unreachable),
        TEST(test_unresolvable),
        TEST(test_every_address_is_tried),
        TEST(test_which_address_is_first),
        TEST(test_family),
        TEST(test_unix_socket),
        TEST(test_timeouts),
        TEST(test_a_client_that_says_nothing),
        TEST(test_certificates_of_servers),
        TEST(test_another_name_than_the_host),
        TEST(test_without_reject_unauthorized),
        TEST(test_several_cas),
        TEST(test_chain),
        TEST(test_certificates_of_clients),
        TEST(test_bad_configuration),
        TEST(test_passphrase),
        TEST(test_versions),
        TEST(test_partial_records),
        TEST(test_early_words),
        TEST(test_no_renegotiation),
        TEST(test_goodbye),
        TEST(test_garbage),
        TEST(test_garbage_after_the_handshake),
        TEST(test_resets),
        TEST(test_last_words),
        TEST(test_10_mb_both_ways),
        TEST(test_bursts),
        TEST(test_a_slow_reader),
        TEST(test_too_much_pending),
        TEST(test_many),
        TEST(test_many_handshakes),
        TEST(test_not_accepted),
        TEST(test_close_at_every_stage),
        TEST(test_close_while_resolving),
        TEST(test_close_within_callbacks),
        TEST(test_close_with_a_write_under_way),
        TEST(test_no_memory),
        TEST(test_no_memory_to_listen),
        TEST(test_no_memory_for_a_context),
    };
    return cmocka_run_group_tests(tests, make_identities, forget_identities);
}
