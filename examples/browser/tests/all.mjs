// node tests/all.mjs SITE [SCREENSHOTS] [EXCHANGE]
//
// Tests of the built page in headless Chromium, on whatever adapter it has (SwiftShader where there
// is no GPU). SCREENSHOTS is a folder for pictures, EXCHANGE one for a checkpoint that a native
// program goes on with. The exit code says whether all passed.
import { Demo, launch, serve } from './harness.mjs';
import { tests } from './page.mjs';

const [site, screenshots, exchange] = process.argv.slice(2);
if (!site) {
  console.error('usage: node tests/all.mjs SITE [SCREENSHOTS] [EXCHANGE]');
  process.exit(2);
}
const only = process.env.ONLY;
const server = await serve(site);
const browsers = { webgpu: await launch(), none: await launch({ webgpu: false }) };
let failed = 0;
let passed = 0;
const start = Date.now();
const demo = await Demo.open(browsers.webgpu, server.url);
await demo.until('a first step', (s) => s.received > 0);
for (const { name, webgpu = true, run } of tests) {
  if (only && !name.includes(only)) continue;
  const began = Date.now();
  const seconds = () => `${((Date.now() - began) / 1000).toFixed(1)} s`;
  try {
    await demo.refresh();
    const said = await run({ demo, browser: browsers[webgpu ? 'webgpu' : 'none'], url: server.url, site, screenshots, exchange });
    demo.check();
    passed += 1;
    console.log(`ok      ${name} (${seconds()})${said ? `: ${said}` : ''}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name} (${seconds()})\n${error.stack}\n`, demo.problems.splice(0));
  }
}
await demo.close();
for (const browser of Object.values(browsers)) await browser.close();
server.close();
const ok = failed === 0 && passed > 0;
// As Rust's test harness writes it.
console.log(`\ntest result: ${ok ? 'ok' : 'FAILED'}. ${passed} passed; ${failed} failed; 0 ignored; finished in ${((Date.now() - start) / 1000).toFixed(0)}s\n`);
process.exit(ok ? 0 : 1);
