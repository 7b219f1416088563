// node tests/finetune.mjs SITE [SCREENSHOTS] [EXCHANGE]
//
// What the page promises of fine-tuning, one test each, in order: they share a page and what it keeps.
import assert from 'node:assert/strict';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { unzipSync } from 'fflate';
import { Demo, FineTuning, PATIENCE } from './harness.mjs';
import { runAll } from './run.mjs';

/** A model of few parameters, with examples for it; `examples/tiny.rs` of the session wrote them. */
const TINY = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'finetune', 'tests', 'tiny');
/** A run of some steps on the tiny model; `finetune/tests/session.rs` has batch and context too. */
const STEPS = 16;
const QUICK = { steps: String(STEPS), rate: '0.01', batch: '4', context: '128', rank: '4', seed: '3' };
/** Files that only fine-tuning needs. */
const ITS_OWN = ['finetune.js', 'finetune-worker.js', 'evenkeel_browser_finetune_bg.wasm'];

/** The page with fine-tuning chosen. */
export async function open({ browser, url }) {
  const demo = await FineTuning.open(browser, url);
  await demo.idle();
  return demo;
}

export const tests = [
  {
    name: 'fine-tuning is fetched only once it is chosen, and the first task waits meanwhile',
    async run({ browser, url }) {
      const demo = await Demo.open(browser, url);
      await demo.until('a first step', (s) => s.received > 0);
      assert.deepEqual(demo.asked.filter((file) => ITS_OWN.includes(file)), []);
      assert.ok(await demo.page.isHidden('#tune'));
      // By keyboard: the two are radio buttons.
      await demo.page.focus('#choose-scratch');
      await demo.page.keyboard.press('ArrowRight');
      await demo.page.waitForFunction('window.evenkeel.fineTune?.state.busy === ""');
      for (const file of ITS_OWN) assert.ok(demo.asked.includes(file), `${file} is fetched: ${demo.asked}`);
      assert.ok(await demo.page.isVisible('#tune') && await demo.page.isHidden('#scratch'));
      assert.match(demo.page.url(), /#fine-tune$/);
      const { step } = await demo.until('a pause', (s) => !s.running);
      await demo.page.keyboard.press('ArrowLeft');
      await demo.until('more steps', (s, before) => s.running && s.step > before, PATIENCE, step);
      assert.ok(await demo.page.isHidden('#tune') && await demo.page.isVisible('#scratch'));
      await demo.close();
    },
  },
  {
    name: 'what is missing is said, and what to do',
    async run({ demo }) {
      const tiny = await tinyFiles();
      const found = async (...names) => {
        await choose(demo, Object.fromEntries(names.map((name) => [name, tiny[name] ?? Buffer.from('{}')])));
        return demo.page.textContent('#tune-found');
      };
      assert.match(await demo.page.textContent('#tune-found'), /No model yet.*No examples yet/);
      assert.match(await found('train.jsonl'), /No model yet.*Examples: train\.jsonl/);
      assert.match(await found('model.safetensors', 'tokenizer.json'), /no config\.json.*its folder/);
      assert.match(await found('model.safetensors', 'config.json'), /no tokenizer\.json/);
      assert.match(await found('model.safetensors', 'config.json', 'tokenizer.model'), /AutoTokenizer/);
      assert.match(await found('tokenizer.json', 'config.json'), /no weights: model\.safetensors/);
      assert.match(await found('tokenizer.json', 'config.json', 'pytorch_model.bin'), /old form/);
      assert.match(await found('adapter_config.json', 'adapter_model.safetensors'), /an adapter, not a model/);
      assert.match(await found('a.gguf', 'b.gguf'), /2 GGUF files \(a\.gguf, b\.gguf\)/);
      assert.match(await found('a.jsonl', 'b.jsonl'), /2 JSONL files \(a\.jsonl, b\.jsonl\).*train\.jsonl/);
      const index = Buffer.from(JSON.stringify({ weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } }));
      await choose(demo, { 'config.json': tiny['config.json'], 'tokenizer.json': tiny['tokenizer.json'], 'model.safetensors.index.json': index, 'model-1.safetensors': index });
      assert.match(await demo.page.textContent('#tune-found'), /model-2\.safetensors is missing/);
      assert.ok(await demo.page.isDisabled('#tune-prepare'));
      await choose(demo, { 'notes.txt': Buffer.from('nothing') });
      assert.match((await demo.state()).alert, /Nothing here to learn with/);
      assert.deepEqual(await demo.kept(), [], 'nothing is kept before a run is opened');
    },
  },
  {
    name: 'a folder is chosen and loaded; damaged files and settings out of range are told',
    async run({ demo }) {
      const tiny = await tinyFiles();
      await choose(demo, { ...tiny, 'model.safetensors': tiny['model.safetensors'].subarray(0, 100) });
      assert.match((await demo.start(QUICK)).alert, /model\.safetensors/);
      await choose(demo, { 'train.jsonl': Buffer.from('{"prompt": "a", "completion": "b"}\nnonsense\n') });
      await choose(demo, without(tiny, 'train.jsonl', 'valid.jsonl'));
      assert.match((await demo.start(QUICK)).alert, /These examples will not do.*2/s);

      await chooseTiny(demo);
      assert.match(await demo.page.textContent('#tune-found'), /Model: .*Examples: train\.jsonl and valid\.jsonl/);
      await demo.page.fill('#tune-rank', '0');
      await demo.page.click('#tune-prepare');
      assert.equal(await demo.page.evaluate(() => document.querySelector('#tune-form :invalid').id), 'tune-rank');
      const { report, alert, step } = await demo.start(QUICK);
      assert.equal(alert, '');
      assert.equal(step, 0);
      assert.ok(report.trained > 0 && report.trained < report.parameters && report.bytes > 0, JSON.stringify(report));
      assert.match(await demo.page.textContent('#tune-report'), /Memory on the device.+KB|MB/);
      assert.ok((await demo.kept()).includes('finetune/model/model.safetensors'));
      assert.match(await demo.page.textContent('#tune-status'), /^Ready\./);
      await demo.page.waitForFunction(() => document.activeElement.id === 'tune-train');
    },
  },
  {
    name: 'it learns: the loss falls, a NaN is skipped, charts and time left are shown',
    async run({ demo, screenshots }) {
      await demo.advance(4);
      await demo.page.click('#tune-nan');
      const { faults } = await demo.until('the fault', (s) => s.faults.length > 0);
      const state = await demo.finish();
      assert.equal(state.alert, '');
      assert.equal(state.received, STEPS, 'telemetry of every step');
      assert.deepEqual(state.skipped, [faults[0].step]);
      assert.match(await demo.event('Skipped').first().textContent(), /NaN or Inf/);
      const losses = (await demo.losses()).map(([, loss]) => loss).filter((loss) => loss !== null);
      const [first, last] = [mean(losses.slice(0, 3)), mean(losses.slice(-3))];
      assert.ok(last < 0.9 * first, `losses ${losses}`);
      assert.ok(state.validation.at(-1) < state.validation[0], `validation ${state.validation}`);
      assert.ok(state.speed > 0);
      assert.match(await demo.page.textContent('#tune-status'), /^Trained\. Step 16 of 16/);
      assert.equal(await demo.page.textContent('#tune-stat-left'), '0 s');
      await demo.shoot(screenshots, 'fine-tuning', true);
      return `loss ${first.toFixed(2)}, then ${last.toFixed(2)}; validation ${state.validation[0].toFixed(2)}, then ${state.validation.at(-1).toFixed(2)}`;
    },
  },
  {
    name: 'pause, reload, resume: the adapter has the bytes of a run that was not reloaded',
    async run({ demo, exchange, screenshots }) {
      await demo.start(QUICK);
      await demo.finish();
      const expected = await demo.download('#tune-save-weights');
      const losses = await demo.losses();
      const { validation } = await demo.state();

      await demo.start(QUICK);
      assert.equal(await demo.page.textContent('#tune-stat-validation'), '–');
      await demo.advance(5);
      const { step } = await demo.advance(4);
      await demo.reload();
      await demo.shoot(screenshots, 'fine-tuning-kept');
      assert.match(await demo.page.textContent('#tune-kept-title'), new RegExp(`^Go on with .+, step ${step} of ${STEPS}\\?$`));
      assert.equal(await demo.page.inputValue('#tune-rate'), QUICK.rate, 'the settings are those of the run');
      await demo.resume();
      const end = await demo.finish();
      assert.deepEqual(await demo.losses(), losses, 'the same losses to the last bit, those before the reload too');
      assert.equal(end.validation.at(-1), validation.at(-1));
      const found = await demo.download('#tune-save-weights');
      assert.ok(found.bytes.equals(expected.bytes), 'the same adapter to the last bit');

      const zip = await demo.download('#tune-save');
      assert.match(zip.name, new RegExp(`-lora-step${STEPS}\\.zip$`));
      const files = unzipSync(zip.bytes);
      assert.deepEqual(Object.keys(files).sort(), ['adapter_config.json', 'adapter_model.safetensors']);
      assert.ok(Buffer.from(files['adapter_model.safetensors']).equals(found.bytes));
      const config = await demo.download('#tune-save-config');
      assert.equal(JSON.parse(config.bytes.toString()).r, Number(QUICK.rank));

      const lines = (await demo.download('#tune-save-metrics')).bytes.toString().trim().split('\n').map((line) => JSON.parse(line));
      assert.deepEqual(lines.map((line) => line.step), losses.map(([at]) => at), 'a line for every step, those before the reload too');
      for (const [at, loss] of losses) assert.equal(Math.fround(lines[at].loss), Math.fround(loss));
      if (exchange) await leave(exchange, files, validation.at(-1));
    },
  },
  {
    name: 'a state that was cut off while it was written is passed over for the one before',
    async run({ demo }) {
      await demo.start(QUICK);
      await demo.advance(3);
      await demo.advance(3);
      await demo.reload();
      await cutNewestState(demo);
      await demo.reload();
      assert.match(await demo.page.textContent('#tune-kept-title'), /step 3 of/);
      const { step, alert } = await demo.resume();
      assert.equal(alert, '');
      assert.ok(step >= 3);
      await demo.finish();
    },
  },
  {
    name: 'chat: it answers in pieces with and without the adapter, is stopped, and training goes on',
    async run({ demo, screenshots }) {
      await demo.start({ ...QUICK, steps: '400' });
      await demo.page.click('#tune-train');
      await demo.until('steps', (s) => s.step >= 2);
      await demo.page.fill('#tune-temperature', '0');
      await demo.page.evaluate(() => {
        window.pieces = [];
        const answer = () => document.querySelector('#tune-chat .assistant:last-of-type')?.textContent ?? '';
        new MutationObserver(() => window.pieces.push(answer())).observe(document.getElementById('tune-chat'), { childList: true, subtree: true, characterData: true });
      });
      await say(demo, 'What is a keel?');
      const one = await demo.until('an answer', (s) => s.messages.length === 2 && !s.answering);
      assert.ok(one.messages[1].content.length > 0);
      const pieces = new Set(await demo.page.evaluate(() => window.pieces));
      assert.ok(pieces.size > 1, `it comes in pieces: ${[...pieces]}`);
      await demo.until('that training goes on', (s, before) => s.running && s.step > before + 1, PATIENCE, one.step);

      await demo.page.uncheck('#tune-adapted');
      await say(demo, 'What is a keel?');
      await demo.until('an answer without the adapter', (s) => s.messages.length === 4 && !s.answering);
      assert.match(await demo.page.textContent('#tune-chat'), /without what it learned/);
      await demo.shoot(screenshots, 'fine-tuning-chat', true);
      await demo.page.check('#tune-adapted');
      await say(demo, 'Who clips the gradients?');
      await demo.page.click('#tune-chat-stop');
      const stopped = await demo.until('that it stops', (s) => !s.answering);
      await demo.until('that training goes on', (s, before) => s.running && s.step > before, PATIENCE, stopped.step);
      await demo.page.click('#tune-chat-clear');
      assert.deepEqual((await demo.state()).messages, []);
    },
  },
  {
    name: 'stopped here: it is saved, and can go on',
    async run({ demo }) {
      await demo.page.click('#tune-stop');
      const { step } = await demo.until('a stop', (s) => !s.running && s.saved === s.step);
      await demo.event('Stopped here').first().waitFor();
      await demo.page.click('#tune-train');
      await demo.until('more steps', (s, before) => s.running && s.step > before, PATIENCE, step);
    },
  },
  {
    name: 'a hidden page saves, the other task pauses it, and a lost device is replaced',
    async run({ demo, screenshots }) {
      const { saved } = await demo.state();
      await demo.page.evaluate(() => {
        Object.defineProperty(document, 'hidden', { value: true, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
        Object.defineProperty(document, 'hidden', { value: false, configurable: true });
      });
      await demo.until('a state of now', (s, before) => s.saved > before, PATIENCE, saved);
      await demo.page.check('#choose-scratch');
      const { step } = await demo.until('a pause', (s) => !s.running && s.away);
      await demo.page.check('#choose-tune');
      await demo.until('more steps', (s, before) => s.running && s.step > before, PATIENCE, step);

      await demo.page.evaluate(() => { document.getElementById('tune-developer').open = true; });
      await demo.page.click('#tune-lose');
      await demo.page.getByText('The GPU device was lost, and the run goes on.').waitFor();
      const after = await demo.until('more steps', (s) => s.running && s.step > s.snapshot + 2);
      assert.ok(after.step > 0 && after.busy === '');
      assert.match(await demo.page.textContent('#tune-status'), /^Training\./);
      await demo.shoot(screenshots, 'fine-tuning-device-lost');
    },
  },
  {
    name: 'another tab says that this one is fine-tuning',
    async run({ demo, url }) {
      const other = await FineTuning.openIn(demo.context, url);
      await other.until('why it does not', (s) => s.alert.includes('Another tab is fine-tuning'));
      await other.page.close();
      other.check();
    },
  },
  {
    name: 'files are dropped; a GGUF file is told from a folder',
    async run({ demo }) {
      await demo.pause();
      const drop = async (files) => {
        const data = await demo.page.evaluateHandle((all) => {
          const transfer = new DataTransfer();
          for (const [name, text] of Object.entries(all)) transfer.items.add(new File([text], name));
          return transfer;
        }, files);
        await demo.page.dispatchEvent('#tune', 'drop', { dataTransfer: data });
      };
      await drop({ 'small.gguf': 'GGUF', 'pairs.jsonl': '{"text": "a"}' });
      await demo.page.waitForFunction(() => /Model: small, 1 file.*Examples: pairs\.jsonl/s.test(document.getElementById('tune-found').textContent));
      const { alert } = await demo.start({});
      assert.match(alert, /small\.gguf/, 'a GGUF file that is none is refused by name');
      await chooseTiny(demo);
      await demo.start(QUICK);
    },
  },
  {
    name: 'by keyboard: every control of a run is reached and named',
    async run({ demo }) {
      const { page } = demo;
      await page.evaluate(() => { for (const fold of document.querySelectorAll('details')) fold.open = true; });
      await page.focus('#choose-tune');
      const reached = [];
      for (let i = 0; i < 70; i += 1) {
        await page.keyboard.press('Tab');
        const at = await page.evaluate(() => {
          const element = document.activeElement;
          if (!element || element === document.body) return null;
          const name = element.getAttribute('aria-label') || element.labels?.[0]?.textContent || element.textContent;
          return { id: element.id || element.tagName, name: name.trim(), outline: getComputedStyle(element).outlineStyle };
        });
        if (!at) break;
        assert.ok(at.name, `${at.id} has a name`);
        assert.notEqual(at.outline, 'none', `${at.id} shows its focus`);
        reached.push(at.id);
      }
      for (const id of ['train', 'folder', 'files', 'steps', 'rate', 'batch', 'context', 'rank', 'layers', 'base', 'targets', 'mask', 'alpha', 'dropout', 'clip',
        'seed', 'recompute', 'prepare', 'message', 'send', 'chat-clear', 'temperature', 'adapted', 'nan', 'save', 'save-config', 'save-weights',
        'save-metrics', 'forget-all', 'lose']) {
        assert.ok(reached.includes(`tune-${id}`), `${id} is reached by Tab: ${reached}`);
      }
    },
  },
  {
    name: 'phone and dark: nothing wider than 360 pixels, colours follow the system',
    async run({ demo, screenshots }) {
      await demo.page.setViewportSize({ width: 360, height: 740 });
      const wide = await demo.page.evaluate(() => ({ page: document.documentElement.scrollWidth, screen: innerWidth }));
      assert.ok(wide.page <= 360 && wide.screen === 360, JSON.stringify(wide));
      const small = await demo.page.$$eval('#tune button, #tune select, #tune input:not([type=file]), .tasks input', (controls) => controls
        .filter((c) => c.offsetParent && c.getBoundingClientRect().height < 24).map((c) => c.id));
      assert.deepEqual(small, [], 'controls are large enough to touch');
      await demo.page.emulateMedia({ colorScheme: 'dark' });
      assert.equal(await demo.page.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(14, 21, 20)');
      await demo.shoot(screenshots, 'fine-tuning-phone');
    },
  },
  {
    name: 'forget leaves nothing in the private file system',
    async run({ demo }) {
      await demo.advance(1);
      assert.ok((await demo.kept()).length > 4);
      await demo.page.click('#tune-forget-all');
      await demo.page.getByText('nothing of it is left').waitFor();
      assert.deepEqual(await demo.kept(), []);
      await demo.reload();
      assert.ok(await demo.page.isHidden('#tune-kept'));
      assert.match(await demo.page.textContent('#tune-found'), /No model yet/);
    },
  },
];

/** The files of the tiny model and its examples: {name: bytes}. */
async function tinyFiles() {
  const names = await readdir(TINY);
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await readFile(path.join(TINY, name))])));
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const without = (files, ...names) => Object.fromEntries(Object.entries(files).filter(([name]) => !names.includes(name)));

/** Chooses files, {name: bytes}, through the input for files. */
async function choose(demo, files) {
  const list = Object.entries(files).map(([name, buffer]) => ({ name, mimeType: 'application/octet-stream', buffer }));
  await demo.page.setInputFiles('#tune-files', list);
  // The input is empty again once all was looked at.
  await demo.page.waitForFunction(() => document.getElementById('tune-files').files.length === 0);
}

/** Chooses the folder of the tiny model, which has the examples too. */
async function chooseTiny(demo) {
  await demo.page.setInputFiles('#tune-folder', TINY);
  await demo.page.waitForFunction(() => document.getElementById('tune-folder').files.length === 0);
}

/** Leaves half of the state that was written last, as a crash would. */
function cutNewestState(demo) {
  return demo.page.evaluate(async () => {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('finetune');
    const states = await Promise.all(['state-0', 'state-1'].map(async (name) => {
      const handle = await folder.getFileHandle(name);
      const bytes = await (await handle.getFile()).arrayBuffer();
      // Behind a checksum of 32 bytes and 8 that say what it is.
      return { handle, bytes, number: new DataView(bytes).getFloat64(40, true) };
    }));
    const newest = states.reduce((a, b) => (a.number > b.number ? a : b));
    const writable = await newest.handle.createWritable();
    await writable.write(newest.bytes.slice(0, newest.bytes.byteLength / 2));
    await writable.close();
  });
}

async function say(demo, text) {
  await demo.page.fill('#tune-message', text);
  await demo.page.press('#tune-message', 'Enter');
  await demo.until('that it answers', (s, said) => s.messages.at(-1)?.content === said || s.messages.at(-2)?.content === said || s.alert !== '', PATIENCE, text);
}

/** Leaves the adapter for a native program, and the validation loss with it. */
async function leave(folder, files, loss) {
  for (const [name, bytes] of Object.entries(files)) await writeFile(path.join(folder, name), bytes);
  await writeFile(path.join(folder, 'finetune.loss'), String(loss));
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await runAll('tests/finetune.mjs', [{ open, tests }]);
