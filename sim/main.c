/*
 * main.c - the simulator's command line.
 *
 *   sim seed <n>              one seed, with its trace
 *   sim swarm <count> [from]  many, on all cores; the seeds that fail, and how many there were
 *   sim first <count>         the first seed that fails, alone; nothing where all pass
 *   sim golden <folder>       the traces of all scenarios
 */
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scenarios.h"

enum { FAILURES_SHOWN = 10 };

typedef struct {
    uint64_t next, limit; /* seeds */
    uint64_t running[64]; /* by worker */
    sim_totals totals;
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

static shared *new_shared(uint64_t from, uint64_t count) {
    shared *all =
        mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    AFF_ASSERT(all != MAP_FAILED);
    all->next = from;
    all->limit = from + count;
    return all;
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
    shared *all = new_shared(from, count);
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
    printf("  %llu steps, %llu batches, %llu on direct links, %llu frames to clients,\n"
           "  %llu fail-overs, %llu take-overs\n",
           (unsigned long long)t->steps, (unsigned long long)(t->batches + t->direct),
           (unsigned long long)t->direct, (unsigned long long)t->frames,
           (unsigned long long)t->failovers, (unsigned long long)t->takeovers);
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

/* For the mutants. */
static int first_failure(uint64_t count) {
    shared *all = new_shared(1, count);
    fflush(NULL);
    pid_t pid = fork();
    AFF_ASSERT(pid >= 0);
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        work(all, 0);
    }
    int status;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 1;
    printf("%llu\n", (unsigned long long)all->running[0]);
    return 0;
}

static int golden(const char *folder) {
    for (int s = 0; scenarios[s].name; s++) {
        char path[256], *text = NULL;
        size_t len = 0;
        snprintf(path, sizeof(path), "%s/%s.trace", folder, scenarios[s].name);
        scenario_run(&world, &scenarios[s], &text, &len);
        FILE *file = fopen(path, "w");
        if (!file || fwrite(text, 1, len, file) != len || fclose(file) != 0) {
            perror(path);
            return 1;
        }
        free(text);
    }
    return 0;
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
    if (strcmp(verb, "first") == 0) return first_failure(number);
    if (strcmp(verb, "golden") == 0 && argc > 2) return golden(argv[2]);
    fprintf(stderr, "usage: %s seed <n> | swarm <count> [from] | first <count> | golden <folder>\n",
            argv[0]);
    return 2;
}
