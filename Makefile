# Verbs for all that a contributor does: `make help`. What is built goes to $(B), objects to one folder
# per variant: build/obj (the addon), build/test, build/asan, build/tsan (the C tests).
B ?= build

SYSTEM := $(shell uname -s)
ifeq ($(origin CC),default)
CC := $(if $(filter Darwin,$(SYSTEM)),cc,gcc)
endif
NODE ?= node
CLANG_FORMAT ?= clang-format

OPT ?= -O2
# Other people's compilers warn of other things: the install script leaves this empty.
WERROR ?= -Werror
CFLAGS = -std=c11 $(OPT) -g -fPIC -fvisibility=hidden -D_GNU_SOURCE \
	-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wvla $(WERROR)
DEPFLAGS = -MMD -MP

# What a layer may include is what its compiler call can see: core its own headers, runtime core's too.
# Headers that are not ours are system headers (-isystem), so that our warnings do not fall on them.
HIREDIS_INC := $(addprefix -isystem ,$(patsubst -I%,%,$(filter -I%,$(shell pkg-config --cflags-only-I hiredis 2>/dev/null))))
# Where there is no static library of it, the shared one must do: that binary is for this machine.
HIREDIS_A := $(or $(filter /%,$(shell $(CC) -print-file-name=libhiredis.a)),-lhiredis)

# What makes an addon of objects. libuv, OpenSSL and Node-API stay undefined: the Node process exports them. hiredis is linked
# in and hidden, so that it can't collide with another addon's. The loader is asked to resolve everything at load (-z now): a
# symbol that Node lacks is an error at start, not in the middle of the night. It stays in memory when the last worker that uses it
# ends (-z nodelete): a thread that looks up a name may hang for longer.
ADDON = -shared -pthread -Wl,-z,now -Wl,-z,nodelete -Wl,--exclude-libs,ALL
STRIP = strip --strip-debug
ifeq ($(SYSTEM),Darwin)
HIREDIS_INC += -isystem $(shell pkg-config --variable=includedir hiredis)
HIREDIS_A := $(or $(wildcard $(shell pkg-config --variable=libdir hiredis)/libhiredis.a),$(shell pkg-config --libs hiredis))
ADDON = -bundle -undefined dynamic_lookup -Wl,-exported_symbol,_napi_register_module_v1 \
	-Wl,-exported_symbol,_node_api_module_get_api_version_v1
STRIP = strip -S
endif

# Node's own headers bring the uv.h of the libuv inside it; else the npm package and Debian's libuv1-dev.
NODE_INC_OWN := $(shell $(NODE) -p 'require("node:path").resolve(process.execPath,"../../include/node")' 2>/dev/null)
NODE_INC_NPM := $(shell $(NODE) -p 'require("node-api-headers").include_dir' 2>/dev/null)
NODE_INC := $(addprefix -isystem ,$(firstword $(patsubst %/node_api.h,%, \
	$(wildcard $(addsuffix /node_api.h,$(NODE_INC_OWN) $(NODE_INC_NPM))))))

CORE_INC = -Icore
RUNTIME_INC = -Icore -Iruntime $(HIREDIS_INC)
BINDING_INC = -Icore -Iruntime -Ibinding $(HIREDIS_INC) $(NODE_INC)

CORE_SRC := $(wildcard core/*.c)
RUNTIME_SRC := $(wildcard runtime/*.c)
BINDING_SRC := $(wildcard binding/*.c)
C_FILES = $(wildcard $(addsuffix /*.[ch],core runtime binding ctl sim fuzz bench test/c test/musl))

# The platform's name in prebuilds/, as Node spells it.
PLATFORM := $(shell $(NODE) -p 'require("./js/addon.cjs").platform()' 2>/dev/null)

.PHONY: all setup native ctl js build prebuild prebuilds demo test test-c test-node test-faults test-browser matrix \
	asan tsan sim swarm mutants golden fuzz fuzz-merge fuzz-targets nomem valgrind asan-node faults bench bench-core bench-seal lifecycle \
	lint docs format clean help c-tests
.DEFAULT_GOAL := build

## setup: install what is missing (Debian and npm packages)
setup:
	@scripts/setup.sh

## build: the addon, the TypeScript facade, affinityctl
build: native js ctl

## native: $(B)/affinity.node
native: $(B)/affinity.node

## js: js/dist (ES modules) and js/cjs (CommonJS) from js/src
js: build/js.stamp

build/js.stamp: $(wildcard js/src/*.ts js/src/*/*.ts) js/addon.d.cts tsconfig.json tsconfig.cjs.json
	node_modules/.bin/tsc
	node_modules/.bin/tsc -p tsconfig.cjs.json
	@echo '{ "type": "commonjs" }' > js/cjs/package.json
	@mkdir -p build && touch $@

# --- the addon -------------------------------------------------------------------------------------

OBJ := $(patsubst %.c,$(B)/obj/%.o,$(CORE_SRC) $(RUNTIME_SRC) $(BINDING_SRC))

$(B)/obj/core/%.o: core/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(DEPFLAGS) $(CORE_INC) -c $< -o $@

# The addon sees libuv through Node's headers where they have them: it runs on Node's libuv.
$(B)/obj/runtime/%.o: runtime/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(DEPFLAGS) $(RUNTIME_INC) $(NODE_INC) -c $< -o $@

$(B)/obj/binding/%.o: binding/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(DEPFLAGS) $(BINDING_INC) -c $< -o $@

$(B)/affinity.node: $(OBJ)
	$(CC) $(ADDON) -o $@ $(OBJ) $(HIREDIS_A) $(LDFLAGS)

# --- affinityctl -----------------------------------------------------------------------------------
# A program of its own: the system's libuv and OpenSSL, and hiredis and jansson in it where there are static libraries.

CTL_SRC := $(wildcard ctl/*.c)
CTL_OBJ := $(patsubst %.c,$(B)/affctl/%.o,$(CORE_SRC) $(RUNTIME_SRC) $(CTL_SRC))
CTL_VERSION := $(shell sed -n 's/^  "version": "\(.*\)",$$/\1/p' package.json)
JANSSON_INC = $(patsubst -I%,-isystem %,$(shell pkg-config --cflags-only-I jansson 2>/dev/null))
JANSSON_A = $(or $(filter /%,$(shell $(CC) -print-file-name=libjansson.a)),$(shell pkg-config --libs jansson))
CTL_LIBS = $(HIREDIS_A) $(JANSSON_A) $(shell pkg-config --libs libuv openssl) -lm -pthread

## ctl: $(B)/affinityctl, the operator's tool (takes libjansson-dev)
ctl: $(B)/affinityctl

$(B)/affctl/core/%.o: core/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) $(CORE_INC) -c $< -o $@

$(B)/affctl/runtime/%.o: runtime/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) $(RUNTIME_INC) -c $< -o $@

$(B)/affctl/ctl/%.o: ctl/%.c package.json
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) $(RUNTIME_INC) -Ictl $(JANSSON_INC) -DCTL_VERSION='"$(CTL_VERSION)"' -c $< -o $@

$(B)/affinityctl: $(CTL_OBJ)
	$(CC) $(SAN) -o $@ $^ $(CTL_LIBS) $(LDFLAGS)

## prebuild: what `npm pack` ships (its prepack script calls this)
# What a removed source file left in js/dist or js/cjs must not be packed.
prebuild: native
	@rm -rf js/dist js/cjs build/js.stamp
	@$(MAKE) --no-print-directory js
	@mkdir -p prebuilds/$(PLATFORM)
	$(STRIP) -o prebuilds/$(PLATFORM)/affinity.node build/affinity.node

## prebuilds: the binaries for all platforms that Debian's compilers reach, each tried (minutes; a release does it)
prebuilds: setup
	@$(MAKE) --no-print-directory prebuild
	@scripts/prebuilds.sh

# --- the C tests -----------------------------------------------------------------------------------
# Each test/c/test_*.c is one cmocka program. test_core_* links core and nothing else; the others link
# core, runtime, the helpers (test/c/*.c that are no test) and the system's libuv and hiredis.
# VARIANT and SAN choose the folder and the sanitizer; `c-tests` is called once per variant.

VARIANT ?= test
SAN ?=
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
V := $(B)/$(VARIANT)

TESTS := $(patsubst test/c/%.c,%,$(wildcard test/c/test_*.c))
CORE_TESTS := $(filter test_core_%,$(TESTS))
OTHER_TESTS := $(filter-out test_core_%,$(TESTS))
HELPERS := $(filter-out $(wildcard test/c/test_*.c),$(wildcard test/c/*.c))
TEST_INC = -Itest/c -Isim $(CORE_INC)
# The simulator's models stand around the engine in tests of the core, too; all but its command line.
SIM_SRC := $(wildcard sim/*.c)
SIM_OBJ_V := $(patsubst %.c,$(V)/%.o,$(SIM_SRC))
MODEL_OBJ_V := $(filter-out $(V)/sim/main.o,$(SIM_OBJ_V))
CORE_OBJ_V := $(CORE_SRC:%.c=$(V)/%.o)
RUNTIME_OBJ_V := $(RUNTIME_SRC:%.c=$(V)/%.o)
HELPER_OBJ_V := $(HELPERS:%.c=$(V)/%.o)
TEST_LIBS = $(shell pkg-config --libs hiredis libuv) -lssl -lcrypto -pthread

$(V)/core/%.o: core/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) $(CORE_INC) -DAFF_CHECK -c $< -o $@

$(V)/runtime/%.o: runtime/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) $(RUNTIME_INC) -DAFF_CHECK -c $< -o $@

$(V)/sim/%.o: sim/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) -Isim $(CORE_INC) -DAFF_CHECK -c $< -o $@

$(V)/sim/sim: $(SIM_OBJ_V) $(CORE_OBJ_V)
	$(CC) $(SAN) -o $@ $^ $(LDFLAGS)

$(V)/test/c/test_core_%.o: test/c/test_core_%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) $(TEST_INC) -DAFF_CHECK -c $< -o $@

$(V)/test/c/%.o: test/c/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(DEPFLAGS) $(TEST_INC) $(RUNTIME_INC) -DAFF_CHECK -c $< -o $@

$(CORE_TESTS:%=$(V)/%): $(V)/%: $(V)/test/c/%.o $(MODEL_OBJ_V) $(CORE_OBJ_V)
	$(CC) $(SAN) -o $@ $^ -lcmocka

$(OTHER_TESTS:%=$(V)/%): $(V)/%: $(V)/test/c/%.o $(HELPER_OBJ_V) $(MODEL_OBJ_V) $(CORE_OBJ_V) $(RUNTIME_OBJ_V)
	$(CC) $(SAN) -o $@ $^ $(WRAP) -lcmocka $(TEST_LIBS)

# Its tests let allocations of our objects fail.
$(V)/test_stream: WRAP = -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=strdup

c-tests: $(TESTS:%=$(V)/%)

# Kept between runs: make would take these for intermediate files.
.SECONDARY:

## test-c: the C tests
test-c: c-tests
	@$(NODE) scripts/test.mjs --c $(V)

## asan: the C tests under the address and undefined behaviour sanitizers
asan:
	@$(MAKE) --no-print-directory c-tests VARIANT=asan OPT=-O1 SAN="$(ASAN)"
	@$(NODE) scripts/test.mjs --c build/asan

## tsan: the C tests under the thread sanitizer
tsan:
	@$(MAKE) --no-print-directory c-tests VARIANT=tsan OPT=-O1 SAN="-fsanitize=thread"
	@PATIENCE=5 $(NODE) scripts/test.mjs --c build/tsan

# --- the simulator ---------------------------------------------------------------------------------

N ?= 100000
FROM ?= 1

## sim: one run of the simulator, from its seed, with its trace (SEED=n)
sim: $(V)/sim/sim
	@$(V)/sim/sim seed $(or $(SEED),1)

## swarm: many seeds of the simulator on all cores (N=100000, FROM=1)
swarm: $(V)/sim/sim
	@$(V)/sim/sim swarm $(N) $(FROM)

## golden: the traces that the tests compare with, anew (sim/golden)
golden: $(V)/sim/sim
	@$(V)/sim/sim golden sim/golden

## mutants: does the simulator notice when the engine is broken? (MAX=10000 seeds each)
mutants:
	@scripts/mutants.sh $(or $(MAX),10000)

## nomem: the core's C tests with each of their allocations failing in turn, and with some under the address sanitizer (minutes)
# A fork of a program with that sanitizer takes ten times as long.
nomem: c-tests
	@$(MAKE) --no-print-directory c-tests VARIANT=asan OPT=-O1 SAN="$(ASAN)"
	@$(NODE) scripts/test.mjs --nomem build/asan some
	@$(NODE) scripts/test.mjs --nomem $(V) each

## valgrind: the core's C tests under valgrind (minutes)
valgrind: $(CORE_TESTS:%=$(V)/%)
	@scripts/valgrind.sh $^

## asan-node: the Node tests on an addon under the address and undefined behaviour sanitizers (FILES=...)
# It lies in a folder of its own, so that it can't be packed or found by anything else.
asan-node: prebuild ctl
	@$(MAKE) --no-print-directory native B=build/asan-node OPT="-O1 $(ASAN)" LDFLAGS="$(ASAN)"
	@PATIENCE=4 scripts/asan-node.sh build/asan-node/affinity.node $(NODE) scripts/test.mjs --node $(FILES)

# --- fuzzing ---------------------------------------------------------------------------------------
# fuzz/fuzz_*.c are libFuzzer targets, with the inputs that are kept in fuzz/corpus/<target>. clang
# only; its flags leave gcc's out.

FUZZ_TARGETS := $(patsubst fuzz/fuzz_%.c,%,$(wildcard fuzz/fuzz_*.c))
FUZZ_CC := clang
FUZZ_SAN = -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FUZZ_CFLAGS = $(filter-out -O2,$(CFLAGS)) -O1 $(FUZZ_SAN) -DAFF_CHECK
FUZZ_OBJ := $(CORE_SRC:%.c=$(B)/fuzz/%.o)

$(B)/fuzz/core/%.o: core/%.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_CFLAGS) $(DEPFLAGS) $(CORE_INC) -c $< -o $@

$(B)/fuzz/fuzz/%.o: fuzz/%.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_CFLAGS) $(DEPFLAGS) -Ifuzz $(RUNTIME_INC) -c $< -o $@

$(FUZZ_TARGETS:%=$(B)/fuzz/fuzz_%): $(B)/fuzz/%: $(B)/fuzz/fuzz/%.o $(FUZZ_OBJ)
	$(FUZZ_CC) -fsanitize=fuzzer,address,undefined -o $@ $^ $(if $(findstring redis,$@),$(TEST_LIBS))

fuzz-targets: $(FUZZ_TARGETS:%=$(B)/fuzz/fuzz_%)

## fuzz: one target for a while (FUZZ=frame, link, redis or engine, SECONDS=600), from its corpus on
fuzz: $(B)/fuzz/fuzz_$(FUZZ)
	@scripts/fuzz.sh $(FUZZ) $(or $(SECONDS),600)

## fuzz-merge: what a run has found is added to the corpus, where it reaches anything new (FUZZ=...)
fuzz-merge: $(B)/fuzz/fuzz_$(FUZZ)
	@scripts/fuzz.sh --merge $(FUZZ)

# --- everything else -------------------------------------------------------------------------------

## test: setup, build, then all tests; ends with `N passed, N failed`
test: setup
	@$(MAKE) --no-print-directory prebuild ctl c-tests fuzz-targets
	@$(NODE) scripts/test.mjs --c $(V) --nomem $(V) --fuzz --node --faults --browser

## test-node: the Node tests (FILES="test/node/a.test.mjs ..." for some of them)
test-node: prebuild ctl
	@$(NODE) scripts/test.mjs --node $(FILES)

## test-faults: the fault tests on real processes, apart from the others (FILES=... for some of them)
test-faults: prebuild
	@$(NODE) scripts/test.mjs --faults $(FILES)

## matrix: the Node tests with all versions of Hocuspocus and its provider (VERSIONS="3.4.4 4.0.0", FILES=...; an hour)
matrix: prebuild ctl
	@VERSIONS="$(VERSIONS)" FILES="$(FILES)" NODE="$(NODE)" scripts/matrix.sh

## test-browser: the tests of the demo page in headless Chromium
test-browser: build
	@$(NODE) scripts/test.mjs --browser $(FILES)

## faults: what clients feel of faults, as a table (ONLY="kill drain", RUNS=10, BUDGET=300 seconds each)
faults: build
	@RUNS=$(RUNS) BUDGET=$(BUDGET) $(NODE) bench/faults.mjs $(ONLY)

# Core and nothing else, as the addon is compiled.
$(B)/bench/core: bench/core.c $(patsubst %.c,$(B)/obj/%.o,$(CORE_SRC))
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CORE_INC) -o $@ $^

## bench-core: what the engine alone costs for a message, in ns
bench-core: $(B)/bench/core
	@$(B)/bench/core

## bench: what a proxied message costs, as tables and plots (ROUNDS=5 ONLY="pipelined fanout" SIZE=smoke OUT=build/bench)
bench: build $(B)/bench/core
	@ROUNDS=$(ROUNDS) ONLY="$(ONLY)" SIZE=$(SIZE) OUT=$(OUT) $(NODE) bench/speed.mjs

$(B)/bench/seal: bench/seal.c runtime/seal.c runtime/seal.h core/aff.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(RUNTIME_INC) -o $@ bench/seal.c runtime/seal.c -lcrypto

## bench-seal: what signing a batch costs (option `secret`)
bench-seal: $(B)/bench/seal
	@$(B)/bench/seal

## lifecycle: workers, instances and sockets that come and go, and the memory after them (WORKERS, INSTANCES, SOCKETS)
lifecycle: build
	@$(NODE) --expose-gc bench/lifecycle.mjs

## demo: three servers behind a load balancer and a page to type in
demo: setup
	@$(MAKE) --no-print-directory build
	@exec demo/run.sh

## lint: format, layers, warnings of gcc and clang, types, imported symbols, samples and generated pages of the documentation
lint: setup
	@$(MAKE) --no-print-directory build
	@scripts/lint.sh

## docs: docs/api.md from the types, docs/c-api.md from core/aff.h, the table of docs/metrics.md
docs: build
	@$(NODE) scripts/docs/generate.mjs

## format: rewrite the C files in the project's style
format:
	$(CLANG_FORMAT) -i $(C_FILES)

## clean: remove what the build made
clean:
	rm -rf build prebuilds js/dist js/cjs

## help: this list
help:
	@sed -n 's/^## \([a-z-]*\): /  \1\t/p' $(MAKEFILE_LIST) | expand -t 18

-include $(OBJ:.o=.d) $(CTL_OBJ:.o=.d) $(wildcard $(V)/*/*.d $(V)/*/*/*.d $(B)/fuzz/*/*.d)
