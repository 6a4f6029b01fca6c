// Loaded first into every Node process of `make asan-node`: the addon is the one that was built with sanitizers.
const { dlopen } = process
process.dlopen = (module, file, ...rest) => dlopen.call(process, module, file.endsWith('affinity.node') ? process.env.AFF_TEST_ADDON : file, ...rest)
