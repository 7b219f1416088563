// A server for the built page, a browser for it, and a page whose every error is kept.
import assert from 'node:assert/strict';
import http from 'node:http';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { chromium } from 'playwright-core';

const TYPES = {
  '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
};
const QUIET = ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
/** Headless Chromium offers WebGPU only with this; without a GPU its adapter is SwiftShader. */
const WEBGPU = '--enable-unsafe-webgpu';

const DESKTOP = { width: 1280, height: 900 };
/** How long anything may take, in ms: only what never happens takes longer, even on a busy machine. PATIENCE in the environment sets it. */
export const PATIENCE = Number(process.env.PATIENCE ?? 180_000);

/** Serves a folder on this machine; returns its address and how to end it. */
export async function serve(folder) {
  const server = http.createServer(async (request, response) => {
    const name = new URL(request.url, 'http://localhost').pathname;
    const file = path.join(folder, path.normalize(name === '/' ? '/index.html' : name));
    try {
      const body = await readFile(file);
      response.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://localhost:${server.address().port}/`, close: () => server.close() };
}

const OPTIONS = { executablePath: process.env.CHROME ?? '/usr/bin/chromium', headless: true, chromiumSandbox: false };

export function launch({ webgpu = true } = {}) {
  return chromium.launch({ ...OPTIONS, args: webgpu ? [WEBGPU, ...QUIET] : QUIET });
}

/** A browser that keeps what it keeps in a folder. */
export function launchIn(profile) {
  return chromium.launchPersistentContext(profile, { ...OPTIONS, args: [WEBGPU, ...QUIET] });
}

/** The page under test. */
export class Demo {
  /** Opens the page; `options` are those of a browser context. */
  static async open(browser, url, options = {}) {
    const context = await browser.newContext({ viewport: DESKTOP, reducedMotion: 'reduce', ...options });
    context.setDefaultTimeout(PATIENCE);
    return this.openIn(context, url);
  }

  /** Opens it in another tab of a context. */
  static async openIn(context, url) {
    const page = await context.newPage();
    const demo = new this(context, page, new URL('/', url).href);
    await page.goto(url);
    return demo;
  }

  constructor(context, page, url) {
    // What of the page is looked at, and what was asked of the server.
    Object.assign(this, { context, page, problems: [], looked: 'window.evenkeel', asked: [] });
    page.on('pageerror', (error) => this.problems.push(`page error: ${error.message}`));
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) this.problems.push(`console ${message.type()}: ${message.text()}`);
    });
    page.on('request', (request) => {
      const asked = request.url();
      this.asked.push(asked.slice(url.length));
      if (!asked.startsWith(url) && !asked.startsWith('blob:')) this.problems.push(`a request to another host: ${asked}`);
    });
    page.on('requestfailed', (request) => this.problems.push(`request failed: ${request.url()}`));
  }

  state() {
    return this.page.evaluate(`${this.looked}?.state`);
  }

  /** Waits until `test` holds of the state; says what the state was if it never does. */
  async until(what, test, timeout = PATIENCE, argument = undefined) {
    const body = `(argument) => { const s = ${this.looked}?.state; return s && (${test})(s, argument); }`;
    try {
      await this.page.waitForFunction(`(${body})(${JSON.stringify(argument ?? null)})`, undefined, { timeout, polling: 50 });
    } catch (error) {
      const state = await this.state();
      const alert = await this.page.locator('#alert').textContent();
      throw new Error(`${what} did not come about in ${timeout} ms: ${error.message.split('\n')[0]}; step ${state?.step}, loss ${state?.smooth}; ${alert.trim()}`);
    }
    return this.state();
  }

  /** Takes exactly `steps` steps from a pause, and pauses. */
  async advance(steps) {
    if ((await this.state()).running) await this.pause();
    const before = (await this.state()).step;
    await this.page.evaluate(() => { document.getElementById('developer').open = true; });
    await this.page.fill('#advance', String(steps));
    await this.page.click('#advance-form button');
    return this.until(`step ${before + steps}`, (s, end) => s.step === end && !s.running, PATIENCE, before + steps);
  }

  /** Pauses, and waits until nothing runs. */
  async pause() {
    await this.page.click('#pause');
    return this.until('a pause', (s) => !s.running);
  }

  /** Sets controls by their ids and starts a new run. */
  async start(values = {}) {
    for (const [id, value] of Object.entries(values)) {
      const control = this.page.locator(`#${id}`);
      const kind = await control.evaluate((element) => element.tagName);
      if (kind === 'SELECT') await control.selectOption(value);
      else await control.fill(value);
    }
    const run = (await this.state()).run;
    await this.page.click('#start');
    await this.until('a new run, or why there is none', (s, before) => (s.run > before && s.received > 0) || s.alert !== '', PATIENCE, run);
  }

  losses() {
    return this.page.evaluate(`${this.looked}.losses`);
  }

  /** Sets the controls and the window as they were when the page was opened. */
  async refresh() {
    const { page } = this;
    await page.setViewportSize(DESKTOP);
    await page.emulateMedia({ colorScheme: 'light' });
    if (!(await page.isChecked('#stability'))) await page.click('#stability');
    for (const [id, value] of [['learning-rate', '6'], ['clip', '3']]) {
      if ((await page.inputValue(`#${id}`)) === value) continue;
      await page.fill(`#${id}`, value);
      await page.dispatchEvent(`#${id}`, 'change');
    }
    for (const [id, value] of [['size', 'tiny'], ['precision', 'f32']]) await page.selectOption(`#${id}`, value);
    await page.fill('#seed', '1');
  }

  /** Leaves a picture of the window, or of the whole page, in a folder if there is one. */
  async shoot(folder, name, fullPage = false) {
    if (!folder) return;
    await mkdir(folder, { recursive: true });
    await this.page.evaluate(() => { document.activeElement?.blur(); scrollTo(0, 0); });
    await this.page.screenshot({ path: path.join(folder, `browser-${name}.png`), fullPage });
  }

  event(text) {
    return this.page.locator('#events li', { hasText: text });
  }

  /** Fails if anything went wrong on the page since the last call. */
  check() {
    assert.deepEqual(this.problems.splice(0), [], 'the page had errors or warnings');
  }

  async close() {
    await this.context.close();
    this.check();
  }
}

/** The page under test, with fine-tuning chosen. */
export class FineTuning extends Demo {
  static openIn(context, url) {
    return super.openIn(context, new URL('#fine-tune', url).href);
  }

  constructor(...parts) {
    super(...parts);
    this.looked = 'window.evenkeel.fineTune';
  }

  /** Until nothing is copied, loaded or looked for. */
  idle() {
    return this.until('that nothing is loaded', (s) => s.busy === '' || s.alert !== '');
  }

  /** As when the visitor reloads. */
  async reload() {
    await this.page.reload();
    return this.idle();
  }

  /** Sets controls by their ids and opens a new run. */
  async start(values = {}) {
    await this.page.evaluate(() => { for (const fold of document.querySelectorAll('#tune-setup, #tune-setup details')) fold.open = true; });
    for (const [id, value] of Object.entries(values)) {
      const control = this.page.locator(`#tune-${id}`);
      const kind = await control.evaluate((element) => (element.tagName === 'SELECT' ? 'select' : element.type));
      if (kind === 'select') await control.selectOption(value);
      else if (kind === 'checkbox') await control.setChecked(value);
      else await control.fill(value);
    }
    const { runs } = await this.state();
    await this.page.click('#tune-prepare');
    return this.until('a run, or why there is none', (s, before) => (s.runs > before && s.busy === '') || s.alert !== '', PATIENCE, runs);
  }

  /** Goes on with what is kept. */
  async resume() {
    const { runs } = await this.state();
    await this.page.click('#tune-resume');
    return this.until('the run that was kept', (s, before) => (s.runs > before && s.busy === '') || s.alert !== '', PATIENCE, runs);
  }

  async advance(steps) {
    const before = (await this.state()).step;
    await this.page.evaluate(() => { document.getElementById('tune-developer').open = true; });
    await this.page.fill('#tune-advance', String(steps));
    await this.page.click('#tune-advance-form button');
    return this.until(`step ${before + steps}`, (s, end) => s.step === end && s.saved === end && !s.wanted, PATIENCE, before + steps);
  }

  async pause() {
    await this.page.click('#tune-train');
    return this.until('a pause', (s) => !s.running && s.saved === s.step);
  }

  /** Trains to the last step. */
  async finish() {
    const { wanted, done } = await this.state();
    if (!wanted && !done) await this.page.click('#tune-train');
    return this.until('the end', (s) => s.done && s.saved === s.step);
  }

  /** Clicks a button that offers a file, and takes it. */
  async download(button) {
    const [download] = await Promise.all([this.page.waitForEvent('download'), this.page.click(button)]);
    return { name: download.suggestedFilename(), bytes: await readFile(await download.path()) };
  }

  /** Names of what the origin's private file system holds, folders' contents behind their names. */
  kept() {
    return this.page.evaluate(async () => {
      const names = [];
      const walk = async (folder, before) => {
        for await (const [name, handle] of folder) {
          if (handle.kind === 'directory') await walk(handle, `${before}${name}/`);
          else names.push(before + name);
        }
      };
      await walk(await navigator.storage.getDirectory(), '');
      return names.sort();
    });
  }

  async refresh() {
    await this.page.setViewportSize(DESKTOP);
    await this.page.emulateMedia({ colorScheme: 'light' });
  }

  event(text) {
    return this.page.locator('#tune-events li', { hasText: text });
  }
}
