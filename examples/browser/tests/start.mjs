// node tests/start.mjs SITE [ROUNDS]
//
// What a visitor waits for: milliseconds from opening the page to the end of its first step, and to
// what comes before. Medians over rounds of a browser whose profile is empty, of the same tab opened
// again, and of a new browser with that profile.
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { launchIn, serve } from './harness.mjs';

const [site, rounds = '3'] = process.argv.slice(2);
if (!site) {
  console.error('usage: node tests/start.mjs SITE [ROUNDS]');
  process.exit(2);
}

const server = await serve(site);
const visits = { 'a first visit': [], 'the tab again': [], 'a new browser': [] };
for (let round = 0; round < Number(rounds); round += 1) {
  const profile = await mkdtemp(path.join(os.tmpdir(), 'evenkeel-profile-'));
  try {
    await inBrowser(profile, 'a first visit', 'the tab again');
    await inBrowser(profile, 'a new browser');
  } finally {
    await rm(profile, { recursive: true, force: true });
  }
}
server.close();

const names = Object.keys(visits['a first visit'][0]);
console.log(`| ms since opening | ${names.join(' | ')} |\n|---|${names.map(() => '---|').join('')}`);
for (const [visit, all] of Object.entries(visits)) {
  const cells = names.map((name) => Math.round(median(all.map((marks) => marks[name]))));
  console.log(`| ${visit} | ${cells.join(' | ')} |`);
}

/** Opens the page in a browser with this profile, once for each visit. */
async function inBrowser(profile, ...kinds) {
  const context = await launchIn(profile);
  const page = await context.newPage();
  // The longest time between two frames until the first step: whether the page goes on meanwhile.
  await page.addInitScript(() => {
    let [last, longest] = [performance.now(), 0];
    const frame = () => {
      const at = performance.now();
      longest = Math.max(longest, at - last);
      last = at;
      if (window.evenkeel?.marks['first step'] === undefined) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    Object.defineProperty(window, 'longestFrame', { get: () => longest });
  });
  for (const kind of kinds) {
    await page.goto(server.url);
    await page.waitForFunction(() => window.evenkeel?.marks['first step'] !== undefined, undefined, { timeout: 180_000 });
    const { marks, frame } = await page.evaluate(() => ({ marks: window.evenkeel.marks, frame: window.longestFrame }));
    visits[kind].push({ ...marks, 'longest frame': frame });
  }
  await context.close();
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}
