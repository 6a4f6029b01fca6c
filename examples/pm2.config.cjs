// PM2 in cluster mode: several processes on one port.
//
//     pm2 start pm2.config.cjs
//     pm2 reload collaboration      one process after the other, without an interruption

module.exports = {
  apps: [
    {
      name: 'collaboration',
      script: 'pm2.mjs',
      cwd: __dirname,
      exec_mode: 'cluster',
      instances: 2,
      wait_ready: true, // until pm2.mjs says so: it is a member of the cluster, and listens
      listen_timeout: 20000,
      kill_timeout: 15000, // more than drainTimeout (10 s); PM2's own 1.6 s would cut a drain off
    },
  ],
}
