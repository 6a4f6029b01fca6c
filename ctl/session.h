/*
 * session.h - Redis, as a command needs it: ask, and have the answer when the call returns.
 *
 * A session has a loop and up to two connections of runtime/redis.h, one for commands and one that
 * listens to a channel of its own. Its calls run the loop until what they wait for is there, or the
 * time of --timeout is over, or somebody interrupts. One thread.
 */
#ifndef CTL_SESSION_H
#define CTL_SESSION_H

#include "options.h"
#include "redis.h"

typedef struct ctl_session ctl_session;

/* `options` must live as long. NULL: a complaint has been made (files for TLS). */
ctl_session *ctl_session_new(const ctl_options *options);
void ctl_session_free(ctl_session *s);

/* Why the last call failed, for people; the session's. */
const char *ctl_session_error(const ctl_session *s);
const ctl_options *ctl_session_options(const ctl_session *s);

/* Waits until Redis has taken the connection for commands; false: see the error. */
bool ctl_session_connect(ctl_session *s);

/* As ctl_session_connect(), and false for what is no single Redis: a Cluster's node, a Sentinel. */
bool ctl_session_connect_single(ctl_session *s);

/* From now on SIGINT and SIGTERM end whatever a call waits for, instead of the process. */
void ctl_session_catch_signals(ctl_session *s);
bool ctl_session_is_interrupted(const ctl_session *s);

/* ---- Commands -------------------------------------------------------------------------------- */

/* One on its way; its owner's, at one place from ctl_send() to ctl_receive(). */
typedef struct ctl_call {
    struct ctl_call *next;
    uint64_t tag;
    bool done;
    redisReply *reply; /* NULL: the connection was lost */
} ctl_call;

/* `args` are copied. False: see the error; there is nothing to receive then. */
bool ctl_send(ctl_session *s, ctl_call *call, const aff_slice *args, int count);

/*
 * What Redis has said to a call, to be freed with freeReplyObject(); an error may be it. NULL:
 * there is no answer, see the error.
 */
redisReply *ctl_receive(ctl_session *s, ctl_call *call);

/* Both; an answer that is an error of Redis is no answer. */
redisReply *ctl_redis(ctl_session *s, const aff_slice *args, int count);

/* Takes an error of Redis as the session's; true: it was one, and is freed. */
bool ctl_is_refused(ctl_session *s, redisReply *reply);

#define CTL_SEND(s, call, ...)                                                                     \
    ctl_send(s, call, (const aff_slice[]){__VA_ARGS__}, CTL_COUNT(__VA_ARGS__))
#define CTL_REDIS(s, ...) ctl_redis(s, (const aff_slice[]){__VA_ARGS__}, CTL_COUNT(__VA_ARGS__))
#define CTL_COUNT(...) (int)(sizeof((aff_slice[]){__VA_ARGS__}) / sizeof(aff_slice))

/* ---- Messages -------------------------------------------------------------------------------- */

typedef void ctl_on_message(void *arg, aff_slice data);

/*
 * Listens to the session's own channel, once and for good, also after an outage: messages run
 * `on_message` inside of waiting calls. False: see the error.
 */
bool ctl_session_listen(ctl_session *s, ctl_on_message *on_message, void *arg);

/* Its name; from ctl_session_new() on. */
aff_slice ctl_session_channel(const ctl_session *s);

/* Waits for so many ms, or until `is_done` is true (NULL: never); true: it is. */
bool ctl_session_wait(ctl_session *s, uint64_t ms, bool (*is_done)(void *arg), void *arg);

/* The loop's time in ms, which never goes back. */
uint64_t ctl_session_now(ctl_session *s);

/* Random bytes from the system. */
uint64_t ctl_random(void);

#endif
