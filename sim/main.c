/*
 * main.c - the simulator's command line.
 *
 *   sim seed <n>              one seed, with its trace
 *   sim swarm <count> [from]  many, on all cores; the seeds that fail, and how many there were
 */
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

enum { FAILURES_SHOWN = 10 };

typedef struct {
    uint64_t next, limit; /* seeds */
    uint64_t running[64]; /* by worker */
    sim_totals totals;
    double cpu;
} shared;

static sim world; /* large */

static void add_totals(sim_totals *to, const sim_totals *from) {
    uint64_t *a = (uint64_t *)to;
    const uint64_t *b = (const uint64_t *)from;
    for (size_t i = 0; i < sizeof(*to) / sizeof(*a); i++) {
        __atomic_fetch_add(&a[i], b[i], __ATOMIC_RELAXED);
    }
}

static void run_seed(uint64_t seed, bool traces, sim_totals *totals) {
    sim_init(&world, seed);
    world.traces = traces;
    sim_run(&world);
    if (totals) add_totals(totals, &world.totals);
    sim_free(&world);
}

static void work(shared *all, int worker) {
    for (;;) {
        uint64_t seed = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED);
        if (seed >= all->limit) _exit(0);
        all->running[worker] = seed;
        run_seed(seed, false, &all->totals);
        all->running[worker] = 0;
    }
}

static pid_t fork_worker(shared *all, int worker) {
    fflush(NULL);
    pid_t pid = fork();
    AFF_ASSERT(pid >= 0);
    if (pid == 0) work(all, worker);
    return pid;
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A worker that dies has found something; another goes on behind it. */
static int swarm(uint64_t count, uint64_t from) {
    shared *all = mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    AFF_ASSERT(all != MAP_FAILED);
    all->next = from;
    all->limit = from + count;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int workers = cores < 1 ? 1 : cores > 64 ? 64 : (int)cores;
    pid_t pids[64];
    uint64_t *failed = calloc(count + 1, sizeof(*failed)), failures = 0;
    AFF_ASSERT(failed);
    double start = seconds();
    for (int k = 0; k < workers; k++) pids[k] = fork_worker(all, k);
    for (int left = workers; left > 0;) {
        int status;
        pid_t pid = wait(&status);
        for (int k = 0; k < workers; k++) {
            if (pids[k] != pid) continue;
            left--;
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
            failed[failures++] = all->running[k];
            pids[k] = fork_worker(all, k);
            left++;
        }
    }
    const sim_totals *t = &all->totals;
    printf("%llu seeds in %.1f s, %llu failed\n", (unsigned long long)count, seconds() - start,
           (unsigned long long)failures);
    printf("  %llu steps, %llu batches, %llu frames to clients, %llu fail-overs, %llu take-overs\n",
           (unsigned long long)t->steps, (unsigned long long)t->batches,
           (unsigned long long)t->frames, (unsigned long long)t->failovers,
           (unsigned long long)t->takeovers);
    printf("  %llu gaps, %llu links anew, %llu epochs, %llu stores, %llu of them late,\n"
           "  %llu events, %llu states handed over, %llu sockets closed by servers\n",
           (unsigned long long)t->gaps, (unsigned long long)t->resets,
           (unsigned long long)t->epochs, (unsigned long long)t->stores,
           (unsigned long long)t->late_stores, (unsigned long long)t->events,
           (unsigned long long)t->merges, (unsigned long long)t->closed_sockets);
    qsort(failed, failures, sizeof(*failed), compare);
    for (uint64_t i = 0; i < failures && i < FAILURES_SHOWN; i++) {
        printf("  failed: make sim SEED=%llu\n", (unsigned long long)failed[i]);
    }
    free(failed);
    return failures ? 1 : 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    const char *verb = argc > 1 ? argv[1] : "";
    uint64_t number = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (strcmp(verb, "seed") == 0) {
        run_seed(number, true, NULL);
        return 0;
    }
    if (strcmp(verb, "swarm") == 0) {
        return swarm(number, argc > 3 ? strtoull(argv[3], NULL, 10) : 1);
    }
    fprintf(stderr, "usage: %s seed <n> | swarm <count> [from]\n", argv[0]);
    return 2;
}
