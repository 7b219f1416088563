// Runs tests of the built page, and says which passed.
import { launch, serve } from './harness.mjs';

const USAGE = 'SITE [SCREENSHOTS] [EXCHANGE]';

/**
 * Runs suites, {open({browser, url}), tests}, each on one page, with the arguments of the command line;
 * ends the process. ONLY in the environment chooses tests by a part of their names.
 */
export async function runAll(script, suites) {
  const [site, screenshots, exchange] = process.argv.slice(2);
  if (!site) {
    console.error(`usage: node ${script} ${USAGE}`);
    process.exit(2);
  }
  const only = process.env.ONLY;
  const server = await serve(site);
  const browsers = { webgpu: await launch(), none: await launch({ webgpu: false }) };
  const start = Date.now();
  const count = { passed: 0, failed: 0 };
  for (const { open, tests } of suites) {
    const chosen = tests.filter(({ name }) => !only || name.includes(only));
    if (chosen.length === 0) continue;
    const demo = await open({ browser: browsers.webgpu, url: server.url });
    for (const { name, webgpu = true, run } of chosen) {
      const browser = browsers[webgpu ? 'webgpu' : 'none'];
      const passed = await runOne(name, demo, () => run({ demo, browser, url: server.url, site, screenshots, exchange }));
      count[passed ? 'passed' : 'failed'] += 1;
    }
    await demo.close();
  }
  for (const browser of Object.values(browsers)) await browser.close();
  server.close();
  const ok = count.failed === 0 && count.passed > 0;
  const seconds = ((Date.now() - start) / 1000).toFixed(0);
  // As Rust's test harness writes it.
  console.log(`\ntest result: ${ok ? 'ok' : 'FAILED'}. ${count.passed} passed; ${count.failed} failed; 0 ignored; finished in ${seconds}s\n`);
  process.exit(ok ? 0 : 1);
}

async function runOne(name, demo, run) {
  const began = Date.now();
  const seconds = () => `${((Date.now() - began) / 1000).toFixed(1)} s`;
  try {
    await demo.refresh();
    const said = await run();
    demo.check();
    console.log(`ok      ${name} (${seconds()})${said ? `: ${said}` : ''}`);
    return true;
  } catch (error) {
    console.log(`FAILED  ${name} (${seconds()})\n${error.stack}\n`, demo.problems.splice(0));
    return false;
  }
}
