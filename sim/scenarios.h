/* scenarios.h - runs in which nothing is left to chance but latencies, and their traces. */
#ifndef SIM_SCENARIOS_H
#define SIM_SCENARIOS_H

#include "sim.h"

typedef struct {
    const char *name;
    const char *about;
    void (*play)(sim *w);
} scenario;

extern const scenario scenarios[]; /* the last has no name */

/* `*text` is the trace, to be freed by the caller. */
void scenario_run(sim *w, const scenario *s, char **text, size_t *len);

#endif
