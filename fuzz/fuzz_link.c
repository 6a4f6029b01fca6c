/*
 * Bytes that reach a server as a published batch: any, and valid ones with something wrong in them,
 * so that all kinds of frames are reached. The server owns "a", has routes at B for "b" and at
 * itself for "a", and an event of its own at B.
 */
#include "world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void setting(world *w) {
    static const uint8_t tokens[] = {
        1, 0, 0, 0, 0, /* socket, kind, address, version: client 1 opens "a" */
        1, 0, 1, 0, 0, /* client 1 opens "b" */
        2, 0, 1, 1, 0, /* and client 2, whose provider can't be asked */
    };
    dice d = {tokens, sizeof(tokens)};
    world_open(w, 10000);
    world_join(w);
    claim(w, 0, AFF_USE_HOLD);
    answer_all(w, 1);
    for (unsigned i = 0; i < 4; i++) open_socket(w, i);
    while (d.len > 0) client_sends(w, &d);
    answer_all(w, 0);
    tell(w, &(aff_event){.type = AFF_EV_EMIT,
                         .request = ++w->next_request,
                         .name = aff__str("name"),
                         .document = aff__str("b")});
    say(w, AFF_EV_FLUSH);
    answer_all(w, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static world w;
    dice d = {data, size};
    setting(&w);
    tell(&w, &(aff_event){.type = AFF_EV_MESSAGE, .data = aff__slice(data, size)});
    while (d.len > 0) {
        switch (below(&d, 12)) {
            case 0: tell(&w, &(aff_event){.type = AFF_EV_MESSAGE, .data = some(&d, 255)}); break;
            case 1: receive_batch(&w, &d, true); break;
            case 2: pass_time(&w, wide(&d) % 20000); break;
            case 3: client_sends(&w, &d); break;
            case 4: answer_all(&w, byte(&d)); break;
            case 5: say(&w, AFF_EV_FLUSH); break;
            default: receive_batch(&w, &d, false);
        }
        refuse_all(&w);
    }
    world_close(&w);
    return 0;
}
