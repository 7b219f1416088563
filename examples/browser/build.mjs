// node build.mjs WASM_DIR FINETUNE_WASM_DIR OUT_DIR
//
// Makes the site: the page bundled with its chart library, and from WASM_DIR, where wasm-bindgen wrote
// evenkeel_browser.js and evenkeel_browser_bg.wasm (for the web, with its default path), the run;
// from FINETUNE_WASM_DIR, in the same way, evenkeel_browser_finetune.js and its program. What is in
// OUT_DIR can be served by anything that serves files; it asks no other host for anything.
import { build } from 'esbuild';
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const [wasm, finetune, out] = process.argv.slice(2);
if (!wasm || !finetune || !out) {
  console.error('usage: node build.mjs WASM_DIR FINETUNE_WASM_DIR OUT_DIR');
  process.exit(2);
}
const here = path.dirname(fileURLToPath(import.meta.url));
const page = path.join(here, 'page');
const root = path.join(here, '..', '..');

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const options = { bundle: true, format: 'esm', minify: true, target: 'es2022', legalComments: 'eof', logLevel: 'warning', outdir: out };
await build({ ...options, entryPoints: [path.join(page, 'main.js')] });
await build({
  ...options,
  entryPoints: [path.join(page, 'worker.js')],
  alias: {
    'evenkeel-browser': path.resolve(wasm, 'evenkeel_browser.js'),
    'evenkeel-browser-finetune': path.resolve(finetune, 'evenkeel_browser_finetune.js'),
  },
});
const chartStyle = await readFile(path.join(here, 'node_modules', 'uplot', 'dist', 'uPlot.min.css'), 'utf8');
await writeFile(path.join(out, 'style.css'), `${chartStyle}\n${await readFile(path.join(page, 'style.css'), 'utf8')}`);
for (const name of ['index.html', 'icon.svg']) await cp(path.join(page, name), path.join(out, name));
for (const [folder, name] of [[wasm, 'evenkeel_browser_bg.wasm'], [finetune, 'evenkeel_browser_finetune_bg.wasm']]) {
  await cp(path.join(folder, name), path.join(out, name));
}
const documents = await Promise.all(['README.md', 'ARCHITECTURE.md'].map((name) => readFile(path.join(root, name), 'utf8')));
await writeFile(path.join(out, 'repository.txt'), documents.join(''));
