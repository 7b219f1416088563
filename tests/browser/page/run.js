// Runs the tests one after the other, in a page or in anything else that has WebGPU.

const PROGRAM = './evenkeel_browser_tests.js';
// Longer than the slowest test on the slowest software adapter, which compiles the largest kernels for
// minutes where it has half a core.
const LIMIT_MS = 600_000;

let compiled;
let instances = 0;

/** A fresh instance of the program: a panic ends the one it happens in. */
async function instantiate(wasm) {
  compiled ??= await WebAssembly.compile(wasm);
  instances += 1;
  const program = await import(`${PROGRAM}?${instances}`);
  const exports = await program.default({ module_or_path: compiled });
  return { names: program.names(), run: WebAssembly.promising(exports.run) };
}

/** Which test program a test is from. */
export const programOf = (name) => name.split('::')[0];

/**
 * Names of the tests that contain one of `filters`, or of all. Those that contain a filter behind a
 * `-` are left out.
 */
export async function testNames(wasm, filters) {
  const { names } = await instantiate(wasm);
  const wanted = filters.filter((filter) => !filter.startsWith('-'));
  const unwanted = filters.filter((filter) => filter.startsWith('-')).map((filter) => filter.slice(1));
  const isIn = (list) => (name) => list.some((filter) => name.includes(filter));
  const chosen = wanted.length ? names.filter(isIn(wanted)) : names;
  return chosen.filter((name) => !isIn(unwanted)(name));
}

/**
 * Runs the tests of these names, each program's in an instance of its own, and reports each as
 * `{ name, ok, ms, message }`.
 */
export async function runTests(wasm, wanted, report) {
  const failures = [];
  const error = console.error;
  console.error = (...words) => failures.push(words.join(' '));
  const onError = (event) => failures.push(String(event.error ?? event.reason ?? event.message));
  globalThis.addEventListener?.('error', onError);
  globalThis.addEventListener?.('unhandledrejection', onError);

  let instance = await instantiate(wasm);
  let program = null;
  for (const [index, name] of instance.names.entries()) {
    if (!wanted.includes(name)) continue;
    const next = programOf(name);
    if (program !== null && (next !== program || failures.length)) instance = await instantiate(wasm);
    program = next;
    failures.length = 0;
    const start = performance.now();
    let timer;
    const limit = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`still running after ${LIMIT_MS} ms`)), LIMIT_MS);
    });
    try {
      await Promise.race([instance.run(index), limit]);
    } catch (problem) {
      failures.push(String(problem));
    }
    clearTimeout(timer);
    const ms = Math.round(performance.now() - start);
    report({ name, ok: failures.length === 0, ms, message: failures.join('\n') });
  }
  console.error = error;
}
