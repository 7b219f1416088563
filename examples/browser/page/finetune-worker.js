// A fine-tuning run, away from the page: owns the wasm session, the GPU and what is kept of the run.
//
// To the page, besides replies: adapter, kept, progress, ready, telemetry, validation, running, saved,
// unsaved, said, lost, recovered, snapshot, ended, failed, unusable.
import init, { Finetune } from 'evenkeel-browser-finetune';
import { History } from './history.js';
import { Chore, describeAdapter, isAsked, listen, loop, now, plainError, post } from './loop.js';
import { copying, watchReading } from './progress.js';
import { Store, named } from './store.js';

/** Longest stretch of training before messages are looked at, in ms. */
const SLICE = 50;
/** Time between two looks at telemetry, in ms. */
const TELEMETRY = 250;
/** Validation and saving each take at most this share of the time, and come at most this often, in ms. */
const SHARE = 1 / 20;
const VALIDATION_PAUSE = 2000;
const SAVE_PAUSE = 10_000;
/** Tokens of an answer before messages are looked at. */
const TOKENS_AT_ONCE = 2;
/** Devices that are tried after one was lost. */
const ATTEMPTS = 3;

let store = null;
let session = null;
let report = null;
let manifest = null;
let history = new History([]);
/** Whether training is wanted, whether the other task is shown, and whether the run was ended. */
let wanted = false;
let away = false;
let ended = false;
/** Steps to stop at, before the last one. */
let until = Infinity;
/** The answer that is being given: its number, or null. */
let answering = null;
/** When telemetry was last read, and how long training has taken since, in ms. */
let lastTelemetry = 0;
let training = 0;
let saveSoon = false;
/** Step of the state that was written last. */
let savedStep = null;
/** Steps taken. The session cannot be asked while it takes one. */
let taken = 0;

const validation = new Chore(VALIDATION_PAUSE, SHARE, validate);
const saving = new Chore(SAVE_PAUSE, SHARE, save);

listen({
  shown({ shown }) {
    away = !shown;
    if (session) announce();
    saveSoon = away;
  },
  hidden() {
    // The browser may end the tab without another word.
    saveSoon = true;
  },
  stopAnswer() {
    endAnswer();
    if (session) announce();
  },
});

const target = () => Math.min(report.steps, until);
const isTraining = () => session !== null && wanted && !away && answering === null && taken < target();
const announce = () => post('running', {
  running: isTraining(), wanted, away, answering: answering !== null, step: taken, done: ended,
});

async function main() {
  const wasm = init();
  if (!(await describeAdapter())) {
    post('unusable');
    return;
  }
  store = await Store.open();
  await wasm;
  await tellKept();
  const isBusy = () => isTraining() || answering !== null || (saveSoon && session !== null);
  await loop({ handlers, isBusy, work, fail });
}

/** Tells what is kept from before. */
async function tellKept() {
  manifest = await store.manifest();
  const state = manifest && (await store.loadState());
  post('kept', { manifest, step: state?.facts.step ?? 0 });
}

const handlers = {
  /** Opens a new run on the files that were chosen, which are kept from then on, and on what is kept of the rest. */
  async prepare({ name, model, data, settings }) {
    close();
    try {
      await begin(name ?? manifest?.name, { model, data }, settings);
    } catch (error) {
      await tellKept();
      throw error;
    }
    announceReady();
  },
  /** Opens what is kept, and goes on where it was. */
  async resume() {
    close();
    const state = await store.loadState();
    await open(manifest);
    if (state) await restore(state);
    wanted = !ended;
    announceReady();
    post('validation', { points: history.validation });
    announce();
  },
  async forget() {
    close();
    manifest = null;
    await store.forget();
    return true;
  },
  train() {
    wanted = true;
    until = Infinity;
    lastTelemetry = now();
    announce();
  },
  /** Takes so many steps, then pauses. */
  advance({ steps }) {
    handlers.train();
    until = taken + steps;
    announce();
  },
  async pause() {
    wanted = false;
    await telemetry();
    await save();
    announce();
  },
  /** As pause, with the loss that was come to. */
  async stop() {
    wanted = false;
    await telemetry();
    await validate();
    await save();
    announce();
  },
  disturb: ({ kind }) => session.disturb(kind),
  async adapter() {
    await telemetry();
    return session.adapter();
  },
  async metrics() {
    await telemetry();
    return history.lines(session.json_lines());
  },
  async chat({ answer: number, messages, options }) {
    await telemetry();
    await session.begin_chat(JSON.stringify(messages), options);
    answering = number;
    announce();
  },
  lose() {
    session.lose_device();
  },
};

/** A new run. With other settings only, the one that is kept is there until this one is open. */
async function begin(name, chosen, settings) {
  const next = { name, settings };
  const progress = copying(chosen);
  for (const [kind, files] of Object.entries(chosen)) {
    if (files) await store.replace(kind, files, progress);
    next[kind] = files ? Object.fromEntries(Object.entries(files).map(([file, { size }]) => [file, size])) : manifest?.[kind];
  }
  const isOther = Object.values(chosen).some(Boolean);
  if (isOther) await store.writeManifest(next);
  await open(next);
  if (!isOther) await store.removeStates();
  await store.writeManifest(next);
}

/** Loads the model from the files that are kept. */
async function open(kept) {
  if (!kept) throw named('Storage', 'No model is kept here any more.');
  const [model, data] = [await store.sources('model'), await store.contents('data')];
  watchReading(model);
  try {
    session = await Finetune.open(model, data, kept.settings);
  } catch (error) {
    store.close();
    throw error;
  }
  manifest = kept;
  report = session.report();
  history = new History(Finetune.columns());
  [taken, savedStep] = [0, null];
  [ended, wanted, until] = [false, false, Infinity];
  startClock();
}

/** Goes on where a state was written. */
async function restore(state) {
  try {
    taken = (await session.restore(state.parts.session)).step;
  } catch (error) {
    close();
    throw error;
  }
  history.restore(state);
  savedStep = taken;
  ended = taken >= report.steps;
}

/** Frees the device's memory and the files. */
function close() {
  endAnswer();
  try {
    session?.free();
  } catch {
    // One that has failed within a call cannot be freed.
  }
  session = null;
  taken = 0;
  wanted = false;
  store.close();
}

function announceReady() {
  post('ready', {
    report, columns: Finetune.columns(), canDisturb: typeof session.disturb === 'function', manifest, rows: history.flat(), seconds: history.seconds, step: taken,
  });
  announce();
}

/** A run, or a part of one, begins. */
function startClock() {
  training = 0;
  lastTelemetry = now();
  validation.due();
  saving.later();
}

/** What is done between two looks at messages. */
async function work() {
  if (answering !== null) await answer();
  if (saveSoon) await saveAgain();
  if (isTraining()) await slice();
}

async function slice() {
  const start = now();
  do {
    await session.step();
    taken += 1;
  } while (taken < target() && now() - start < SLICE);
  training += now() - start;
  const last = taken >= target();
  if (last || now() - lastTelemetry > TELEMETRY) await telemetry();
  if (last) {
    await finish();
    return;
  }
  for (const chore of [validation, saving]) if (!isAsked()) await chore.runIfDue();
}

/** The last step that was wanted has been taken. */
async function finish() {
  wanted = false;
  until = Infinity;
  ended = taken >= report.steps;
  if (ended) await validate();
  await save();
  announce();
  if (ended) post('ended', { step: taken });
}

/** Reads what the last steps left behind. It waits for them, so the wait counts as training. */
async function telemetry() {
  const start = now();
  const { steps } = await session.telemetry();
  const seconds = (training + now() - start) / 1000;
  training = 0;
  lastTelemetry = now();
  if (steps.length === 0) return;
  session.set_seconds(seconds);
  history.push(steps, seconds);
  post('telemetry', { steps, seconds });
  const kept = session.snapshot_steps();
  if (kept !== undefined) post('snapshot', { step: kept });
}

async function validate() {
  // The charts know the step by then.
  await telemetry();
  const step = taken - 1;
  const loss = await session.validate();
  history.validation.push([step, loss]);
  post('validation', { points: [[step, loss]] });
}

/** Keeps all it takes to go on with the same bits. Where that cannot be had, training goes on. */
async function save() {
  saveSoon = false;
  if (taken === 0) return;
  await telemetry();
  const { facts, parts } = history.parts(session.json_lines());
  const state = await session.save();
  try {
    await store.saveState({ step: taken, ...facts }, { session: state, ...parts });
    savedStep = taken;
    post('saved', { step: taken });
  } catch (error) {
    post('unsaved', plainError(error));
  }
  saving.later();
}

/** As save, where a step was taken since: the state before the last one stays. */
async function saveAgain() {
  saveSoon = false;
  if (taken !== savedStep) await save();
}

async function answer() {
  const id = answering;
  try {
    const { text, done } = await session.next(TOKENS_AT_ONCE);
    // It may have been stopped while it was written.
    if (answering !== id) return;
    post('said', { id, text, done });
    if (!done) return;
  } catch (error) {
    endAnswer(plainError(error));
    if (error?.name === 'DeviceLost') throw error;
  }
  answering = null;
  lastTelemetry = now();
  announce();
}

/** Nothing more comes of the answer that is being given, if there is one. */
function endAnswer(error) {
  if (answering !== null) post('said', { id: answering, text: '', done: true, error });
  answering = null;
}

/** A lost device is replaced; anything else ends the run. */
async function fail(error) {
  endAnswer();
  if (error?.name !== 'DeviceLost' || !session) {
    giveUp(error);
    return;
  }
  post('lost', plainError(error));
  let reason = error;
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    try {
      taken = await session.recover();
      history.truncate(taken);
      ended = false;
      startClock();
      post('recovered', { step: taken });
      announce();
      return;
    } catch (next) {
      reason = next;
    }
  }
  giveUp(reason);
}

function giveUp(error) {
  wanted = false;
  saveSoon = false;
  post('failed', plainError(error));
  announce();
}

main().catch((error) => {
  post('failed', plainError(error));
  post('unusable');
});
