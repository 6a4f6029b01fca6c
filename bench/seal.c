/* What a seal costs: `make bench-seal`. Best of five runs for each size, one thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "seal.h"

enum { RUNS = 5 };

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void must(int status) {
    if (status == 0) return;
    fprintf(stderr, "failed: %d\n", status);
    exit(1);
}

/* Nanoseconds for one batch: sealed, and opened. */
static void measure(size_t keys, size_t len) {
    aff_slice secrets[] = {{(const uint8_t *)"one", 3}, {(const uint8_t *)"two", 3}};
    aff_slice channel = {(const uint8_t *)"rsaLink:0123456789ab", 20}, sealed, data;
    uint8_t *bytes = calloc(1, len + 1);
    size_t count = 100000000 / (len + 1000);
    double put = 1e18, both = 1e18;
    for (int run = 0; run < RUNS; run++) {
        aff_seal *a, *b;
        must(aff_seal_new(secrets, keys, &a));
        must(aff_seal_new(secrets, keys, &b));
        double start = now_ns();
        for (size_t i = 0; i < count; i++) {
            must(aff_seal_put(a, channel, (aff_slice){bytes, len}, &sealed));
        }
        double middle = now_ns();
        for (size_t i = 0; i < count; i++) {
            must(aff_seal_put(a, channel, (aff_slice){bytes, len}, &sealed));
            must(aff_seal_open(b, channel, sealed, &data));
        }
        double end = now_ns();
        if ((middle - start) / (double)count < put) put = (middle - start) / (double)count;
        if ((end - middle) / (double)count < both) both = (end - middle) / (double)count;
        aff_seal_free(a);
        aff_seal_free(b);
    }
    printf("%8zu %6zu %10.0f %10.0f %10.2f\n", len, keys, put, both - put,
           len ? (double)len / put : 0);
    free(bytes);
}

int main(void) {
    printf("%8s %6s %10s %10s %10s\n", "bytes", "keys", "seal, ns", "open, ns", "seal, GB/s");
    static const size_t lens[] = {0, 100, 1000, 10000, 256 << 10};
    for (size_t keys = 1; keys <= 2; keys++) {
        for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) measure(keys, lens[i]);
    }
    return 0;
}
