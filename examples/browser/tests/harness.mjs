// A server for the built page, a browser for it, and a page whose every error is kept.
import assert from 'node:assert/strict';
import http from 'node:http';
import { readFile } from 'node:fs/promises';
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

export function launch({ webgpu = true } = {}) {
  const executablePath = process.env.CHROME ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, headless: true, chromiumSandbox: false, args: webgpu ? [WEBGPU, ...QUIET] : QUIET });
}

/** The page under test. */
export class Demo {
  /** Opens the page; `options` are those of a browser context. */
  static async open(browser, url, options = {}) {
    const context = await browser.newContext({ viewport: DESKTOP, reducedMotion: 'reduce', ...options });
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    const demo = new Demo(context, page, url);
    await page.goto(url);
    return demo;
  }

  constructor(context, page, url) {
    Object.assign(this, { context, page, problems: [] });
    page.on('pageerror', (error) => this.problems.push(`page error: ${error.message}`));
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) this.problems.push(`console ${message.type()}: ${message.text()}`);
    });
    page.on('request', (request) => {
      const asked = request.url();
      if (!asked.startsWith(url) && !asked.startsWith('blob:')) this.problems.push(`a request to another host: ${asked}`);
    });
    page.on('requestfailed', (request) => this.problems.push(`request failed: ${request.url()}`));
  }

  state() {
    return this.page.evaluate(() => window.evenkeel.state);
  }

  /** Waits until `test` holds of the state; says what the state was if it never does. */
  async until(what, test, timeout = PATIENCE, argument = undefined) {
    const body = `(argument) => { const s = window.evenkeel.state; return (${test})(s, argument); }`;
    try {
      await this.page.waitForFunction(`(${body})(${JSON.stringify(argument ?? null)})`, undefined, { timeout, polling: 50 });
    } catch (error) {
      const state = await this.state();
      const alert = await this.page.locator('#alert').textContent();
      throw new Error(`${what} did not come about in ${timeout} ms: ${error.message.split('\n')[0]}; step ${state.step}, loss ${state.smooth}; ${alert.trim()}`);
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
    return this.page.evaluate(() => window.evenkeel.losses);
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
