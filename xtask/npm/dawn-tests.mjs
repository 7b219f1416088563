// node dawn-tests.mjs SITE FOLDER [FILTER...]: runs the tests of SITE in Node, with the files of
// FOLDER, on Dawn, the WebGPU of Chromium, over the Vulkan driver that the environment selects.

import fs from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { create, globals } from 'webgpu';
import { Report } from './report.mjs';
import { readFiles, writeFiles } from './folder.mjs';

const [site, folder, ...filters] = process.argv.slice(2);
const gpu = create(['backend=vulkan', 'enable-dawn-features=allow_unsafe_apis']);
// What wgpu looks for to find out that this is a page.
Object.assign(globalThis, globals, { Window: class Window {} });
Object.defineProperty(globalThis, 'navigator', { value: { gpu } });

const adapter = await gpu.requestAdapter();
if (!adapter) {
  console.log('Dawn finds no Vulkan adapter');
  process.exit(1);
}
const { vendor, architecture, device, description } = adapter.info;
console.log(`Dawn: ${[vendor, architecture, device, description].filter(Boolean).join(', ')}`);
const at = (name) => path.resolve(site, name);
const { files } = await import(pathToFileURL(at('files.js')));
for (const [name, bytes] of await readFiles(folder)) files.set(name, bytes);
const { runTests } = await import(pathToFileURL(at('run.js')));
const report = new Report();
const wasm = await fs.readFile(at('evenkeel_browser_tests_bg.wasm'));
await runTests(wasm, filters, (result) => report.add(result));
await writeFiles(folder, files);
process.exit(report.finish() ? 0 : 1);
