// node page-tests.mjs SITE FOLDER CHROMIUM [FILTER...]: runs the tests of SITE in headless Chromium,
// with the files of FOLDER.
//
// Several browsers take groups of tests from one queue: on software adapters most of a test's time
// goes into compiling shaders, which is done by one thread of a browser. Each group has a page of its
// own: what its devices hold is freed with it.

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

const count = Math.min(os.availableParallelism(), MOST_BROWSERS);
const browsers = await Promise.all(Array.from({ length: count }, launch));
const names = await withPage(browsers[0], async (page) => {
  console.log(`Chromium ${browsers[0].version()}: ${await adapterOf(page)}`);
  return page.evaluate(async (filters) => {
    const { testNames } = await import('./run.js');
    return testNames(await globalThis.program(), filters);
  }, filters);
});
// A test program, or a family of the kernel table.
const groupOf = (name) => name.split('::').slice(0, -1).join('::');
const groups = [...new Set(names.map(groupOf))];
await Promise.all(browsers.map(runGroups));
server.close();
process.exit(report.finish() ? 0 : 1);

function launch() {
  return chromium.launch({
    executablePath,
    chromiumSandbox: false,
    args: ['--enable-unsafe-webgpu', '--disable-quic', '--disable-background-networking'],
  });
}

/** Does something in a page of the tests. */
async function withPage(browser, work) {
  const page = await browser.newPage();
  page.on('crash', () => {
    console.log('a page crashed');
    process.exit(1);
  });
  await page.goto(`${origin}/index.html`);
  await page.evaluate(() => {
    const url = './evenkeel_browser_tests_bg.wasm';
    globalThis.program = async () => (await fetch(url)).arrayBuffer();
  });
  const result = await work(page);
  await page.close();
  return result;
}

function adapterOf(page) {
  return page.evaluate(async () => {
    const { info, features } = await navigator.gpu.requestAdapter();
    const has = ['shader-f16', 'subgroups'].filter((name) => features.has(name));
    const sizes = `subgroups of ${info.subgroupMinSize} to ${info.subgroupMaxSize}`;
    const words = [info.vendor, info.architecture, info.description, ...has, sizes];
    return words.filter(Boolean).join(', ');
  });
}

/** Runs groups while there are any, and closes the browser. */
async function runGroups(browser) {
  while (groups.length > 0) {
    const group = groups.shift();
    await withPage(browser, (page) => runTests(page, names.filter((name) => groupOf(name) === group)));
  }
  await browser.close();
}

async function runTests(page, names) {
  await page.exposeFunction('report', (result) => report.add(result));
  const left = await page.evaluate(
    async ({ names, given }) => {
      const { files } = await import('./files.js');
      for (const [name, bytes] of given) files.set(name, new Uint8Array(bytes));
      const { runTests } = await import('./run.js');
      await runTests(await globalThis.program(), names, globalThis.report);
      return [...files].map(([name, bytes]) => [name, [...bytes]]);
    },
    { names, given },
  );
  await writeFiles(folder, left);
}
