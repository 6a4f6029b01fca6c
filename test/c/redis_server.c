#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "redis_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OPTION_MAX = 64, START_TRIES = 5, START_LIMIT_S = 10 };

static void die(const char *what) {
    fprintf(stderr, "redis_server: %s: %s\n", what, strerror(errno));
    abort();
}

uint16_t redis_server_free_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        die("free port");
    close(fd);
    return ntohs(address.sin_port);
}

static void exec_server(const redis_server *server, pid_t parent) {
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)server->port);
    const char *other = getenv("REDIS_SERVER"); /* a Valkey, say */
    const char *program = other != NULL ? other : "redis-server";
    const char *argv[OPTION_MAX] = {program,     "--port",       port,         "--bind",
                                    "127.0.0.1", "--save",       "",           "--appendonly",
                                    "no",        "--unixsocket", server->path, "--dir",
                                    server->dir, "--logfile",    "redis.log"};
    size_t count = 15;
    for (const char *const *o = server->options; o != NULL && *o != NULL; o++) {
        if (count + 1 >= OPTION_MAX) _exit(126);
        argv[count++] = *o;
    }
    /* The parent may have died before the wish to die with it was heard. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(126);
    execvp(program, (char *const *)argv);
    _exit(127);
}

/* Whether the server answers a PING, be it with -NOAUTH. */
static bool answers(const redis_server *server) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, server->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    char first = 0;
    bool yes = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
               send(fd, "PING\r\n", 6, MSG_NOSIGNAL) == 6 && read(fd, &first, 1) == 1;
    close(fd);
    return yes;
}

/* False: the server ended itself, because its port was taken meanwhile for instance. */
static bool launch(redis_server *server) {
    pid_t parent = getpid();
    server->pid = fork();
    if (server->pid < 0) die("fork");
    if (server->pid == 0) exec_server(server, parent);
    for (time_t limit = time(NULL) + START_LIMIT_S; time(NULL) <= limit;) {
        if (answers(server)) return true;
        if (waitpid(server->pid, NULL, WNOHANG) == server->pid) {
            server->pid = 0;
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    redis_server_kill(server);
    errno = ETIMEDOUT;
    die("start");
    return false;
}

void redis_server_start(redis_server *server, const char *const *options) {
    *server = (redis_server){.options = options};
    strcpy(server->dir, "/tmp/aff-redis-XXXXXX");
    if (mkdtemp(server->dir) == NULL) die("mkdtemp");
    snprintf(server->path, sizeof server->path, "%s/redis.sock", server->dir);
    for (int tries = 0; tries < START_TRIES; tries++) {
        server->port = redis_server_free_port();
        if (launch(server)) return;
    }
    fprintf(stderr, "redis_server: it does not start, see %s/redis.log\n", server->dir);
    abort();
}

void redis_server_kill(redis_server *server) {
    if (server->pid == 0) return;
    if (kill(server->pid, SIGKILL) != 0 || waitpid(server->pid, NULL, 0) != server->pid)
        die("kill");
    server->pid = 0;
}

void redis_server_restart(redis_server *server) {
    /* A killed server leaves its socket file behind. */
    if (unlink(server->path) != 0 && errno != ENOENT) die("unlink");
    if (!launch(server)) {
        fprintf(stderr, "redis_server: it does not restart, see %s/redis.log\n", server->dir);
        abort();
    }
}

void redis_server_free(redis_server *server) {
    if (server->dir[0] == '\0') return;
    redis_server_kill(server);
    char log[48];
    snprintf(log, sizeof log, "%s/redis.log", server->dir);
    unlink(server->path);
    unlink(log);
    if (rmdir(server->dir) != 0) die("rmdir");
    server->dir[0] = '\0';
}
