/*
 * What clients send, as the origin takes it: an engine whose documents are nobody's, its own, or
 * another server's, and sockets that send anything. The owner's answers come from the dice, too:
 * the shim reads both sides.
 */
#include "world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The parts of a frame lie within it, one behind the other. */
static void check_parse(aff_slice whole) {
    aff__client_frame f;
    if (!aff__parse_client_frame(whole, &f)) return;
    AFF_ASSERT(f.document.len <= f.address.len);
    AFF_ASSERT(f.address.len == 0 || f.document.data == f.address.data);
    AFF_ASSERT(f.document.len == f.address.len || f.address.data[f.document.len] == 0);
    AFF_ASSERT(f.body.data + f.body.len == whole.data + whole.len);
    AFF_ASSERT(f.payload.data + f.payload.len == whole.data + whole.len);
    aff__is_utf8(f.address);
}

static void raw_frame(world *w, dice *d) {
    aff_slice raw = some(d, 255);
    check_parse(raw);
    const seat *s = &w->sockets[0];
    if (!s->open) open_socket(w, 0);
    tell(w, &(aff_event){.type = AFF_EV_SOCKET_FRAME, .socket = s->id, .data = raw});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static world w;
    dice d = {data, size};
    check_parse(aff__slice(data, size));
    world_open(&w, 10000);
    unsigned way = byte(&d); /* whose the documents are */
    if (way & 1) world_join(&w);
    for (unsigned i = 0; i < 3; i++) open_socket(&w, i);
    while (d.len > 0) {
        switch (below(&d, 8)) {
            case 0: raw_frame(&w, &d); break;
            case 1: answer_all(&w, way >> 1); break;
            case 2: receive_batch(&w, &d, false); break;
            case 3:
                open_socket(&w, below(&d, SOCKETS_MAX));
                say(&w, AFF_EV_FLUSH);
                break;
            default: client_sends(&w, &d);
        }
        refuse_all(&w);
    }
    world_close(&w);
    return 0;
}
