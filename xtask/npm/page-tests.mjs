// node page-tests.mjs SITE FOLDER CHROMIUM [FILTER...]: runs the tests of SITE in headless Chromium,
// with the files of FOLDER.
//
// Several browsers take groups of tests from one queue: on software adapters most of a test's time
// goes into compiling shaders, which is done by one thread of a browser.

import http from 'node:http';
import os from 'node:os';
import { chromium } from 'playwright-core';
import sirv from 'sirv';
import { Report } from './report.mjs';
import { readFiles, writeFiles } from './folder.mjs';

const MOST_BROWSERS = 4;

const [site, folder, executablePath, ...filters] = process.argv.slice(2);
const server = http.createServer(sirv(site, { dev: true }));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const origin = `http://127.0.0.1:${server.address().port}`;
const report = new Report();
const given = [...(await readFiles(folder))].map(([name, bytes]) => [name, [...bytes]]);

let groups = [];
const count = Math.min(os.availableParallelism(), MOST_BROWSERS);
const pages = await Promise.all(Array.from({ length: count }, open));
console.log(`Chromium ${pages[0].context().browser().version()}: ${await adapterOf(pages[0])}`);
const names = await pages[0].evaluate(async (filters) => {
  const { testNames } = await import('./run.js');
  return testNames(await globalThis.program(), filters);
}, filters);
// A test program, or a family of the kernel table.
const groupOf = (name) => name.split('::').slice(0, -1).join('::');
groups = [...new Set(names.map(groupOf))].map((group) => names.filter((n) => groupOf(n) === group));
await Promise.all(pages.map(runGroups));
server.close();
process.exit(report.finish() ? 0 : 1);

/** A page of the tests, in a browser of its own. */
async function open() {
  const browser = await chromium.launch({
    executablePath,
    chromiumSandbox: false,
    args: ['--enable-unsafe-webgpu', '--disable-quic', '--disable-background-networking'],
  });
  const page = await browser.newPage();
  page.on('crash', () => {
    console.log('a page crashed');
    process.exit(1);
  });
  await page.exposeFunction('report', (result) => report.add(result));
  await page.exposeFunction('nextGroup', () => groups.shift() ?? null);
  await page.goto(`${origin}/index.html`);
  await page.evaluate(() => {
    const url = './evenkeel_browser_tests_bg.wasm';
    globalThis.program = async () => (await fetch(url)).arrayBuffer();
  });
  return page;
}

function adapterOf(page) {
  return page.evaluate(async () => {
    const { info, features } = await navigator.gpu.requestAdapter();
    const has = ['shader-f16', 'subgroups'].filter((name) => features.has(name));
    return [info.vendor, info.architecture, info.description, ...has].filter(Boolean).join(', ');
  });
}

/** Runs groups in a page while there are any, and closes its browser. */
async function runGroups(page) {
  const left = await page.evaluate(async (given) => {
    const { files } = await import('./files.js');
    for (const [name, bytes] of given) files.set(name, new Uint8Array(bytes));
    const { runTests } = await import('./run.js');
    const wasm = await globalThis.program();
    for (let names; (names = await globalThis.nextGroup()); ) {
      await runTests(wasm, names, globalThis.report);
    }
    return [...files].map(([name, bytes]) => [name, [...bytes]]);
  }, given);
  await writeFiles(folder, left);
  await page.context().browser().close();
}
