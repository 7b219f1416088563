// node serve.mjs SITE PORT: serves a folder on this machine until it is stopped.

import http from 'node:http';
import sirv from 'sirv';

const [site, port] = process.argv.slice(2);
const server = http.createServer(sirv(site, { dev: true }));
server.on('error', (error) => {
  const hint = error.code === 'EADDRINUSE' ? '; choose another one with --port' : '';
  console.error(`port ${port}: ${error.message}${hint}`);
  process.exit(1);
});
server.listen(Number(port), '127.0.0.1', () => {
  console.log(`==> open http://127.0.0.1:${port}/ in a browser with WebGPU; Ctrl-C stops`);
});
