/*
 * A redis-server of the test's own: on a free port of 127.0.0.1 and a Unix socket, in a directory
 * of its own, without persistence. It dies with the thread that started it, however that ends.
 * What goes wrong here ends the test program with a message.
 */
#ifndef AFF_TEST_REDIS_SERVER_H
#define AFF_TEST_REDIS_SERVER_H

#include <stdint.h>
#include <sys/types.h>

typedef struct {
    pid_t pid; /* 0: not running */
    uint16_t port;
    char dir[32];
    char path[48];              /* of the Unix socket */
    const char *const *options; /* as given to redis_server_start */
} redis_server;

/* Starts a server and waits until it answers. `options` are further arguments of redis-server up
 * to a NULL, or NULL; they must outlive the server. */
void redis_server_start(redis_server *server, const char *const *options);

/* kill -9, and waits for the end. Does nothing if it is not running. */
void redis_server_kill(redis_server *server);

/* Starts a killed server again on its port and socket. */
void redis_server_restart(redis_server *server);

/* Kills the server if it is running, and removes its directory. Does nothing for a zeroed one. */
void redis_server_free(redis_server *server);

/* A port of 127.0.0.1 that nobody listens on. */
uint16_t redis_server_free_port(void);

#endif
