// HAProxy's configuration: one address for the page and for the WebSockets. The balancer cannot know which document a
// socket is for, so it takes the servers in turn and remembers nothing: that is what the extension is for.
//
// A server that has died refuses a check at once; one that is frozen lets it wait, three times a second. Then HAProxy
// gives it no more sockets and closes those that it has, and their pages connect to another server.

export function haproxyConfig({ port, pagePort, servers }) {
  return `global
  maxconn 4000
  noreuseport

defaults
  mode http
  retries 3
  option redispatch 1
  timeout connect 2s
  timeout client 1m
  timeout server 1m
  timeout tunnel 24h
  timeout http-request 10s

frontend demo
  bind 127.0.0.1:${port}
  use_backend servers if { hdr(Upgrade) -i websocket }
  use_backend dashboard if { path /affinity } or { path_beg /affinity/ }
  default_backend page

backend page
  server page 127.0.0.1:${pagePort}

# Any server can show the dashboard; a browser stays with one as long as that lives.
backend dashboard
  balance source
${servers.map(({ id, socket }) => `  server ${id} unix@${socket} track servers/${id}`).join('\n')}

backend servers
  balance roundrobin
  option httpchk GET /
  timeout check 1s
  default-server check inter 200ms fall 3 rise 1 on-marked-down shutdown-sessions
${servers.map((server) => `  server ${server.id} unix@${server.socket}`).join('\n')}
`
}
