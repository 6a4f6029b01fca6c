/*
 * runtime/redis.c against real redis-servers, and against a scripted one for what a real Redis
 * can't be made to say; and the scripts of core/scripts.c in a real Redis. One turn of the loop at
 * a time, until a condition holds or 60 s are over.
 */
#include <dlfcn.h>
#include <netdb.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "aff.h"
#include "certificates.h"
#include "redis.h"
#include "redis_server.h"

#define RUN_UNTIL(condition)                                                                       \
    for (uint64_t limit = uv_hrtime() + 60000000000u; !(condition); uv_run(&loop, UV_RUN_ONCE))    \
        if (uv_hrtime() > limit) fail_msg("60 s are over without: %s", #condition)

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Shared by the tests that do not kill it: `plain` wants no password, `locked` does. */
static redis_server plain, locked;
static redis_server own; /* the running test's */

static identity ca, other_ca, its, expired, client, stranger;

static uv_loop_t loop;
static uv_timer_t heartbeat; /* so that UV_RUN_ONCE returns */
static unsigned open_count;  /* connections that the running test has not closed */

/* --- what happened on a connection ----------------------------------------------------------- */

typedef struct {
    aff_redis *redis;
    unsigned ups, downs, refusals, retries, subscribed, denied, messages, closed;
    unsigned answers, nulls;
    uint64_t next_tag; /* of the next answer: they come in order */
    bool misordered;
    bool null_after_down;
    uint32_t longest_delay_ms;
    char reason[256];  /* of the last down, refused, retry or subscribe_failed */
    char channel[256]; /* of the last message, subscribed or subscribe_failed */
    size_t channel_len;
    char *data; /* the last answer's string, or that of its second element; or the last message */
    size_t data_len;
    int type;          /* the last answer's */
    long long integer; /* and this, or that of its first element */
    bool close_when_up, close_on_answer, unsubscribe_when_denied;
} watch;

static void keep(watch *w, const char *data, size_t len) {
    free(w->data);
    w->data = malloc(len + 1);
    assert_non_null(w->data);
    if (len > 0) memcpy(w->data, data, len);
    w->data[len] = '\0';
    w->data_len = len;
}

static void keep_channel(watch *w, const char *channel, size_t len) {
    assert_true(len < sizeof w->channel);
    memcpy(w->channel, channel, len);
    w->channel[len] = '\0';
    w->channel_len = len;
}

static void on_closed(void *arg) {
    watch *w = arg;
    w->closed++;
    w->redis = NULL;
    open_count--;
}

static void on_up(void *arg) {
    watch *w = arg;
    w->ups++;
    assert_true(aff_redis_is_up(w->redis));
    if (w->close_when_up) aff_redis_close(w->redis, on_closed, w);
}

static void on_down(void *arg, const char *reason) {
    watch *w = arg;
    w->downs++;
    assert_false(aff_redis_is_up(w->redis));
    snprintf(w->reason, sizeof w->reason, "%s", reason);
}

static void on_refused(void *arg, const char *error) {
    watch *w = arg;
    w->refusals++;
    snprintf(w->reason, sizeof w->reason, "%s", error);
}

static void on_retry(void *arg, const char *reason, uint32_t delay_ms) {
    watch *w = arg;
    w->retries++;
    snprintf(w->reason, sizeof w->reason, "%s", reason);
    if (delay_ms > w->longest_delay_ms) w->longest_delay_ms = delay_ms;
}

static void on_reply(void *arg, uint64_t tag, const redisReply *reply) {
    watch *w = arg;
    w->misordered |= tag != w->next_tag;
    w->next_tag = tag + 1;
    if (reply == NULL) {
        w->nulls++;
        w->null_after_down |= w->downs > 0;
        return;
    }
    w->answers++;
    w->type = reply->type;
    const redisReply *number = reply, *string = reply;
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements > 0) { /* as the scripts answer */
        number = reply->element[0];
        if (reply->elements > 1) string = reply->element[1];
    }
    w->integer = number->integer;
    keep(w, string->str, string->str != NULL ? string->len : 0);
    if (w->close_on_answer) {
        w->close_on_answer = false;
        aff_redis_close(w->redis, on_closed, w);
    }
}

static void on_message(void *arg, const char *channel, size_t channel_len, const char *data,
                       size_t len) {
    watch *w = arg;
    w->messages++;
    keep_channel(w, channel, channel_len);
    keep(w, data, len);
}

static void on_subscribed(void *arg, const char *channel, size_t len) {
    watch *w = arg;
    w->subscribed++;
    keep_channel(w, channel, len);
}

static void on_subscribe_failed(void *arg, const char *channel, size_t len, const char *error) {
    watch *w = arg;
    w->denied++;
    if (w->unsubscribe_when_denied)
        assert_int_equal(aff_redis_unsubscribe(w->redis, channel, len), 0);
    keep_channel(w, channel, len); /* what was passed in outlives the unsubscription */
    snprintf(w->reason, sizeof w->reason, "%s", error);
}

static const aff_redis_callbacks callbacks = {
    .up = on_up,
    .down = on_down,
    .refused = on_refused,
    .retry = on_retry,
    .reply = on_reply,
    .message = on_message,
    .subscribed = on_subscribed,
    .subscribe_failed = on_subscribe_failed,
};

static void open_redis(watch *w, const aff_redis_config *config) {
    assert_int_equal(aff_redis_open(&loop, config, &callbacks, w, &w->redis), 0);
    open_count++;
}

static void open_up(watch *w, const aff_redis_config *config) {
    unsigned ups = w->ups;
    open_redis(w, config);
    RUN_UNTIL(w->ups > ups);
}

static void close_redis(watch *w) {
    if (w->redis != NULL) {
        aff_redis_close(w->redis, on_closed, w);
        assert_int_equal(w->closed, 0); /* never from inside the call */
        RUN_UNTIL(w->closed == 1);
    }
    free(w->data);
    w->data = NULL;
    assert_false(w->misordered);
}

static int send_words(watch *w, uint64_t tag, const char *words) {
    char copy[256];
    const char *argv[16];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *rest = copy, *word; (word = strtok_r(rest, " ", &rest)) != NULL;)
        argv[argc++] = word;
    return aff_redis_command(w->redis, tag, argc, argv, NULL);
}

/* Sends a command and waits for its answer, which is then in `w`. */
static void ask(watch *w, const char *words) {
    unsigned answers = w->answers;
    assert_int_equal(send_words(w, w->next_tag, words), 0);
    RUN_UNTIL(w->answers > answers);
}

static void publish(watch *w, const char *channel, const char *data, size_t len) {
    unsigned answers = w->answers;
    const char *argv[] = {"PUBLISH", channel, data};
    const size_t argv_len[] = {7, strlen(channel), len};
    assert_int_equal(aff_redis_command(w->redis, w->next_tag, 3, argv, argv_len), 0);
    RUN_UNTIL(w->answers > answers);
}

static aff_redis_config tcp(const redis_server *server) {
    return (aff_redis_config){.host = "127.0.0.1", .port = server->port, .seed = 1};
}

static aff_redis_config local(const redis_server *server) {
    return (aff_redis_config){.path = server->path, .seed = 1};
}

/* --- a resolver with names of our own: resolver.c's calls come here -----------------------------
 */

typedef int resolve_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static uv_sem_t resolver_gate; /* hung.test waits for it */
static atomic_uint hung;       /* so often, ever */

__attribute__((visibility("default"))) int getaddrinfo(const char *restrict name,
                                                       const char *restrict service,
                                                       const struct addrinfo *restrict hints,
                                                       struct addrinfo **restrict result) {
    resolve_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    const char *list[3] = {name};
    if (name != NULL && strcmp(name, "three.test") == 0)
        memcpy(list, (const char *[]){"127.0.0.3", "127.0.0.2", "127.0.0.1"}, sizeof list);
    if (name != NULL && strcmp(name, "hung.test") == 0) {
        hung++;
        uv_sem_wait(&resolver_gate);
        return EAI_AGAIN;
    }
    if (name != NULL && strcmp(name, "none.test") == 0) return EAI_NONAME;
    struct addrinfo **end = result;
    for (size_t i = 0; i < LENGTH(list) && (i == 0 || list[i] != NULL); i++) {
        int status = real(list[i], service, hints, end);
        if (status != 0) return status;
        while (*end != NULL) end = &(*end)->ai_next; /* glibc frees a list node by node */
    }
    return 0;
}

/* --- a scripted Redis ------------------------------------------------------------------------ */

typedef struct {
    uv_pipe_t listener;
    char dir[32], path[48];
    const char *const *script; /* what the n-th connection is sent upon its first bytes; or NULL */
    size_t script_len;
    size_t accepted, reads, bytes;
    bool stopped;
} fake_redis;

typedef struct {
    uv_pipe_t pipe;
    fake_redis *fake;
    const char *line;
    char buffer[65536];
} fake_conn;

static void fake_conn_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void fake_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)suggested;
    fake_conn *c = handle->data;
    *buf = uv_buf_init(c->buffer, sizeof c->buffer);
}

static void fake_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    (void)buf;
    fake_conn *c = stream->data;
    if (n < 0) {
        uv_close((uv_handle_t *)stream, fake_conn_closed);
        return;
    }
    c->fake->reads++;
    c->fake->bytes += (size_t)n;
    if (c->line != NULL) {
        uv_buf_t line = uv_buf_init((char *)c->line, (unsigned)strlen(c->line));
        assert_int_equal(uv_try_write(stream, &line, 1), (int)line.len);
        c->line = NULL;
    }
}

static void fake_accept(uv_stream_t *listener, int status) {
    assert_int_equal(status, 0);
    fake_redis *fake = listener->data;
    fake_conn *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->fake = fake;
    c->pipe.data = c;
    size_t n = fake->accepted++;
    c->line = fake->script[n < fake->script_len ? n : fake->script_len - 1];
    assert_int_equal(uv_pipe_init(&loop, &c->pipe, 0), 0);
    c->pipe.data = c;
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&c->pipe), 0);
    assert_int_equal(uv_read_start((uv_stream_t *)&c->pipe, fake_alloc, fake_read), 0);
}

static void fake_start(fake_redis *fake, const char *const *script, size_t script_len) {
    *fake = (fake_redis){.script = script, .script_len = script_len};
    strcpy(fake->dir, "/tmp/aff-fake-XXXXXX");
    assert_non_null(mkdtemp(fake->dir));
    snprintf(fake->path, sizeof fake->path, "%s/redis.sock", fake->dir);
    assert_int_equal(uv_pipe_init(&loop, &fake->listener, 0), 0);
    fake->listener.data = fake;
    assert_int_equal(uv_pipe_bind(&fake->listener, fake->path), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&fake->listener, 16, fake_accept), 0);
}

static void fake_stopped(uv_handle_t *listener) {
    ((fake_redis *)listener->data)->stopped = true;
}

static void fake_stop(fake_redis *fake) {
    uv_close((uv_handle_t *)&fake->listener, fake_stopped);
    RUN_UNTIL(fake->stopped);
    unlink(fake->path);
    assert_int_equal(rmdir(fake->dir), 0);
}

/* --- setting up ------------------------------------------------------------------------------ */

static void ignore_heartbeat(uv_timer_t *timer) {
    (void)timer;
}

static int set_up(void **state) {
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_timer_init(&loop, &heartbeat), 0);
    assert_int_equal(uv_timer_start(&heartbeat, ignore_heartbeat, 20, 20), 0);
    return 0;
}

/* A handle or request that a connection left behind makes this fail. */
static int tear_down(void **state) {
    (void)state;
    redis_server_free(&own);
    if (open_count > 0) { /* the test failed, and what its callbacks point to is gone */
        open_count = 0;
        return -1;
    }
    uv_close((uv_handle_t *)&heartbeat, NULL);
    for (int i = 0; i < 100 && uv_run(&loop, UV_RUN_NOWAIT) != 0; i++) {
    }
    return uv_loop_close(&loop);
}

static int start_servers(void **state) {
    (void)state;
    static const char *const users[] = {"--requirepass",
                                        "hunter2",
                                        "--user",
                                        "alice",
                                        "on",
                                        ">secret",
                                        "~*",
                                        "&*",
                                        "+@all",
                                        "--user",
                                        "bob",
                                        "on",
                                        ">secret",
                                        "~*",
                                        "+@all",
                                        "-client",
                                        "-ping",
                                        "resetchannels",
                                        "&allowed",
                                        NULL};
    ca = identity_new(&(identity_config){.common_name = "ca", .is_ca = true}, NULL);
    other_ca = identity_new(&(identity_config){.common_name = "other ca", .is_ca = true}, NULL);
    const char *names = "DNS:redis.test,IP:127.0.0.1";
    its = identity_new(&(identity_config){.common_name = "redis", .names = names}, &ca);
    expired = identity_new(
        &(identity_config){.common_name = "redis", .names = names, .expired = true}, &ca);
    client = identity_new(&(identity_config){.common_name = "client"}, &ca);
    stranger = identity_new(&(identity_config){.common_name = "client"}, &other_ca);
    redis_server_start(&plain, NULL);
    redis_server_start(&locked, users);
    return uv_sem_init(&resolver_gate, 0);
}

static int stop_servers(void **state) {
    (void)state;
    redis_server_free(&plain);
    redis_server_free(&locked);
    identity *all[] = {&ca, &other_ca, &its, &expired, &client, &stranger};
    for (size_t i = 0; i < LENGTH(all); i++) identity_free(all[i]);
    return 0;
}

/* --- connecting ------------------------------------------------------------------------------ */

static void expect_round_trip(const aff_redis_config *config) {
    watch w = {0};
    open_up(&w, config);
    ask(&w, "SET key value");
    assert_int_equal(w.type, REDIS_REPLY_STATUS);
    ask(&w, "GET key");
    assert_int_equal(w.type, REDIS_REPLY_STRING);
    assert_string_equal(w.data, "value");
    ask(&w, "GET missing");
    assert_int_equal(w.type, REDIS_REPLY_NIL);
    ask(&w, "NONSENSE");
    assert_int_equal(w.type, REDIS_REPLY_ERROR);
    assert_int_equal(w.ups + w.downs + w.refusals + w.retries, 1);
    close_redis(&w);
}

static void test_tcp_and_unix(void **state) {
    (void)state;
    aff_redis_config config = tcp(&plain);
    expect_round_trip(&config);
    config.host = "localhost";
    expect_round_trip(&config);
    config = local(&plain);
    config.client_name = "aff-test";
    expect_round_trip(&config);
}

static void test_bad_configuration(void **state) {
    (void)state;
    char long_path[200];
    memset(long_path, 'x', sizeof long_path);
    long_path[sizeof long_path - 1] = '\0';
    aff_tls *tls = NULL;
    assert_int_equal(aff_tls_new(&(aff_tls_config){0}, false, &tls, long_path, 1), 0);
    const aff_redis_config bad[] = {
        {.host = NULL},
        {.host = "127.0.0.1", .port = 0},
        {.host = "", .port = 1},
        {.path = ""},
        {.path = long_path},
        {.path = "/x", .out_max = AFF_REDIS_OUT_LIMIT + 1},
        {.path = "/x", .tls = tls},
    };
    aff_redis *redis = NULL;
    for (size_t i = 0; i < LENGTH(bad); i++)
        assert_int_equal(aff_redis_open(&loop, &bad[i], &callbacks, NULL, &redis), AFF_EINVAL);
    assert_null(redis);
    aff_tls_free(tls);
}

static void test_password_and_user(void **state) {
    (void)state;
    aff_redis_config config = tcp(&locked);
    config.password = "hunter2";
    expect_round_trip(&config);
    config.username = "alice";
    config.password = "secret";
    expect_round_trip(&config);
    config.username = "bob"; /* may neither CLIENT SETNAME nor PING */
    config.client_name = "bob";
    expect_round_trip(&config);
}

static void test_needless_password(void **state) {
    (void)state;
    aff_redis_config config = local(&plain);
    config.password = "hunter2";
    expect_round_trip(&config);
}

static void expect_refusal(const aff_redis_config *config, const char *error) {
    watch w = {0};
    open_redis(&w, config);
    RUN_UNTIL(w.refusals >= 3); /* it goes on trying */
    if (strstr(w.reason, error) == NULL) fail_msg("\"%s\" is not in \"%s\"", error, w.reason);
    assert_int_equal(w.ups + w.downs + w.retries, 0);
    close_redis(&w);
}

static void test_refused(void **state) {
    (void)state;
    aff_redis_config config = tcp(&locked);
    expect_refusal(&config, "NOAUTH");
    config.password = "wrong";
    expect_refusal(&config, "WRONGPASS");
    config.username = "nobody";
    expect_refusal(&config, "WRONGPASS");
    config = tcp(&plain);
    config.db = 1000;
    expect_refusal(&config, "DB index is out of range");
}

static void test_database(void **state) {
    (void)state;
    watch three = {0}, zero = {0};
    aff_redis_config config = local(&plain);
    open_up(&zero, &config);
    config.db = 3;
    open_up(&three, &config);
    ask(&three, "SET database three");
    ask(&zero, "GET database");
    assert_int_equal(zero.type, REDIS_REPLY_NIL);
    ask(&zero, "SELECT 3");
    ask(&zero, "GET database");
    assert_string_equal(zero.data, "three");
    close_redis(&three);
    close_redis(&zero);
}

static void test_refused_port_is_tried_again(void **state) {
    (void)state;
    redis_server_start(&own, NULL);
    redis_server_kill(&own);
    watch w = {0};
    aff_redis_config config = tcp(&own);
    open_redis(&w, &config);
    RUN_UNTIL(w.retries >= 8);
    assert_non_null(strstr(w.reason, "connection refused"));
    assert_true(w.longest_delay_ms > 40); /* it doubles from 10 ms */
    assert_true(w.longest_delay_ms <= AFF_REDIS_BACKOFF_MAX_MS);
    redis_server_restart(&own);
    RUN_UNTIL(w.ups == 1);
    close_redis(&w);
}

static void test_missing_socket_is_tried_again(void **state) {
    (void)state;
    watch w = {0};
    open_redis(&w, &(aff_redis_config){.path = "/tmp/aff-no-such-socket"});
    RUN_UNTIL(w.retries >= 3);
    close_redis(&w);
}

static void test_unresolvable_host_is_tried_again(void **state) {
    (void)state;
    watch w = {0};
    open_redis(&w, &(aff_redis_config){.host = "none.test", .port = 6379});
    RUN_UNTIL(w.retries >= 3);
    assert_non_null(strstr(w.reason, "none.test"));
    close_redis(&w);
}

/* Ends the look-up that hangs as the answer to a question, which joins its thread. */
static void end_hung_lookup(void) {
    watch w = {0};
    open_redis(&w, &(aff_redis_config){.host = "hung.test", .port = 1});
    uv_run(&loop, UV_RUN_ONCE);
    uv_sem_post(&resolver_gate);
    RUN_UNTIL(w.retries == 1);
    close_redis(&w);
}

static void test_hung_resolver(void **state) {
    (void)state;
    watch w = {0};
    hung = 0;
    open_redis(&w, &(aff_redis_config){.host = "hung.test", .port = 1, .connect_timeout_ms = 20});
    RUN_UNTIL(w.retries >= 3 && hung > 0);
    assert_int_equal(hung, 1); /* the later ones have waited for the first one's look-up */
    assert_string_equal(w.reason, "resolving hung.test took too long");
    close_redis(&w); /* which does not wait for it */
    end_hung_lookup();
}

/* A listener that answers no SYN: its queue of connections is full. */
static int open_black_hole(const char *address, uint16_t port, int filler[2]) {
    struct sockaddr_in in;
    assert_int_equal(uv_ip4_addr(address, port, &in), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(listen(fd, 0), 0);
    for (int i = 0; i < 2; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        connect(filler[i], (struct sockaddr *)&in, sizeof in);
    }
    return fd;
}

static void test_every_address_is_tried(void **state) {
    (void)state;
    int filler[2];
    int hole = open_black_hole("127.0.0.3", plain.port, filler);
    watch w = {0};
    aff_redis_config config = tcp(&plain);
    config.host = "three.test"; /* no answer, refused, Redis */
    config.connect_timeout_ms = 300;
    open_up(&w, &config);
    assert_int_equal(w.retries, 0);
    close_redis(&w);
    close(hole);
    close(filler[0]);
    close(filler[1]);
}

static void test_connect_timeout(void **state) {
    (void)state;
    int filler[2];
    uint16_t port = redis_server_free_port();
    int hole = open_black_hole("127.0.0.1", port, filler);
    watch w = {0};
    aff_redis_config config = {.host = "127.0.0.1", .port = port, .connect_timeout_ms = 30};
    open_redis(&w, &config);
    RUN_UNTIL(w.retries >= 2);
    assert_non_null(strstr(w.reason, "connecting took too long"));
    close_redis(&w);
    close(hole);
    close(filler[0]);
    close(filler[1]);
}

static void test_greeting_timeout(void **state) {
    (void)state;
    fake_redis fake;
    fake_start(&fake, (const char *const[]){NULL, "+PONG\r\n"}, 2);
    watch w = {0};
    open_redis(&w, &(aff_redis_config){.path = fake.path, .connect_timeout_ms = 30});
    RUN_UNTIL(w.ups == 1);
    assert_int_equal(w.retries, 1);
    assert_non_null(strstr(w.reason, "greeting took too long"));
    close_redis(&w);
    fake_stop(&fake);
}

static void test_passing_errors_are_no_refusal(void **state) {
    (void)state;
    static const char *const script[] = {
        "-LOADING Redis is loading the dataset in memory\r\n",
        "+OK\r\n-MASTERDOWN Link with MASTER is down\r\n",
        "+OK\r\n-BUSY Redis is busy running a script\r\n",
        "-ERR max number of clients reached\r\n",
        "+OK\r\n+PONG\r\n",
    };
    fake_redis fake;
    fake_start(&fake, script, LENGTH(script));
    watch w = {0};
    open_redis(&w, &(aff_redis_config){.path = fake.path, .password = "hunter2"});
    RUN_UNTIL(w.ups == 1);
    assert_int_equal(w.retries, 4);
    assert_int_equal(w.refusals, 0);
    close_redis(&w);
    fake_stop(&fake);
}

/* An address that takes connections, and answers nothing, must not hide the others. */
static void test_an_address_without_a_redis(void **state) {
    (void)state;
    struct sockaddr_in in;
    assert_int_equal(uv_ip4_addr("127.0.0.2", plain.port, &in), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(listen(fd, 1000), 0); /* never full */
    watch w = {0};
    aff_redis_config config = tcp(&plain);
    config.host = "three.test"; /* refused, no answer, Redis */
    config.connect_timeout_ms = 300;
    open_up(&w, &config);
    assert_true(w.retries >= 2); /* from the first, from the second */
    assert_string_equal(w.reason, "the greeting took too long");
    close_redis(&w);
    close(fd);
}

/* --- TLS -------------------------------------------------------------------------------------- */

/* A redis-server with a TLS port beside the plain one, and the files that it reads. */
typedef struct {
    char files[3][48], port_text[8];
    const char *options[16];
    uint16_t port;
} tls_files;

/* `path` is a pattern of mkstemp. */
static void write_file(char *path, const char *text) {
    FILE *file = fdopen(mkstemp(path), "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void start_tls_server(tls_files *at, const identity *shown, bool asks_for_cert) {
    *at = (tls_files){.port = redis_server_free_port()};
    const char *texts[] = {shown->cert_pem, shown->key_pem, ca.cert_pem};
    for (int i = 0; i < 3; i++) {
        strcpy(at->files[i], "/tmp/aff-pem-XXXXXX");
        write_file(at->files[i], texts[i]);
    }
    snprintf(at->port_text, sizeof at->port_text, "%u", (unsigned)at->port);
    const char *options[] = {"--tls-port",
                             at->port_text,
                             "--tls-cert-file",
                             at->files[0],
                             "--tls-key-file",
                             at->files[1],
                             "--tls-ca-cert-file",
                             at->files[2],
                             "--tls-auth-clients",
                             asks_for_cert ? "yes" : "no",
                             NULL};
    memcpy(at->options, options, sizeof options);
    redis_server_start(&own, at->options);
}

static void stop_tls_server(tls_files *at) {
    redis_server_free(&own);
    for (int i = 0; i < 3; i++) unlink(at->files[i]);
}

/* The caller's, and a configuration that uses it. */
static aff_redis_config over_tls(const tls_files *at, const aff_tls_config *config) {
    aff_redis_config redis = {.host = "127.0.0.1", .port = at->port, .seed = 1};
    char error[200] = "";
    if (aff_tls_new(config, false, &redis.tls, error, sizeof error) != 0) fail_msg("%s", error);
    return redis;
}

static void expect_tls(const tls_files *at, aff_tls_config tls) {
    aff_redis_config config = over_tls(at, &tls);
    expect_round_trip(&config);
    aff_tls_free(config.tls);
}

static void expect_tls_refusal(const tls_files *at, aff_tls_config tls, const char *error) {
    aff_redis_config config = over_tls(at, &tls);
    expect_refusal(&config, error);
    aff_tls_free(config.tls);
}

static void test_tls(void **state) {
    (void)state;
    tls_files at;
    start_tls_server(&at, &its, false);
    aff_tls_config strict = {.ca = pem(ca.cert_pem), .reject_unauthorized = true};
    expect_tls(&at, strict);
    strict.server_name = "redis.test";
    expect_tls(&at, strict);
    strict.server_name = "other.test";
    expect_tls_refusal(&at, strict, "TLS: hostname mismatch");
    strict.server_name = NULL;
    strict.ca = pem(other_ca.cert_pem);
    expect_tls_refusal(&at, strict, "TLS: self-signed certificate in certificate chain");
    strict.reject_unauthorized = false;
    expect_tls(&at, strict);
    stop_tls_server(&at);
    start_tls_server(&at, &expired, false);
    expect_tls_refusal(&at, (aff_tls_config){.ca = pem(ca.cert_pem), .reject_unauthorized = true},
                       "TLS: certificate has expired");
    stop_tls_server(&at);
}

static void test_tls_with_certificates_of_clients(void **state) {
    (void)state;
    tls_files at;
    start_tls_server(&at, &its, true);
    char *key = identity_locked_key(&client, "open sesame");
    aff_tls_config config = {.ca = pem(ca.cert_pem),
                             .cert = pem(client.cert_pem),
                             .key = pem(key),
                             .passphrase = pem("open sesame"),
                             .reject_unauthorized = true};
    expect_tls(&at, config);
    config.key = pem(stranger.key_pem);
    config.cert = pem(stranger.cert_pem);
    expect_tls_refusal(&at, config, "alert unknown ca");
    config.key = config.cert = (aff_slice){0};
    expect_tls_refusal(&at, config, "alert certificate required");
    free(key);
    stop_tls_server(&at);
}

/* Commands, messages, much at once, and the way back after a restart. */
static void test_tls_carries_it_all(void **state) {
    (void)state;
    tls_files at;
    start_tls_server(&at, &its, false);
    aff_redis_config config =
        over_tls(&at, &(aff_tls_config){.ca = pem(ca.cert_pem), .reject_unauthorized = true});
    config.reply_timeout_ms = 5000;
    watch subscriber = {0}, publisher = {0};
    open_up(&publisher, &config);
    open_up(&subscriber, &config);
    aff_tls_free(config.tls); /* they have kept it */
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "kept", 4), 0);
    RUN_UNTIL(subscriber.subscribed == 1);
    size_t len = (size_t)8 << 20;
    char *value = malloc(len);
    assert_non_null(value);
    for (size_t i = 0; i < len; i++) value[i] = (char)(i * 31 + (i >> 16));
    publish(&publisher, "kept", value, len);
    RUN_UNTIL(subscriber.messages == 1);
    assert_true(subscriber.data_len == len && memcmp(subscriber.data, value, len) == 0);
    free(value);
    for (uint64_t tag = 1; tag <= 1000; tag++)
        assert_int_equal(send_words(&publisher, tag, "INCR pipeline"), 0);
    RUN_UNTIL(publisher.integer == 1000);
    assert_int_equal(aff_redis_pending_bytes(publisher.redis), 0);

    redis_server_kill(&own);
    RUN_UNTIL(subscriber.downs == 1 && publisher.downs == 1);
    redis_server_restart(&own);
    RUN_UNTIL(publisher.ups == 2 && subscriber.subscribed == 2);
    assert_int_equal(publisher.refusals + subscriber.refusals, 0);
    publish(&publisher, "kept", "back", 4);
    RUN_UNTIL(subscriber.messages == 2);
    assert_string_equal(subscriber.data, "back");
    close_redis(&subscriber);
    close_redis(&publisher);
    stop_tls_server(&at);
}

/* --- commands -------------------------------------------------------------------------------- */

static void test_10000_commands_in_order(void **state) {
    (void)state;
    enum { COUNT = 10000 };
    watch w = {0};
    aff_redis_config config = tcp(&plain);
    open_up(&w, &config);
    for (uint64_t tag = 0; tag < COUNT; tag++)
        assert_int_equal(send_words(&w, tag, "INCR pipeline"), 0);
    RUN_UNTIL(w.answers == COUNT);
    assert_int_equal(w.integer, COUNT);
    assert_int_equal(aff_redis_pending_bytes(w.redis), 0);
    close_redis(&w); /* checks the order */
}

static void test_a_turn_is_one_write(void **state) {
    (void)state;
    fake_redis fake;
    fake_start(&fake, (const char *const[]){"+PONG\r\n"}, 1);
    watch w = {0};
    open_up(&w, &(aff_redis_config){.path = fake.path});
    fake.reads = fake.bytes = 0;
    for (uint64_t tag = 0; tag < 100; tag++) assert_int_equal(send_words(&w, tag, "GET x"), 0);
    assert_int_equal(aff_redis_pending_bytes(w.redis), 100 * 20);
    RUN_UNTIL(fake.bytes == 100 * 20);
    assert_int_equal(fake.reads, 1);

    assert_int_equal(send_words(&w, 100, "GET x"), 0);
    aff_redis_flush(w.redis);
    assert_int_equal(aff_redis_pending_bytes(w.redis), 0);
    close_redis(&w);
    assert_int_equal(w.nulls, 101);
    fake_stop(&fake);
}

static void test_64_mib(void **state) {
    (void)state;
    size_t len = (size_t)64 << 20;
    char *value = malloc(len);
    assert_non_null(value);
    for (size_t i = 0; i < len; i++) value[i] = (char)(i * 31 + (i >> 16));
    watch w = {0};
    aff_redis_config config = tcp(&plain);
    config.out_max = len + 100;
    config.reply_timeout_ms = 5000; /* on a busy machine Redis takes its time */
    open_up(&w, &config);
    const char *argv[] = {"SET", "huge", value};
    assert_int_equal(aff_redis_command(w.redis, 0, 3, argv, (const size_t[]){3, 4, len}), 0);
    RUN_UNTIL(w.answers == 1);
    assert_int_equal(w.type, REDIS_REPLY_STATUS);
    ask(&w, "GET huge");
    assert_true(w.data_len == len);
    assert_true(memcmp(w.data, value, len) == 0);
    ask(&w, "DEL huge");
    close_redis(&w);
    free(value);
}

static void test_out_max(void **state) {
    (void)state;
    watch w = {0};
    aff_redis_config config = local(&plain);
    config.out_max = 100;
    open_up(&w, &config);
    for (uint64_t tag = 0; tag < 5; tag++) /* of 20 bytes each */
        assert_int_equal(send_words(&w, tag, "GET x"), 0);
    assert_int_equal(send_words(&w, 99, "GET x"), AFF_EFULL);
    assert_int_equal(aff_redis_pending_bytes(w.redis), 100);
    RUN_UNTIL(w.answers == 5);
    ask(&w, "GET x");
    assert_int_equal(w.answers, 6);
    close_redis(&w);
}

static void test_commands_out_of_place(void **state) {
    (void)state;
    watch w = {0};
    aff_redis_config config = local(&plain);
    open_redis(&w, &config);
    assert_int_equal(send_words(&w, 0, "GET x"), AFF_ENOTCONN);
    RUN_UNTIL(w.ups == 1);
    assert_int_equal(aff_redis_command(w.redis, 0, 0, NULL, NULL), AFF_EINVAL);
    ask(&w, "GET x");
    assert_int_equal(aff_redis_subscribe(w.redis, "c", 1), 0);
    assert_int_equal(send_words(&w, 1, "GET x"), AFF_EINVAL);
    RUN_UNTIL(w.subscribed == 1);
    close_redis(&w);
    assert_int_equal(w.answers + w.nulls, 1);
}

/* --- losing the connection ------------------------------------------------------------------- */

static void test_kill_answers_with_null(void **state) {
    (void)state;
    redis_server_start(&own, NULL);
    watch w = {0};
    aff_redis_config config = tcp(&own);
    open_up(&w, &config);
    assert_int_equal(kill(own.pid, SIGSTOP), 0);
    for (uint64_t tag = 0; tag < 1000; tag++) assert_int_equal(send_words(&w, tag, "INCR x"), 0);
    aff_redis_flush(w.redis);
    redis_server_kill(&own);
    assert_int_equal(send_words(&w, 1000, "INCR x"), 0);
    RUN_UNTIL(w.downs == 1);
    assert_int_equal(w.answers, 0);
    assert_int_equal(w.nulls, 1001);
    assert_false(w.null_after_down);
    assert_int_equal(send_words(&w, 1001, "INCR x"), AFF_ENOTCONN);
    RUN_UNTIL(w.retries > 0);
    redis_server_restart(&own);
    RUN_UNTIL(w.ups == 2);
    w.next_tag = 2000;
    ask(&w, "INCR x"); /* nothing was sent again */
    assert_int_equal(w.integer, 1);
    close_redis(&w);
}

static void test_nonsense_drops_the_connection(void **state) {
    (void)state;
    static const char *const script[] = {"+PONG\r\n?what\r\n", "+PONG\r\n:1\r\n", "+PONG\r\n"};
    fake_redis fake;
    fake_start(&fake, script, LENGTH(script));
    watch w = {0};
    open_redis(&w, &(aff_redis_config){.path = fake.path});
    RUN_UNTIL(w.ups == 3);
    assert_int_equal(w.downs, 2);
    close_redis(&w);
    fake_stop(&fake);
}

static void test_dead_peer(void **state) {
    (void)state;
    redis_server_start(&own, NULL);
    watch commands = {0}, subscriber = {0};
    aff_redis_config config = tcp(&own);
    config.reply_timeout_ms = 100;
    open_up(&commands, &config);
    config.ping_ms = 20;
    open_redis(&subscriber, &config);
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "c", 1), 0);
    RUN_UNTIL(subscriber.subscribed == 1);
    uint64_t start_ms = uv_now(&loop);
    RUN_UNTIL(uv_now(&loop) > start_ms + 200); /* in which nothing may happen */
    assert_int_equal(commands.downs + subscriber.downs, 0);

    assert_int_equal(kill(own.pid, SIGSTOP), 0);
    assert_int_equal(send_words(&commands, 0, "GET x"), 0);
    RUN_UNTIL(commands.downs == 1 && subscriber.downs == 1);
    assert_int_equal(commands.nulls, 1);
    assert_string_equal(commands.reason, "no answer for 100 ms");
    assert_string_equal(subscriber.reason, "no answer for 100 ms");
    assert_int_equal(kill(own.pid, SIGCONT), 0);
    RUN_UNTIL(commands.ups == 2 && subscriber.subscribed == 2);
    close_redis(&commands);
    close_redis(&subscriber);
}

static void test_a_stopped_thread_blames_nobody(void **state) {
    (void)state;
    watch w = {0};
    aff_redis_config config = tcp(&plain);
    config.reply_timeout_ms = 40;
    open_up(&w, &config);
    assert_int_equal(send_words(&w, 0, "GET x"), 0);
    aff_redis_flush(w.redis);
    uint64_t start = uv_hrtime();
    while (uv_hrtime() - start < 200000000u) { /* the loop does not run */
    }
    RUN_UNTIL(w.answers == 1);
    assert_int_equal(w.downs, 0);
    close_redis(&w);
}

/* --- publish and subscribe ------------------------------------------------------------------- */

static void test_messages(void **state) {
    (void)state;
    watch subscriber = {0}, publisher = {0};
    aff_redis_config config = tcp(&plain);
    open_up(&publisher, &config);
    open_redis(&subscriber, &config);
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "one", 3), 0); /* before it is up */
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "one", 3), 0);
    RUN_UNTIL(subscriber.subscribed == 1);
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "t\0o", 3), 0);
    RUN_UNTIL(subscriber.subscribed == 2);
    assert_int_equal(subscriber.channel_len, 3);
    assert_memory_equal(subscriber.channel, "t\0o", 3);

    publish(&publisher, "one", "a\0b\r\n\0", 6);
    RUN_UNTIL(subscriber.messages == 1);
    assert_string_equal(subscriber.channel, "one");
    assert_int_equal(subscriber.data_len, 6);
    assert_memory_equal(subscriber.data, "a\0b\r\n\0", 6);
    publish(&publisher, "one", "", 0);
    RUN_UNTIL(subscriber.messages == 2);
    assert_int_equal(subscriber.data_len, 0);

    assert_int_equal(aff_redis_unsubscribe(subscriber.redis, "one", 3), 0);
    assert_int_equal(aff_redis_unsubscribe(subscriber.redis, "one", 3), AFF_EINVAL);
    do publish(&publisher, "one", "x", 1);
    while (publisher.integer > 0); /* until Redis has unsubscribed it */
    close_redis(&subscriber);
    close_redis(&publisher);
}

static void test_subscribes_again_after_restart(void **state) {
    (void)state;
    redis_server_start(&own, NULL);
    watch subscriber = {0}, publisher = {0};
    aff_redis_config config = tcp(&own);
    open_up(&publisher, &config);
    open_up(&subscriber, &config);
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "kept", 4), 0);
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "gone", 4), 0);
    RUN_UNTIL(subscriber.subscribed == 2);
    redis_server_kill(&own);
    RUN_UNTIL(subscriber.downs == 1 && publisher.downs == 1);
    assert_int_equal(aff_redis_unsubscribe(subscriber.redis, "gone", 4), 0);
    redis_server_restart(&own);
    RUN_UNTIL(subscriber.ups == 2 && subscriber.subscribed == 3 && publisher.ups == 2);
    assert_string_equal(subscriber.channel, "kept");
    publish(&publisher, "gone", "", 0);
    assert_int_equal(publisher.integer, 0);
    publish(&publisher, "kept", "back", 4);
    assert_int_equal(publisher.integer, 1);
    RUN_UNTIL(subscriber.messages == 1);
    assert_string_equal(subscriber.data, "back");
    close_redis(&subscriber);
    close_redis(&publisher);
}

static void test_denied_subscription(void **state) {
    (void)state;
    watch subscriber = {.unsubscribe_when_denied = true}, publisher = {0};
    aff_redis_config config = local(&locked);
    config.password = "secret";
    config.username = "alice";
    open_up(&publisher, &config);
    config.username = "bob";
    open_up(&subscriber, &config);
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "forbidden", 9), 0);
    assert_int_equal(aff_redis_subscribe(subscriber.redis, "allowed", 7), 0);
    RUN_UNTIL(subscriber.denied == 1 && subscriber.subscribed == 1);
    assert_non_null(strstr(subscriber.reason, "NOPERM"));
    publish(&publisher, "allowed", "hello", 5);
    RUN_UNTIL(subscriber.messages == 1);
    assert_int_equal(subscriber.downs, 0);
    assert_int_equal(aff_redis_unsubscribe(subscriber.redis, "forbidden", 9), AFF_EINVAL);
    close_redis(&subscriber);
    close_redis(&publisher);
}

/* --- closing --------------------------------------------------------------------------------- */

static void test_close_in_every_state(void **state) {
    (void)state;
    aff_redis_config config = tcp(&plain);
    watch at_once = {0}; /* before the first turn of the loop */
    open_redis(&at_once, &config);
    close_redis(&at_once);

    watch backing_off = {0};
    open_redis(&backing_off, &(aff_redis_config){.path = "/tmp/aff-no-such-socket"});
    RUN_UNTIL(backing_off.retries == 1);
    close_redis(&backing_off);

    watch resolving = {0};
    open_redis(&resolving, &(aff_redis_config){.host = "hung.test", .port = 1});
    uv_run(&loop, UV_RUN_ONCE);
    close_redis(&resolving);
    end_hung_lookup();

    int filler[2];
    uint16_t port = redis_server_free_port();
    int hole = open_black_hole("127.0.0.1", port, filler);
    watch connecting = {0};
    open_redis(&connecting, &(aff_redis_config){.host = "127.0.0.1", .port = port});
    uv_run(&loop, UV_RUN_ONCE);
    close_redis(&connecting);
    close(hole);
    close(filler[0]);
    close(filler[1]);

    fake_redis fake;
    fake_start(&fake, (const char *const[]){NULL}, 1);
    watch greeting = {0};
    open_redis(&greeting, &(aff_redis_config){.path = fake.path, .db = 1});
    RUN_UNTIL(fake.reads > 0);
    close_redis(&greeting);
    fake_stop(&fake);

    watch up = {.close_when_up = true};
    open_redis(&up, &config);
    RUN_UNTIL(up.closed == 1);
    close_redis(&up);
}

static void test_close_answers_with_null(void **state) {
    (void)state;
    watch w = {.close_on_answer = true};
    aff_redis_config config = tcp(&plain);
    open_up(&w, &config);
    for (uint64_t tag = 0; tag < 10; tag++) assert_int_equal(send_words(&w, tag, "GET x"), 0);
    RUN_UNTIL(w.closed == 1);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.nulls, 9);
    assert_int_equal(w.downs, 0);
    close_redis(&w);
}

static void test_close_with_a_write_under_way(void **state) {
    (void)state;
    redis_server_start(&own, NULL);
    watch w = {0};
    aff_redis_config config = local(&own);
    open_up(&w, &config);
    assert_int_equal(kill(own.pid, SIGSTOP), 0);
    size_t len = (size_t)8 << 20;
    char *value = calloc(1, len);
    assert_non_null(value);
    const char *argv[] = {"SET", "x", value};
    assert_int_equal(aff_redis_command(w.redis, 0, 3, argv, (const size_t[]){3, 1, len}), 0);
    free(value);
    aff_redis_flush(w.redis);
    size_t left = aff_redis_pending_bytes(w.redis);
    assert_true(left > 0 && left < len);
    assert_int_equal(send_words(&w, 1, "GET x"), 0);
    assert_int_equal(aff_redis_pending_bytes(w.redis), left + 20);
    close_redis(&w);
    assert_int_equal(w.nulls, 2);
}

/* --- the scripts of core/scripts.c ----------------------------------------------------------- */

/* Boots of this server, the present and the former one, and another's. Epochs are above Redis's
 * clock, so that the next one is known. */
#define OWN "0123456789ab0001"
#define FORMER "0123456789ab0000"
#define OTHER "ba98765432100000"
#define MINE "4000000000000005 " OWN " a server"
#define MINE_OLDER "4000000000000004 " OWN " a server"
#define MINE_NEW "4000000000000006 " OWN " a server"
#define MINE_ABOVE "5000000000000001 " OWN " a server" /* what the claimer has seen elsewhere */
#define FORMERLY "4000000000000005 " FORMER " a server"
#define THEIRS "4000000000000005 " OTHER " b"
#define THEIRS_OLDER "4000000000000004 " OTHER " b"

/* The arguments of a claim. */
#define CLAIM(standing, expected, peek, highest)                                                   \
    { OWN, "a server", standing, expected, "90000", peek, highest }

typedef struct {
    const char *name;
    aff_script script;
    const char *before;
    const char *argv[7];
    long long number;
    const char *string; /* NULL: the answer is an integer; "": an array of one element */
    const char *after;
    bool expires_later; /* the TTL is that of the call */
} script_case;

static const script_case script_cases[] = {
    {"join: none", AFF_SCRIPT_JOIN, NULL, {OWN, "90000"}, 1, "", OWN, true},
    {"join: own", AFF_SCRIPT_JOIN, OWN, {OWN, "90000"}, 1, "", OWN, true},
    {"join: former", AFF_SCRIPT_JOIN, FORMER, {OWN, "90000"}, 0, FORMER, FORMER, false},
    {"join: another's", AFF_SCRIPT_JOIN, OTHER, {OWN, "90000"}, 0, OTHER, OTHER, false},

    {"renew: none", AFF_SCRIPT_RENEW, NULL, {OWN, "90000"}, 0, NULL, NULL, false},
    {"renew: own", AFF_SCRIPT_RENEW, OWN, {OWN, "90000"}, 1, NULL, OWN, true},
    {"renew: former", AFF_SCRIPT_RENEW, OWN, {FORMER, "90000"}, 0, NULL, OWN, false},
    {"renew: another's", AFF_SCRIPT_RENEW, OTHER, {OWN, "90000"}, 0, NULL, OTHER, false},

    {"leave: none", AFF_SCRIPT_LEAVE, NULL, {OWN}, 0, NULL, NULL, false},
    {"leave: own", AFF_SCRIPT_LEAVE, OWN, {OWN}, 1, NULL, NULL, false},
    {"leave: former", AFF_SCRIPT_LEAVE, OWN, {FORMER}, 0, NULL, OWN, false},
    {"leave: another's", AFF_SCRIPT_LEAVE, OTHER, {OWN}, 0, NULL, OTHER, false},
    {"leave: expected", AFF_SCRIPT_LEAVE, OTHER, {OTHER}, 1, NULL, NULL, false},

    {"claim: none", AFF_SCRIPT_CLAIM, NULL, CLAIM("0", "", "0", "5000000000000000"), 1, MINE_ABOVE,
     MINE_ABOVE, true},
    {"claim: none, peek", AFF_SCRIPT_CLAIM, NULL, CLAIM("0", "", "1", "0"), 2, "", NULL, false},
    {"claim: none, expected", AFF_SCRIPT_CLAIM, NULL, CLAIM("0", THEIRS, "0", "5000000000000000"),
     1, MINE_ABOVE, MINE_ABOVE, true},
    {"claim: own", AFF_SCRIPT_CLAIM, MINE, CLAIM("0", "", "0", "5000000000000000"), 1, MINE, MINE,
     false},
    {"claim: own, standing", AFF_SCRIPT_CLAIM, MINE,
     CLAIM("4000000000000005", "", "0", "4000000000000005"), 1, MINE, MINE, false},
    {"claim: own, peek", AFF_SCRIPT_CLAIM, MINE, CLAIM("0", "", "1", "0"), 1, MINE, MINE, false},
    {"claim: own, older", AFF_SCRIPT_CLAIM, MINE_OLDER,
     CLAIM("4000000000000005", "", "0", "4000000000000005"), 1, MINE_NEW, MINE_NEW, true},
    {"claim: own, older, peek", AFF_SCRIPT_CLAIM, MINE_OLDER,
     CLAIM("4000000000000005", "", "1", "4000000000000005"), 2, "", MINE_OLDER, false},
    {"claim: former", AFF_SCRIPT_CLAIM, FORMERLY, CLAIM("0", "", "0", "0"), 0, FORMERLY, FORMERLY,
     false},
    {"claim: former, expected", AFF_SCRIPT_CLAIM, FORMERLY, CLAIM("0", FORMERLY, "0", "0"), 1,
     MINE_NEW, MINE_NEW, true},
    {"claim: another's", AFF_SCRIPT_CLAIM, THEIRS, CLAIM("0", "", "0", "5000000000000000"), 0,
     THEIRS, THEIRS, false},
    {"claim: another's, peek", AFF_SCRIPT_CLAIM, THEIRS, CLAIM("0", "", "1", "0"), 0, THEIRS,
     THEIRS, false},
    {"claim: another's, above an older one", AFF_SCRIPT_CLAIM, THEIRS,
     CLAIM("4000000000000009", THEIRS_OLDER, "0", "4000000000000009"), 0, THEIRS, THEIRS, false},
    {"claim: another's, expected", AFF_SCRIPT_CLAIM, THEIRS, CLAIM("0", THEIRS, "0", "0"), 1,
     MINE_NEW, MINE_NEW, true},
    {"claim: another's, expected, peek", AFF_SCRIPT_CLAIM, THEIRS, CLAIM("0", THEIRS, "1", "0"), 2,
     "", THEIRS, false},
    {"claim: unreadable", AFF_SCRIPT_CLAIM, "nonsense", CLAIM("0", "", "0", "5000000000000000"), 1,
     MINE_ABOVE, MINE_ABOVE, true},

    {"release: none", AFF_SCRIPT_RELEASE, NULL, {MINE}, 0, NULL, NULL, false},
    {"release: own", AFF_SCRIPT_RELEASE, MINE, {MINE}, 1, NULL, NULL, false},
    {"release: own, older", AFF_SCRIPT_RELEASE, MINE, {MINE_OLDER}, 0, NULL, MINE, false},
    {"release: former", AFF_SCRIPT_RELEASE, MINE, {FORMERLY}, 0, NULL, MINE, false},
    {"release: another's", AFF_SCRIPT_RELEASE, THEIRS, {MINE}, 0, NULL, THEIRS, false},
    {"release: expected", AFF_SCRIPT_RELEASE, THEIRS, {THEIRS}, 1, NULL, NULL, false},

    {"refresh: none", AFF_SCRIPT_REFRESH, NULL, {MINE, "90000"}, 0, NULL, NULL, false},
    {"refresh: own", AFF_SCRIPT_REFRESH, MINE, {MINE, "90000"}, 1, NULL, MINE, true},
    {"refresh: own, older", AFF_SCRIPT_REFRESH, MINE, {MINE_OLDER, "90000"}, 0, NULL, MINE, false},
    {"refresh: former", AFF_SCRIPT_REFRESH, MINE, {FORMERLY, "90000"}, 0, NULL, MINE, false},
    {"refresh: another's", AFF_SCRIPT_REFRESH, THEIRS, {MINE, "90000"}, 0, NULL, THEIRS, false},
};

/* Sends a command, as strings up to a NULL, and waits for its answer. */
static void ask_argv(watch *w, const char *const *argv) {
    int argc = 0;
    while (argv[argc] != NULL) argc++;
    unsigned answers = w->answers;
    assert_int_equal(aff_redis_command(w->redis, w->next_tag, argc, (const char **)argv, NULL), 0);
    RUN_UNTIL(w->answers > answers);
}

static void run_script(watch *w, aff_script script, const char *const *args) {
    const char *argv[12] = {"EVAL", aff_script_source(script), "1", "a key"};
    for (int i = 0; i < 7 && args[i] != NULL; i++) argv[4 + i] = args[i];
    ask_argv(w, argv);
    if (w->type == REDIS_REPLY_ERROR) fail_msg("%s", w->data);
}

static void test_h04_scripts_compare_and_set(void **state) {
    (void)state;
    watch w = {0};
    aff_redis_config config = local(&plain);
    open_up(&w, &config);
    for (size_t i = 0; i < LENGTH(script_cases); i++) {
        const script_case *c = &script_cases[i];
        char expected[400], seen[400];
        snprintf(expected, sizeof expected, "%s: %lld %s; then %s", c->name, c->number,
                 c->string == NULL ? "alone" : c->string, c->after == NULL ? "nothing" : c->after);
        ask_argv(&w, (const char *const[]){"DEL", "a key", NULL});
        if (c->before != NULL)
            ask_argv(&w, (const char *const[]){"SET", "a key", c->before, "PX", "60000", NULL});
        run_script(&w, c->script, c->argv);
        int used = snprintf(seen, sizeof seen, "%s: %lld %s; then ", c->name, w.integer,
                            w.type == REDIS_REPLY_INTEGER ? "alone" : w.data);
        ask_argv(&w, (const char *const[]){"GET", "a key", NULL});
        snprintf(seen + used, sizeof seen - (size_t)used, "%s",
                 w.type == REDIS_REPLY_NIL ? "nothing" : w.data);
        assert_string_equal(seen, expected);
        ask_argv(&w, (const char *const[]){"PTTL", "a key", NULL});
        if (c->after != NULL && c->expires_later) assert_in_range(w.integer, 60001, 90000);
        if (c->after != NULL && !c->expires_later) assert_in_range(w.integer, 1, 60000);
    }
    close_redis(&w);
}

/* Where nobody has seen an epoch: that of a release and a claim afterwards is Redis's clock. */
static void test_h04_epochs_grow_without_a_record(void **state) {
    (void)state;
    watch w = {0};
    aff_redis_config config = local(&plain);
    open_up(&w, &config);
    ask_argv(&w, (const char *const[]){"DEL", "a key", NULL});
    unsigned long long last = 1600000000000000; /* in the year 2020 */
    for (int i = 0; i < 20; i++) {
        run_script(&w, AFF_SCRIPT_CLAIM, (const char *const[])CLAIM("0", "", "0", "0"));
        assert_int_equal(w.integer, 1);
        char record[64];
        assert_true(w.data_len < sizeof record);
        strcpy(record, w.data);
        char *rest;
        unsigned long long epoch = strtoull(record, &rest, 10);
        assert_string_equal(rest, " " OWN " a server");
        assert_true(epoch > last);
        last = epoch;
        run_script(&w, AFF_SCRIPT_RELEASE,
                   (const char *const[]){record, NULL, NULL, NULL, NULL, NULL, NULL});
        assert_int_equal(w.integer, 1);
    }
    close_redis(&w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        TEST(test_tcp_and_unix),
        TEST(test_bad_configuration),
        TEST(test_password_and_user),
        TEST(test_needless_password),
        TEST(test_refused),
        TEST(test_database),
        TEST(test_refused_port_is_tried_again),
        TEST(test_missing_socket_is_tried_again),
        TEST(test_unresolvable_host_is_tried_again),
        TEST(test_hung_resolver),
        TEST(test_every_address_is_tried),
        TEST(test_connect_timeout),
        TEST(test_greeting_timeout),
        TEST(test_an_address_without_a_redis),
        TEST(test_passing_errors_are_no_refusal),
        TEST(test_tls),
        TEST(test_tls_with_certificates_of_clients),
        TEST(test_tls_carries_it_all),
        TEST(test_10000_commands_in_order),
        TEST(test_a_turn_is_one_write),
        TEST(test_64_mib),
        TEST(test_out_max),
        TEST(test_commands_out_of_place),
        TEST(test_kill_answers_with_null),
        TEST(test_nonsense_drops_the_connection),
        TEST(test_dead_peer),
        TEST(test_a_stopped_thread_blames_nobody),
        TEST(test_messages),
        TEST(test_subscribes_again_after_restart),
        TEST(test_denied_subscription),
        TEST(test_close_in_every_state),
        TEST(test_close_answers_with_null),
        TEST(test_close_with_a_write_under_way),
        TEST(test_h04_scripts_compare_and_set),
        TEST(test_h04_epochs_grow_without_a_record),
    };
    return cmocka_run_group_tests(tests, start_servers, stop_servers);
}
