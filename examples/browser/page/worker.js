// The run, away from the page: owns the wasm session and the GPU.
//
// To the page, besides replies: adapter, compiled, ready, mark, telemetry, validation, answers, text, running,
// lost, recovered, useless, snapshot, failed.
import init, { Session } from 'evenkeel-browser';
import { Chore, describeAdapter, isAsked, listen, loop, mark, now, plainError, post } from './loop.js';

/** Longest stretch of training before messages are looked at, in ms. */
const SLICE = 50;
/** Time between two looks at telemetry, in ms. */
const TELEMETRY = 250;
/** Validation and answers each take at most this share of the time. */
const SHARE = 1 / 20;
/** Share of the time that writing a text may take, and its length in tokens. */
const WRITING = 1 / 5;
const TEXT = 120;
const TOKENS_AT_ONCE = 4;
/** Time between two texts, in ms. */
const TEXT_PAUSE = 4000;
/** Devices that are tried after one was lost. */
const ATTEMPTS = 3;

let session = null;
let wanted = true;
let hidden = false;
/** Steps to take before training pauses; none given: no end. */
let left = Infinity;
let settings = null;
/** When telemetry was last read, and how long training has taken since, in ms. */
let lastTelemetry = 0;
let training = 0;
let first = true;
/** The text that is being written: its tokens so far, and what they cost. */
let text = { on: false, tokens: 0, next: 0, count: 0 };

const chores = [
  new Chore(1000, SHARE, async () => {
    const loss = await session.validate();
    post('validation', { step: session.steps() - 1, loss });
  }),
  new Chore(1000, SHARE, async () => {
    if (settings.task.digits) post('answers', { step: session.steps(), answers: await session.answers() });
  }),
];

listen({
  hidden(data) {
    hidden = data.hidden;
    if (session) announce();
  },
});

const isTraining = () => session !== null && wanted && !hidden && left > 0;
const announce = () => post('running', { running: isTraining(), hidden, wanted: wanted && left > 0 });

async function main() {
  mark('worker');
  const wasm = init();
  if (!(await describeAdapter())) return;
  await wasm;
  mark('wasm');
  await loop({ handlers, isBusy: isTraining, work: slice, fail });
}

const handlers = {
  async start({ task, settings: chosen }) {
    const old = session;
    session = null;
    session = old ? await old.restart(task, chosen) : await Session.create(task, chosen, compiled);
    settings = { ...chosen, task };
    left = Infinity;
    wanted = true;
    begin();
    mark('built');
    post('ready', { report: session.report(), columns: Session.columns() });
    announce();
  },
  async pause() {
    wanted = false;
    await telemetry();
    announce();
  },
  resume() {
    wanted = true;
    left = Infinity;
    lastTelemetry = now();
    announce();
  },
  advance({ steps }) {
    wanted = true;
    left = steps;
    announce();
  },
  disturb: ({ kind }) => session.disturb(kind),
  learningRate: ({ rate }) => session.set_learning_rate(rate),
  async stability({ stability, clip }) {
    await telemetry();
    await session.set_stability(stability, clip);
    text.on = false;
  },
  async checkpoint() {
    await telemetry();
    return { step: session.steps(), bytes: await session.checkpoint() };
  },
  async load({ bytes }) {
    await telemetry();
    const loaded = await session.load(new Uint8Array(bytes));
    begin();
    return loaded;
  },
  async records({ format }) {
    await telemetry();
    return format === 'csv' ? session.csv() : session.json_lines();
  },
  numerics: () => session.numerics(),
  ask: ({ question }) => session.ask(question),
  prompt: ({ prompt }) => beginText(prompt),
  lose() {
    session.lose_device();
  },
};

const compiled = (done, asked) => post('compiled', { done, asked });

/** A run, or a part of one, begins. */
function begin() {
  first = true;
  training = 0;
  lastTelemetry = now();
  for (const chore of chores) chore.due();
  text = { on: false, tokens: 0, next: now() + 1000, count: text.count };
}

async function slice() {
  const start = now();
  do {
    await session.step();
    left -= 1;
  } while (left > 0 && !first && now() - start < SLICE);
  training += now() - start;
  const ended = left <= 0;
  if (first || ended || now() - lastTelemetry > TELEMETRY) await telemetry();
  if (ended) announce();
  for (const chore of chores) if (!isAsked()) await chore.runIfDue();
  if (!settings.task.digits && !isAsked()) await write();
}

/** Reads what the last steps left behind. It waits for them, so the wait counts as training. */
async function telemetry() {
  if (!session) return;
  const start = now();
  const { steps, layers } = await session.telemetry();
  const seconds = (training + now() - start) / 1000;
  training = 0;
  lastTelemetry = now();
  if (steps.length === 0) return;
  session.set_seconds(seconds);
  post('telemetry', { steps, layers, seconds }, [steps.buffer, layers.buffer]);
  const kept = session.snapshot_steps();
  if (kept !== undefined) post('snapshot', { step: kept });
  if (first) {
    first = false;
    mark('first step');
  }
}

async function beginText(prompt) {
  text.count += 1;
  const start = await session.begin_text(prompt, text.count);
  Object.assign(text, { on: true, tokens: 0 });
  post('text', { id: text.count, step: session.steps(), prompt: start, written: '' });
}

async function write() {
  const start = now();
  if (start < text.next) return;
  if (!text.on) await beginText(undefined);
  const written = await session.write(TOKENS_AT_ONCE);
  text.tokens += TOKENS_AT_ONCE;
  post('text', { id: text.count, written });
  text.on = text.tokens < TEXT;
  const cost = now() - start;
  text.next = now() + Math.max(cost / WRITING, text.on ? 0 : TEXT_PAUSE);
}

/** A lost device is replaced; anything else ends the run. */
async function fail(error) {
  if (error?.name === 'NonFinite') {
    // Weights that no text can be drawn from are a thing to show, not the end of the run.
    text.on = false;
    text.next = now() + TEXT_PAUSE;
    post('useless', plainError(error));
    return;
  }
  if (error?.name !== 'DeviceLost' || !session) {
    wanted = false;
    post('failed', plainError(error));
    announce();
    return;
  }
  post('lost', plainError(error));
  let reason = error;
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    try {
      const step = await session.recover();
      begin();
      post('recovered', { step });
      announce();
      return;
    } catch (next) {
      reason = next;
    }
  }
  wanted = false;
  post('failed', plainError(reason));
  announce();
}

main().catch((error) => post('failed', plainError(error)));
