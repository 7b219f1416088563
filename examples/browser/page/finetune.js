// The page of fine-tuning: reads the controls, shows what its worker tells.
import { Charts, short } from './charts.js';
import { Chat } from './chat.js';
import { bytes, describe, entriesOfDrop, entriesOfInput, isComplete, plural, tellApart } from './choose.js';
import { $, Asked, EventList, describeDevice, download, factList, hideAlert, item, number, oncePerFrame, showAdvice, showAlert } from './common.js';
import { ADVICE } from './finetune-advice.js';
import { Series } from './series.js';
import { readSettings, showSettings } from './finetune-settings.js';
import { TimeLeft } from './time-left.js';
import { whenChosen } from './tasks.js';
import { zipSync } from 'fflate';

/** Nothing by layer comes with this telemetry. */
const NO_LAYERS = new Float64Array(0);
/** What is shown of a run that is open. */
const RUN_PARTS = ['tune-run', 'tune-charts', 'tune-side', 'tune-below'];
const LOOKING = 'Loading…';
const BINARY = 'application/octet-stream';

let series = new Series(['step'], 1, 0);
/** What was chosen since the last run was opened, and what is kept: {model, data}. */
let chosen = { model: null, data: null };
let kept = null;
let report = null;
let name = '';
let state = { running: false, wanted: false, away: false, answering: false, step: 0, done: false };
/** What takes long before a run: copying, loading. */
let busy = LOOKING;
/** Whether nothing can be trained here. */
let unusable = false;
let snapshot = null;
let saved = 0;
let lastStatus = '';
let runs = 0;
const left = new TimeLeft();
const charts = new Charts(() => series, { prefix: 'tune-', names: ['loss', 'norm', 'rate', 'speed'] });
const events = new EventList($('tune-events'), 'Choose a lower learning rate and load again.');

// For tests and the curious.
window.evenkeel.fineTune = {
  get state() {
    const { last } = series;
    return {
      ...state, busy, runs, snapshot, saved, report, kept, alert: $('alert').hidden ? '' : $('alert').textContent, received: series.received,
      loss: last?.loss ?? null, smooth: series.smoothed, validation: series.validation.filter((x) => x !== null), skipped: series.skipped,
      faults: series.faults, speed: series.speedNow ?? null, messages: chat.messages,
    };
  },
  get losses() {
    return series.step.map((step, i) => [step, series.loss[i]]);
  },
};

const handlers = {
  adapter(device) {
    $('tune-adapter').replaceChildren(...factList(describeDevice(device)));
    $('software').hidden = !device.info.software;
  },
  kept({ manifest, step }) {
    kept = manifest && { ...manifest, step };
    // Later the visitor has settings of their own.
    if (kept && runs === 0 && busy === LOOKING) showSettings(kept.settings);
    busy = '';
    showKept();
    showFound();
    status();
  },
  progress({ what, done, total }) {
    const words = what === 'copy' ? 'Copying into this browser’s private storage' : 'Loading the weights';
    busy = `${words}: ${bytes(done)} of ${bytes(total)}`;
    if (what === 'load' && done === 0) busy = 'Reading the model and the examples, and building the run on the device…';
    $('tune-progress').hidden = false;
    $('tune-progress').value = total ? done / total : 0;
    status();
  },
  ready({ report: told, columns, canDisturb, manifest, rows, seconds, step }) {
    kept = { ...manifest, step };
    [report, name, busy, snapshot, saved] = [told, manifest.name, '', null, step];
    runs += 1;
    series = new Series(columns, report.tokensPerStep, 0);
    left.clear();
    $('tune-stat-validation').textContent = '–';
    events.clear();
    chat.clear();
    events.add(0, `${name}: ${number.format(report.trained)} of ${number.format(report.parameters)} parameters are trained.`);
    for (const row of series.push(rows, NO_LAYERS, seconds)) events.note(row);
    if (step > 0) events.add(step, 'Resumed from what was kept.', 'good');
    $('tune-progress').hidden = true;
    $('tune-kept').hidden = true;
    $('tune-setup').open = false;
    for (const id of RUN_PARTS) $(id).hidden = false;
    $('tune-hurt').hidden = !canDisturb;
    $('tune-saved').textContent = step > 0 ? `Saved here at step ${number.format(step)}.` : 'Not saved yet.';
    showSettings(manifest.settings);
    showReport();
    redraw();
  },
  running(told) {
    state = told;
    showButtons();
    status();
  },
  telemetry({ steps, seconds }) {
    const rows = series.push(steps, NO_LAYERS, seconds);
    for (const row of rows) events.note(row);
    if (state.step === 0) status();
    state.step = series.last.step + 1;
    showButtons();
    left.took(rows.length, seconds);
    redraw();
  },
  validation({ points }) {
    for (const [step, loss] of points) series.validate(step, loss);
    if (points.length > 0) $('tune-stat-validation').textContent = short(points.at(-1)[1]);
    redraw();
  },
  saved({ step }) {
    saved = step;
    kept.step = step;
    $('tune-saved').textContent = `Saved here at step ${number.format(step)}: a reload goes on from it.`;
  },
  unsaved: (error) => showError({ name: 'Unsaved', message: error.message }),
  said: (piece) => chat.said(piece),
  snapshot({ step }) {
    snapshot = step;
  },
  lost({ message }) {
    showAlert('The GPU device was lost.', `${message.split(';')[0]}. Taking a new one…`);
  },
  recovered({ step }) {
    busy = '';
    $('tune-progress').hidden = true;
    series.truncate(step);
    state.step = step;
    events.add(step, 'Device lost; resumed from the last snapshot on a new device.', 'good');
    showAlert('The GPU device was lost, and the run goes on.', `A new device was taken; training resumed from the snapshot of step ${number.format(step)}.`, true);
    redraw();
  },
  ended({ step }) {
    events.add(step, 'Trained to the end. The adapter is yours below.', 'good');
  },
  failed: showError,
  unusable() {
    unusable = true;
    for (const id of ['tune-resume', 'tune-forget']) $(id).disabled = true;
    showFound();
  },
};

const asked = new Asked('finetune-worker.js', handlers);
const chat = new Chat(asked, showError);

function showError(error) {
  const title = showAdvice(error, ADVICE);
  busy = '';
  $('tune-progress').hidden = true;
  if (!state.running) $('tune-status').textContent = lastStatus = title;
}

// ---- what is kept, what is chosen ----

function showKept() {
  $('tune-kept').hidden = !kept;
  $('choose-kept').hidden = !kept;
  if (!kept) return;
  const { steps } = kept.settings;
  $('tune-kept-title').textContent = kept.step > 0 ? `Go on with ${kept.name}, step ${number.format(kept.step)} of ${number.format(steps)}?` : `Go on with ${kept.name}?`;
  $('tune-kept-text').textContent = 'It was kept in this browser. Loading another model or other examples puts those in its place.';
}

/** What a run would be made of: what was chosen, and for the rest what is kept. */
function wanted() {
  const fromKept = (files) => files && {
    name: kept.name, files: Object.fromEntries(Object.entries(files).map(([file, size]) => [file, { size }])), problems: [],
  };
  return { model: chosen.model ?? fromKept(kept?.model), data: chosen.data ?? fromKept(kept?.data) };
}

function showFound() {
  const all = wanted();
  $('tune-found').replaceChildren(...describe(all).map(({ text, state: mark }) => item('li', text, mark)));
  $('tune-prepare').disabled = unusable || busy !== '' || !isComplete(all);
  $('tune-prepare').textContent = kept ? 'Load and begin anew' : 'Load and check';
}

async function take(entries) {
  const found = await tellApart(entries);
  for (const kind of ['model', 'data']) if (found[kind]) chosen[kind] = found[kind];
  if (!found.model && !found.data && entries.length > 0) {
    showAlert('Nothing here to learn with.', 'There is no model and no .jsonl file among these files.', false, ['“What fits?” says what is needed.']);
  } else {
    hideAlert();
  }
  $('tune-setup').open = true;
  showFound();
}

for (const id of ['tune-folder', 'tune-files']) {
  $(id).onchange = async () => {
    await take(entriesOfInput($(id)));
    // The same files can be chosen again.
    $(id).value = '';
  };
}

let shown = true;
for (const type of ['dragover', 'dragleave', 'drop']) {
  addEventListener(type, async (drag) => {
    if (!shown || !drag.dataTransfer?.types.includes('Files')) return;
    drag.preventDefault();
    $('tune-drop').classList.toggle('over', type === 'dragover');
    if (type === 'drop') await take(await entriesOfDrop(drag.dataTransfer));
  });
}

$('tune-form').onsubmit = async (submit) => {
  submit.preventDefault();
  const settings = readSettings();
  if (!settings) return;
  await begin('prepare', { ...filesOf(chosen), settings });
};
const filesOf = ({ model, data }) => ({ name: model?.name, model: model?.files, data: data?.files });

$('tune-resume').onclick = () => begin('resume', {});

/** Opens a run; the controls wait for it. */
async function begin(type, message) {
  hideAlert();
  const focused = document.activeElement;
  [busy, report] = ['Preparing…', null];
  for (const id of RUN_PARTS) $(id).hidden = true;
  for (const id of ['tune-prepare', 'tune-resume', 'tune-forget']) $(id).disabled = true;
  status();
  // So that the browser does not clear it when space is short; it may say no.
  navigator.storage?.persist?.().catch(() => {});
  await asked.tryTo(type, message);
  busy = '';
  for (const id of ['tune-resume', 'tune-forget']) $(id).disabled = false;
  if (report) chosen = { model: null, data: null };
  showFound();
  status();
  // What was pressed is gone, or was disabled meanwhile.
  if (focused !== document.body) (report ? $('tune-train') : focused).focus();
}

async function forget() {
  if (!(await asked.tryTo('forget'))) return;
  [kept, report] = [null, null];
  for (const id of RUN_PARTS) $(id).hidden = true;
  state = { ...state, running: false, step: 0 };
  $('tune-setup').open = true;
  $('tune-setup').querySelector('summary').focus();
  hideAlert();
  showKept();
  showFound();
  status('Forgotten: nothing of it is left in this browser.');
}
$('tune-forget').onclick = forget;
$('tune-forget-all').onclick = forget;

// ---- the run ----

$('tune-train').onclick = () => asked.tryTo(state.wanted ? 'pause' : 'train');
$('tune-stop').onclick = async () => {
  await asked.tryTo('stop');
  events.add(state.step, 'Stopped here. The adapter is yours below, and the run can go on.', 'good');
};
$('tune-nan').onclick = async () => {
  const step = await asked.tryTo('disturb', { kind: 'nan' });
  if (step === undefined) return;
  series.faults.push({ step, label: 'NaN', steps: 1 });
  events.add(step, 'You put in: NaN.', 'bad');
};
$('tune-lose').onclick = () => asked.tryTo('lose');
$('tune-advance-form').onsubmit = (submit) => {
  submit.preventDefault();
  asked.tryTo('advance', { steps: Number($('tune-advance').value) });
};

function showButtons() {
  const { done, wanted: on, step } = state;
  let label = step > 0 ? 'Resume' : 'Start';
  if (on) label = 'Pause';
  $('tune-train').textContent = done ? 'Trained' : label;
  $('tune-train').disabled = done;
  $('tune-stop').disabled = done || step === 0;
  for (const id of ['tune-nan', 'tune-lose']) $(id).disabled = done;
}

const redraw = oncePerFrame(() => {
  const { last } = series;
  const step = last ? last.step + 1 : 0;
  $('tune-stat-step').textContent = report ? `${number.format(step)} of ${number.format(report.steps)}` : '–';
  $('tune-stat-loss').textContent = short(series.smoothed);
  $('tune-stat-speed').textContent = short(series.speedNow);
  $('tune-stat-left').textContent = report ? left.of(report.steps - step) : '–';
  $('tune-stat-skipped').textContent = last ? number.format(series.skippedTotal) : '–';
  charts.update();
});

function status(told) {
  const { last } = series;
  const at = report && last ? ` Step ${number.format(last.step + 1)} of ${number.format(report.steps)}, loss ${short(series.smoothed)}.` : '';
  let text = told ?? 'Choose a model and examples.';
  if (busy) text = busy;
  else if (report) {
    text = at ? `Paused.${at}` : 'Ready. Nothing is trained yet.';
    if (state.answering) text = `Answering; training waits.${at}`;
    else if (state.running) text = at ? `Training.${at}` : 'Training: the first step compiles the kernels…';
    else if (state.away && state.wanted) text = `Paused while the other task is shown.${at}`;
    else if (state.done) text = `Trained.${at}`;
  } else if (kept && !told) text = 'A run is kept here. Go on with it, or begin another.';
  if (text !== lastStatus) $('tune-status').textContent = text;
  lastStatus = text;
}

/** Every few seconds, what the charts show in words. */
function describeCharts() {
  const { last } = series;
  if (!last) return;
  const first = series.loss.find((x) => x !== null);
  const steps = `over ${plural(last.step + 1, 'step')}`;
  const texts = {
    loss: `Loss: from ${short(first)} to ${short(series.smoothed)} ${steps}; validation loss ${$('tune-stat-validation').textContent}`,
    norm: `Gradient norm: now ${short(last.gradient_norm)}; ${series.clipped.length} steps clipped, ${series.skippedTotal} skipped ${steps}`,
    rate: `Learning rate: now ${short(last.learning_rate)}`,
    speed: `Tokens per second: now ${short(series.speedNow)}`,
  };
  for (const [chart, text] of Object.entries(texts)) $(`tune-chart-${chart}`).setAttribute('aria-label', text);
  status();
}
setInterval(describeCharts, 5000);

function showReport() {
  const share = (100 * report.trained) / report.parameters;
  $('tune-report').replaceChildren(...factList(new Map([
    ['Model', `${name}, ${report.family}`],
    ['Parameters', number.format(report.parameters)],
    ['Trained', `${number.format(report.trained)} (${short(share)} %)`],
    ['Memory on the device', bytes(report.bytes)],
    ['Examples', number.format(report.examples)],
    ['To measure on', number.format(report.validationExamples)],
    ['A step', `about ${plural(Math.round(report.tokensPerStep), 'token')}`],
    ['Chat template', report.template ? 'the model’s own' : 'none: your words as they are'],
  ])));
  $('tune-notes').replaceChildren(...report.notes.map((note) => item('li', note)));
}

// ---- what comes out ----

const fileName = (what) => `${name.replace(/[^\w.-]+/g, '-')}-${what}`;

async function saveAdapter(pick) {
  const files = await asked.tryTo('adapter');
  if (files) pick(files);
}
$('tune-save').onclick = () => saveAdapter((files) => download(fileName(`lora-step${state.step}.zip`), zipSync(files, { level: 0 }), 'application/zip'));
$('tune-save-config').onclick = () => saveAdapter((files) => download('adapter_config.json', files['adapter_config.json'], 'application/json'));
$('tune-save-weights').onclick = () => saveAdapter((files) => download('adapter_model.safetensors', files['adapter_model.safetensors'], BINARY));
$('tune-save-metrics').onclick = async () => {
  const lines = await asked.tryTo('metrics');
  if (lines) download(fileName('metrics.jsonl'), lines, 'application/jsonl');
};

document.addEventListener('visibilitychange', () => document.hidden && asked.tell('hidden'));
addEventListener('pagehide', () => asked.tell('hidden'));
whenChosen((task) => {
  shown = task === 'tune';
  asked.tell('shown', { shown });
  // Charts that were hidden have no size yet.
  if (shown) charts.resize();
});
status();
showFound();
