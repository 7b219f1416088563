// node build.mjs WASM_DIR FINETUNE_WASM_DIR OUT_DIR
//
// Makes the site: the page bundled with its libraries, and from WASM_DIR and FINETUNE_WASM_DIR, where
// wasm-bindgen wrote evenkeel_browser.js and evenkeel_browser_finetune.js with their _bg.wasm (for the
// web, with its default paths), the runs. What is in OUT_DIR can be served by anything that serves
// files; it asks no other host for anything. The files of fine-tuning are fetched once it is chosen.
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
const inPage = (...names) => names.map((name) => path.join(page, name));
// What both tasks need is in files of their own.
const { metafile } = await build({ ...options, entryPoints: inPage('main.js', 'finetune.js'), splitting: true, chunkNames: 'shared-[hash]', metafile: true });
await build({
  ...options,
  entryPoints: inPage('worker.js', 'finetune-worker.js'),
  alias: {
    'evenkeel-browser': path.resolve(wasm, 'evenkeel_browser.js'),
    'evenkeel-browser-finetune': path.resolve(finetune, 'evenkeel_browser_finetune.js'),
  },
});
const chartStyle = await readFile(path.join(here, 'node_modules', 'uplot', 'dist', 'uPlot.min.css'), 'utf8');
await writeFile(path.join(out, 'style.css'), `${chartStyle}\n${await readFile(path.join(page, 'style.css'), 'utf8')}`);
await cp(path.join(page, 'icon.svg'), path.join(out, 'icon.svg'));
await writeFile(path.join(out, 'index.html'), await preloading(shared(metafile, 'main.js')));
for (const [folder, name] of [[wasm, 'evenkeel_browser_bg.wasm'], [finetune, 'evenkeel_browser_finetune_bg.wasm']]) {
  await cp(path.join(folder, name), path.join(out, name));
}
const documents = await Promise.all(['README.md', 'ARCHITECTURE.md'].map((name) => readFile(path.join(root, name), 'utf8')));
await writeFile(path.join(out, 'repository.txt'), documents.join(''));

/** Files that an entry point imports before it runs. */
function shared({ outputs }, entry) {
  const [, { imports }] = Object.entries(outputs).find(([file]) => path.basename(file) === entry);
  return imports.filter(({ kind }) => kind === 'import-statement').map((file) => path.basename(file.path));
}

/** The page, which has these files fetched at once. */
async function preloading(names) {
  const html = await readFile(path.join(page, 'index.html'), 'utf8');
  const first = '  <link rel="modulepreload" href="worker.js">\n';
  if (!html.includes(first)) throw new Error('index.html has another head than build.mjs expects');
  return html.replace(first, names.map((name) => first.replace('worker.js', name)).join('') + first);
}
