// The editor with ProseMirror and Yjs is one chunk; that it is above Vite's 500 kB is no news.
export default { build: { chunkSizeWarningLimit: 1500 } }
