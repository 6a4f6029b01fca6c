/*
 * commands.h - what affinityctl can do. Each command is called with a session that is connected to
 * a single Redis (doctor: with one that is not connected yet), and with as many arguments as main.c
 * has checked; it returns an exit code, and has said on standard error why that is not CTL_OK.
 */
#ifndef CTL_COMMANDS_H
#define CTL_COMMANDS_H

#include <jansson.h>

#include "questions.h"
#include "session.h"

int ctl_servers_command(ctl_session *s, char **args);
int ctl_documents_command(ctl_session *s, char **args);
int ctl_owner_command(ctl_session *s, char **args);
int ctl_watch_command(ctl_session *s, char **args);
int ctl_drain_command(ctl_session *s, char **args);
int ctl_move_command(ctl_session *s, char **args);
int ctl_doctor_command(ctl_session *s, char **args);

/* The session's error, as a complaint; CTL_NO. */
int ctl_give_up(ctl_session *s);

/* Somebody at a terminal says yes to `question`, or --yes has: CTL_OK. */
int ctl_confirm(ctl_session *s, const char *name, const char *question);

/* One line of JSON on standard output, in ASCII; `value` is taken. */
void ctl_print_json(json_t *value);

#endif
