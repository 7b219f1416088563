// Trains the same models with evenkeel, TensorFlow.js and jax-js in headless Chromium and prints
// how fast each is. See README.md.
import { execFile } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { parseArgs, promisify } from "node:util";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";
import { chromium } from "playwright-core";
import { GPTS, MLP } from "./problem.js";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    native: { type: "string" },
    icd: { type: "string" },
    chromium: { type: "string", default: "/usr/bin/chromium" },
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "2" },
    cases: { type: "string", default: "mlp,gpt,gpt-0.8m+clip" },
    programs: { type: "string", default: "evenkeel,tfjs,jax" },
  },
});
const [wasmFolder] = positionals;
if (!wasmFolder) {
  console.error("usage: node run.mjs FOLDER_OF_THE_WASM_BUILD [--native PROGRAM --icd FILE] ...");
  process.exit(2);
}

/** Steps behind the first one, in which everything is compiled, before time is taken. */
const WARMUP = 1;
/** Timed steps at least, so that all runs have the losses of 1 + 1 + 2 steps. */
const LEAST = 2;
/** Steps whose calls of WebGPU are counted, in the first round. */
const COUNTED = 2;
/** First steps whose losses are compared; later ones magnify every rounding. */
const COMPARED = 30;
/** Relative difference of losses above which programs do not train the same. */
const TOLERANCE = 1e-4;

const here = import.meta.dirname;
const wasmFile = (end) => {
  const name = fs.readdirSync(wasmFolder).find((name) => name.endsWith(end));
  if (!name) throw new Error(`${wasmFolder} holds no ${end}: build the wasm first`);
  return path.join(wasmFolder, name);
};
const wasm = fs.readFileSync(wasmFile("_bg.wasm"));
const glue = path.resolve(wasmFile("_bg.wasm").replace(/_bg\.wasm$/, ".js"));

/** A program as the browser loads it: path to content. */
async function bundle(name) {
  const { outputFiles } = await esbuild.build({
    entryPoints: [path.join(here, `${name}.js`)],
    alias: { "evenkeel-wasm": glue },
    bundle: true,
    minify: true,
    format: "esm",
    write: false,
    logLevel: "warning",
    // The build's default path of the wasm file, which the page does not use.
    define: { "import.meta.url": "location.href" },
  });
  const files = { "/program.js": Buffer.from(outputFiles[0].contents) };
  if (name === "evenkeel") files["/evenkeel.wasm"] = wasm;
  return files;
}

const TYPES = { ".js": "text/javascript", ".wasm": "application/wasm" };

function serve(files) {
  const icon = '<link rel="icon" href="data:,">';
  const page = `<!doctype html>${icon}<script type="module" src="/program.js"></script>`;
  const server = http.createServer((request, response) => {
    const type = TYPES[path.extname(request.url)] ?? "text/html";
    response.writeHead(200, { "content-type": type });
    response.end(files[request.url] ?? page);
  });
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server)));
}

let chromiumVersion = "not run";

/** One page in a browser of its own, so that nothing is compiled or cached before. */
async function inBrowser(files, measurement, counted) {
  const server = await serve(files);
  const browser = await chromium.launch({
    executablePath: options.chromium,
    chromiumSandbox: false,
    args: ["--enable-unsafe-webgpu"],
  });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(120_000);
    const failed = new Promise((_, reject) => page.on("pageerror", reject));
    failed.catch(() => {});
    page.on("console", (message) => {
      if (message.type() === "error") console.error(message.text());
    });
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    const work = async () => {
      await page.waitForFunction(() => document.title === "ready");
      const report = await page.evaluate((m) => window.measure(m), measurement);
      chromiumVersion = browser.version();
      if (counted) report.counts = await page.evaluate((n) => window.count(n), COUNTED);
      return report;
    };
    return await Promise.race([work(), failed]);
  } finally {
    await browser.close();
    server.close();
  }
}

/** evenkeel without a browser. */
async function natively({ model, clip, warmup, least, milliseconds }) {
  const env = { ...process.env, WGPU_BACKEND: "vulkan" };
  // Old loaders know only the second name.
  if (options.icd) env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = options.icd;
  const args = [model, clip ? "clip" : "plain", warmup, least, milliseconds].map(String);
  const { stdout } = await promisify(execFile)(options.native, args, { env });
  return JSON.parse(stdout);
}

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};
const table = (head, rows) => {
  console.log(`| ${head.join(" | ")} |\n|${head.map(() => "---|").join("")}`);
  for (const row of rows) console.log(`| ${row.join(" | ")} |`);
  console.log();
};

/** The largest relative difference of the losses of the first steps that both have. */
function difference(losses, reference) {
  const common = Math.min(losses.length, reference.length, COMPARED);
  const relative = (i) => Math.abs(losses[i] - reference[i]) / Math.abs(reference[i]);
  return Math.max(...Array.from({ length: common }, (_, i) => relative(i)));
}

const TITLES = {
  evenkeel: "evenkeel",
  native: "evenkeel, native",
  tfjs: "TensorFlow.js",
  jax: "jax-js",
};
/** The version of a package that is installed here. */
const version = (name) => {
  const file = path.join(here, "node_modules", name, "package.json");
  return JSON.parse(fs.readFileSync(file, "utf8")).version;
};
const programs = options.programs.split(",");
const bundles = Object.fromEntries(
  await Promise.all(programs.map(async (name) => [name, await bundle(name)])),
);
const all = options.native ? [...programs, "native"] : programs;

let agree = true;
let learn = true;
for (const name of options.cases.split(",")) {
  const [model, clip] = name.split("+");
  const milliseconds = Number(options.seconds) * 1000;
  const measurement = { model, clip: clip === "clip", warmup: WARMUP, least: LEAST, milliseconds };
  const reports = Object.fromEntries(all.map((program) => [program, []]));
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const program of all) {
      const report =
        program === "native"
          ? await natively(measurement)
          : await inBrowser(bundles[program], measurement, round === 0);
      const took = `${report.step.toFixed(1)} ms a step`;
      console.error(`${name}, round ${round + 1}: ${TITLES[program]}, ${took}`);
      reports[program].push(report);
    }
  }
  const [unit, perStep] =
    model === "mlp" ? ["rows", MLP.batch] : ["tokens", GPTS[model].batch * GPTS[model].context];
  console.log(`## ${model}${measurement.clip ? ", gradients clipped by their global norm" : ""}\n`);
  const reference = reports[all[0]];
  const range = "lowest to highest";
  table(
    ["program", `${unit}/s`, range, "time of a step", "first step after", "losses differ by"],
    all.map((program) => {
      const own = reports[program];
      const rates = own.map((report) => (1000 / report.step) * perStep);
      const ratio = median(own.map((report, round) => report.step / reference[round].step));
      const first = median(own.map((report) => report.first)) / 1000;
      const differs = difference(own[0].losses, reference[0].losses);
      if (!(differs <= TOLERANCE)) agree = false;
      if (!own.every(({ losses }) => losses.at(-1) < losses[0])) learn = false;
      return [
        TITLES[program],
        Math.round(median(rates)),
        [Math.min, Math.max].map((f) => Math.round(f(...rates))).join(" to "),
        `${ratio.toFixed(2)}x`,
        `${first.toFixed(1)} s`,
        differs === 0 ? "0" : differs.toExponential(1),
      ];
    }),
  );
  // Reading the last loss is one submit and one readback more, whatever the number of steps.
  const counts = programs.map((program) => reports[program][0].counts);
  table(
    [`calls in ${COUNTED} steps`, ...Object.keys(counts[0])],
    programs.map((program, i) => [TITLES[program], ...Object.values(counts[i])]),
  );
}

table(
  ["program", "gzipped"],
  programs.map((program) => {
    const files = Object.values(bundles[program]);
    const bytes = files.reduce((sum, file) => sum + gzipSync(file, { level: 9 }).length, 0);
    return [TITLES[program], `${Math.round(bytes / 1000)} kB`];
  }),
);
const packages = ["@tensorflow/tfjs", "@tensorflow/tfjs-backend-webgpu", "@jax-js/jax"];
const versions = packages.map((name) => `${name} ${version(name)}`);
console.log([`Chromium ${chromiumVersion}`, ...versions].join(", "));
if (!agree) {
  console.error(`losses differ by more than ${TOLERANCE}: the programs do not train the same`);
}
if (!learn) console.error("a loss did not fall: that program does not learn");
process.exit(agree && learn ? 0 : 1);
