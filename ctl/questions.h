/*
 * questions.h - asks servers, and waits for their answers (docs/PROTOCOL.md, Questions).
 */
#ifndef CTL_QUESTIONS_H
#define CTL_QUESTIONS_H

#include <jansson.h>

#include "session.h"

/* Where questions go out and answers come in: one for each session. */
typedef struct ctl_mailbox ctl_mailbox;

/* An event that a watched server has sent; `event` is the mailbox's. */
typedef void ctl_on_event(void *arg, json_t *event);

/* Listens. `session` must live as long. NULL: see the session's error. */
ctl_mailbox *ctl_mailbox_open(ctl_session *session);
void ctl_mailbox_free(ctl_mailbox *mailbox);

/* From now on events run `on_event`, inside of calls that wait. */
void ctl_mailbox_watch(ctl_mailbox *mailbox, ctl_on_event *on_event, void *arg);

/* How many messages had no good signature. */
uint64_t ctl_mailbox_forged(const ctl_mailbox *mailbox);

typedef enum {
    CTL_ANSWERED,
    CTL_REFUSED,    /* the server has answered with an error */
    CTL_UNHEARD,    /* nobody listens on that channel */
    CTL_UNANSWERED, /* no answer within the time, or one that can't be read */
    CTL_FAILED      /* Redis did not take the question */
} ctl_outcome;

typedef struct {
    const char *kind; /* "documents" */
    json_t *args;     /* an object, or NULL; the caller's */
    char *channel;    /* of the server's process; the caller's */
    int64_t id;       /* from here on: what comes out */
    ctl_outcome outcome;
    json_t *answer;  /* with ANSWERED; the caller's, by json_decref() */
    char error[512]; /* else: a sentence for people, without the server's name */
    bool done;
} ctl_question;

/* Asks all of them at once, and returns when each has its outcome: within `within_ms` for answers
 * (0: --timeout), and what Redis takes. */
void ctl_ask(ctl_mailbox *mailbox, ctl_question *questions, size_t count, uint32_t within_ms);

#endif
