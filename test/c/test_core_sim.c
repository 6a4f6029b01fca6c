/*
 * The simulator (sim/): a thousand seeds, and the traces of the scenarios that ARCHITECTURE.md
 * explains. `make sim SEED=n` repeats one seed with its trace, `make golden` writes the traces
 * anew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "scenarios.h"

static sim world; /* large */

static void any_mix_of_faults_ends_with_everyone_in_sync(void **state) {
    (void)state;
    const char *many = getenv("SIM_SEEDS");
    unsigned long count = many ? strtoul(many, NULL, 10) : 1000;
    for (unsigned long seed = 1; seed <= count; seed++) { /* a failure aborts, and tells its seed */
        sim_init(&world, seed);
        sim_run(&world);
        sim_free(&world);
    }
}

static void traces_are_as_they_were(void **state) {
    (void)state;
    for (int s = 0; scenarios[s].name; s++) {
        char path[128], *text = NULL, *golden = NULL;
        size_t len = 0;
        scenario_run(&world, &scenarios[s], &text, &len);
        snprintf(path, sizeof(path), "sim/golden/%s.trace", scenarios[s].name);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        golden = calloc(1, len + 2);
        assert_non_null(golden);
        assert_in_range(fread(golden, 1, len + 1, file), 1, len);
        fclose(file);
        assert_string_equal(text, golden);
        free(golden);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_mix_of_faults_ends_with_everyone_in_sync),
        cmocka_unit_test(traces_are_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
