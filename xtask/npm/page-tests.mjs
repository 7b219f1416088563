// node page-tests.mjs SITE FOLDER CHROMIUM [FILTER...]: runs the tests of SITE in headless Chromium,
// with the files of FOLDER.

import http from 'node:http';
import { chromium } from 'playwright-core';
import sirv from 'sirv';
import { Report } from './report.mjs';
import { readFiles, writeFiles } from './folder.mjs';

const [site, folder, executablePath, ...filters] = process.argv.slice(2);
const server = http.createServer(sirv(site, { dev: true }));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const origin = `http://127.0.0.1:${server.address().port}`;

const browser = await chromium.launch({
  executablePath,
  chromiumSandbox: false,
  args: ['--enable-unsafe-webgpu', '--disable-quic', '--disable-background-networking'],
});
const page = await browser.newPage();
page.on('crash', () => {
  console.log('the page crashed');
  process.exit(1);
});
const report = new Report();
await page.exposeFunction('report', (result) => report.add(result));
await page.goto(`${origin}/index.html`);
const adapter = await page.evaluate(async () => {
  const { info, features } = await navigator.gpu.requestAdapter();
  const has = ['shader-f16', 'subgroups'].filter((name) => features.has(name));
  return [info.vendor, info.architecture, info.description, ...has].filter(Boolean).join(', ');
});
console.log(`Chromium ${browser.version()}: ${adapter}`);
const given = [...(await readFiles(folder))].map(([name, bytes]) => [name, [...bytes]]);
const left = await page.evaluate(
  async ({ filters, given }) => {
    const { files } = await import('./files.js');
    for (const [name, bytes] of given) files.set(name, new Uint8Array(bytes));
    const { runTests, testNames } = await import('./run.js');
    const response = await fetch('./evenkeel_browser_tests_bg.wasm');
    const wasm = await response.arrayBuffer();
    await runTests(wasm, await testNames(wasm, filters), globalThis.report);
    return [...files].map(([name, bytes]) => [name, [...bytes]]);
  },
  { filters, given },
);
await writeFiles(folder, left);
await browser.close();
server.close();
process.exit(report.finish() ? 0 : 1);
