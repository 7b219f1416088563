// node dawn-tests.mjs SITE FOLDER [FILTER...]: runs the tests of SITE in Node, with the files of
// FOLDER, on Dawn, the WebGPU of Chromium, over the Vulkan driver that the environment selects.
//
// Each test program runs in a process of its own: what its devices hold is freed with it, and a
// driver that crashes takes one program with it.

import { fork } from 'node:child_process';
import fs from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { create, globals } from 'webgpu';
import { Report } from './report.mjs';
import { readFiles, writeFiles } from './folder.mjs';

const [site, folder, ...filters] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.resolve(site, name)));
const wasm = await fs.readFile(path.resolve(site, 'evenkeel_browser_tests_bg.wasm'));
const { programOf, runTests, testNames } = await load('run.js');
process.exit((await (process.send ? runOne() : runAll())) ? 0 : 1);

/** Starts the programs one after the other. */
async function runAll() {
  const report = new Report();
  const names = await testNames(wasm, filters);
  for (const program of new Set(names.map(programOf))) {
    const missing = new Set(names.filter((name) => programOf(name) === program));
    const child = fork(fileURLToPath(import.meta.url), process.argv.slice(2));
    child.on('message', (message) => {
      if (message.adapter) console.log(`Dawn, ${program}: ${message.adapter}`);
      if (message.isReady) child.send([...missing]);
      if (!message.name) return;
      missing.delete(message.name);
      report.add(message);
    });
    const [code, signal] = await new Promise((resolve) => {
      child.on('exit', (...how) => resolve(how));
    });
    const message = `its program ended before, with ${signal ?? `exit code ${code}`}`;
    for (const name of missing) report.add({ name, ok: false, ms: 0, message });
    if (missing.size === 0 && code !== 0) report.add({ name: program, ok: false, ms: 0, message });
  }
  return report.finish();
}

/** Runs the tests that the parent names. */
async function runOne() {
  const wanted = new Promise((resolve) => {
    process.once('message', resolve);
  });
  const tell = (message) => new Promise((resolve) => {
    process.send(message, resolve);
  });
  const gpu = create(['backend=vulkan', 'enable-dawn-features=allow_unsafe_apis']);
  // What wgpu looks for to find out that this is a page.
  Object.assign(globalThis, globals, { Window: class Window {} });
  Object.defineProperty(globalThis, 'navigator', { value: { gpu } });
  const adapter = await gpu.requestAdapter();
  if (!adapter) {
    console.log('Dawn finds no Vulkan adapter');
    return false;
  }
  const { vendor, architecture, device, description, subgroupMinSize, subgroupMaxSize } = adapter.info;
  const has = ['shader-f16', 'subgroups'].filter((name) => adapter.features.has(name));
  const sizes = `subgroups of ${subgroupMinSize} to ${subgroupMaxSize}`;
  const words = [vendor, architecture, device, description, ...has, sizes];
  await tell({ adapter: words.filter(Boolean).join(', ') });
  await tell({ isReady: true });
  const { files } = await load('files.js');
  for (const [name, bytes] of await readFiles(folder)) files.set(name, bytes);
  const told = [];
  await runTests(wasm, await wanted, (result) => told.push(tell(result)));
  await Promise.all(told);
  await writeFiles(folder, files);
  return true;
}
