#include "questions.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "control.h"
#include "seal.h"
#include "text.h"

struct ctl_mailbox {
    ctl_session *session;
    aff_seal *seal; /* NULL: no secret */
    ctl_question *questions;
    size_t count; /* of those that are asked now */
    int64_t last_id;
    uint64_t forged;
    ctl_on_event *on_event;
    void *on_event_arg;
};

/* ---- What comes in --------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static void settle(ctl_question *q, ctl_outcome outcome,
                                                         const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(q->error, sizeof(q->error), format, args);
    va_end(args);
    q->outcome = outcome;
    q->done = true;
}

static void take_answer(ctl_question *q, json_t *body) {
    json_t *answer = json_object_get(body, "answer"), *error = json_object_get(body, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *code = json_string_value(json_object_get(error, "code"));
    if (error != NULL) {
        settle(q, CTL_REFUSED, "%s (%s)", message != NULL ? message : "it refuses",
               code != NULL ? code : "no code");
    } else if (answer == NULL) {
        settle(q, CTL_UNANSWERED, "its answer can't be read");
    } else {
        q->answer = json_incref(answer);
        settle(q, CTL_ANSWERED, "%s", "");
    }
}

static void on_body(ctl_mailbox *m, json_t *body) {
    json_t *event = json_object_get(body, "event"), *re = json_object_get(body, "re");
    if (json_is_object(event) && m->on_event != NULL) m->on_event(m->on_event_arg, event);
    if (!json_is_integer(re)) return;
    for (size_t i = 0; i < m->count; i++) {
        ctl_question *q = &m->questions[i];
        if (!q->done && q->id == json_integer_value(re)) take_answer(q, body);
    }
}

/* Anybody who may publish can send anything. */
static void on_message(void *arg, aff_slice data) {
    ctl_mailbox *m = arg;
    aff_slice channel = ctl_session_channel(m->session);
    if (m->seal != NULL && aff_seal_open(m->seal, channel, data, &data) != AFF_SEAL_GOOD) {
        m->forged++;
        return;
    }
    aff_slice sender, text;
    if (!aff_control_read(data, &sender, &text)) return;
    json_t *body = json_loadb((const char *)text.data, text.len, JSON_ALLOW_NUL, NULL);
    if (body != NULL) on_body(m, body);
    json_decref(body);
}

/* ---- What goes out --------------------------------------------------------------------------- */

/* The message; the caller's. */
static aff_slice write_question(ctl_mailbox *m, const ctl_question *q) {
    json_t *body =
        json_pack("{s:I, s:s, s:O}", "id", (json_int_t)q->id, "ask", q->kind, "args", q->args);
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text == NULL) return (aff_slice){0};
    aff_slice message = aff_control_write(ctl_session_channel(m->session), ctl_slice(text));
    free(text);
    return message;
}

static void publish(ctl_mailbox *m, ctl_question *q, ctl_call *call) {
    aff_slice message = write_question(m, q), sealed = message, channel = ctl_slice(q->channel);
    if (message.data == NULL) {
        settle(q, CTL_FAILED, "the question can't be written: it is no UTF-8, or memory is short");
    } else if (m->seal != NULL && aff_seal_put(m->seal, channel, message, &sealed) != 0) {
        settle(q, CTL_FAILED, "the question can't be signed");
    } else if (!CTL_SEND(m->session, call, ctl_slice("PUBLISH"), channel, sealed)) {
        settle(q, CTL_FAILED, "%s", ctl_session_error(m->session));
    }
    free((void *)message.data);
}

/* Redis says how many were told. */
static void check_publish(ctl_mailbox *m, ctl_question *q, ctl_call *call) {
    redisReply *reply = ctl_receive(m->session, call);
    if (q->done) { /* an answer is faster than Redis's word only if that came to nothing */
        if (reply != NULL) freeReplyObject(reply);
    } else if (reply == NULL || ctl_is_refused(m->session, reply)) {
        settle(q, CTL_FAILED, "%s", ctl_session_error(m->session));
    } else {
        if (reply->integer == 0)
            settle(q, CTL_UNHEARD,
                   "nobody listens on its channel: it has ended, is cut off from "
                   "Redis, or this Redis is a replica");
        freeReplyObject(reply);
    }
}

static bool are_done(void *arg) {
    ctl_mailbox *m = arg;
    for (size_t i = 0; i < m->count; i++)
        if (!m->questions[i].done) return false;
    return true;
}

static void give_up(ctl_mailbox *m, ctl_question *q, uint32_t within_ms) {
    const ctl_options *o = ctl_session_options(m->session);
    if (ctl_session_is_interrupted(m->session)) {
        settle(q, CTL_UNANSWERED, "interrupted");
        return;
    }
    settle(q, CTL_UNANSWERED, "no answer within %u s: it hangs; %s", (unsigned)within_ms / 1000,
           o->secret != NULL ? "or its secret is not the one of --secret-file"
                             : "or it has a secret, and --secret-file must name it");
}

void ctl_ask(ctl_mailbox *m, ctl_question *questions, size_t count, uint32_t within_ms) {
    if (within_ms == 0) within_ms = ctl_session_options(m->session)->timeout_ms;
    ctl_call *calls = ctl_alloc(count * sizeof(*calls));
    bool *sent = ctl_alloc(count * sizeof(*sent));
    json_t *none = json_object();
    m->questions = questions;
    m->count = count;
    for (size_t i = 0; i < count; i++) {
        ctl_question *q = &questions[i];
        json_t *args = q->args;
        q->args = args != NULL ? args : none;
        q->id = ++m->last_id;
        q->done = false;
        q->answer = NULL;
        publish(m, q, &calls[i]);
        q->args = args;
        sent[i] = !q->done;
    }
    for (size_t i = 0; i < count; i++)
        if (sent[i]) check_publish(m, &questions[i], &calls[i]);
    (void)ctl_session_wait(m->session, within_ms, are_done, m);
    for (size_t i = 0; i < count; i++)
        if (!questions[i].done) give_up(m, &questions[i], within_ms);
    m->count = 0;
    json_decref(none);
    free(sent);
    free(calls);
}

/* ---- Beginning and end ----------------------------------------------------------------------- */

ctl_mailbox *ctl_mailbox_open(ctl_session *session) {
    const ctl_options *o = ctl_session_options(session);
    ctl_mailbox *m = ctl_alloc(sizeof(*m));
    *m = (ctl_mailbox){.session = session};
    if (o->secret != NULL) {
        aff_slice secret = {(const uint8_t *)o->secret, o->secret_len};
        if (aff_seal_new(&secret, 1, &m->seal) != 0) {
            ctl_complain("--secret-file: OpenSSL can't make a key of it");
            exit(CTL_NO);
        }
    }
    if (ctl_session_listen(session, on_message, m)) return m;
    ctl_mailbox_free(m);
    return NULL;
}

void ctl_mailbox_free(ctl_mailbox *mailbox) {
    if (mailbox == NULL) return;
    aff_seal_free(mailbox->seal);
    free(mailbox);
}

void ctl_mailbox_watch(ctl_mailbox *mailbox, ctl_on_event *on_event, void *arg) {
    mailbox->on_event = on_event;
    mailbox->on_event_arg = arg;
}

uint64_t ctl_mailbox_forged(const ctl_mailbox *mailbox) {
    return mailbox->forged;
}
