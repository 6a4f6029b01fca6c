/* Loads an addon as Node would, on musl, for which there is no Node in Debian: all symbols are
 * resolved at once, those of Node-API, libuv and OpenSSL to stubs (scripts/prebuilds.sh makes
 * them). Then asks it for the version of Node-API that it is for, which is code of the addon that
 * runs. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        void *addon = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
        int32_t (*version)(void) = NULL;
        if (addon != NULL) *(void **)&version = dlsym(addon, "node_api_module_get_api_version_v1");
        if (version == NULL || version() < 1 || dlsym(addon, "napi_register_module_v1") == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
    }
    return 0;
}
