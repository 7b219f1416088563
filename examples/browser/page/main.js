// The page: reads the controls, shows what the worker tells. No training happens here.
import { Charts, drawAnswers, short } from './charts.js';
import { $, Asked, EventList, describeDevice, download, factList, hideAlert, item, number, oncePerFrame, showAdvice, showAlert } from './common.js';
import { Series } from './series.js';
import { whenChosen } from './tasks.js';

const RATES = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2];
const CLIPS = [0.1, 0.2, 0.5, 1, 2, 5, 10];
const FAULTS = {
  nan: { label: 'NaN', steps: 1 },
  inf: { label: 'Inf', steps: 1 },
  spike: { label: 'gradient × 10,000', steps: 1 },
  outlier: { label: 'random batch', steps: 1 },
  rate: { label: 'learning rate × 100', steps: 5 },
};
// The chart needs a series before the first run has begun.
let series = new Series(['step'], 1, 1);
/** Runs begun so far. */
let run = 0;
let onGpu = false;
let running = false;
let hiddenPause = false;
let accuracy = null;
let bestValidation = null;
let lastStatus = '';
let textFile = null;
let layerNames = [];
/** Whether a run is being built, and kernels that are compiled. */
let building = false;
let compiled = 0;
/** Step of the last snapshot on the host. */
let snapshot = null;
const charts = new Charts(() => series);
const events = new EventList($('events'), 'Reset to begin anew.');
/** Whether this task is the one that is shown, and what waits until it is. */
let shown = true;
let waiting = null;

// For tests and the curious: when things happened (ms since the page was opened), and what is known.
window.evenkeel = {
  marks: {},
  get state() {
    const { last } = series;
    return {
      run, running, compiled, alert: $('alert').hidden ? '' : $('alert').textContent, step: last ? last.step + 1 : 0, received: series.received, points: series.step.length,
      loss: last?.loss ?? null, smooth: series.smoothed, validation: series.validation.filter((x) => x !== null),
      norms: series.norm.length, heat: series.heat.step.length, layers: layerNames, skipped: series.skipped,
      clipped: series.clipped, faults: series.faults, accuracy, snapshot, speed: series.speedNow ?? null, rate: last?.learning_rate ?? null,
      scale: last?.loss_scale ?? null, threshold: last?.max_norm ?? null,
    };
  },
  /** [step, loss] of the steps that the charts hold. */
  get losses() {
    return series.step.map((step, i) => [step, series.loss[i]]);
  },
};

const handlers = {
  mark({ name, at }) {
    window.evenkeel.marks[name] ??= at - performance.timeOrigin;
  },
  adapter: showAdapter,
  compiled({ done, asked }) {
    compiled = done;
    // Later ones are for a few more things, and need no place on the page.
    $('compiling').hidden = !building;
    $('compiling').querySelector('progress').value = done / asked;
    $('compiling').querySelector('span').textContent = `${done} of ${asked} kernels compiled`;
  },
  ready({ report, columns }) {
    series = new Series(columns, report.tokensPerStep, report.layers.length);
    run += 1;
    layerNames = report.layers;
    accuracy = null;
    bestValidation = null;
    $('figure-scale').hidden = current.settings.precision !== 'f16';
    $('heat-layers').replaceChildren(...layerNames.map((name) => item('li', shortLayer(name))));
    for (const id of ['events', 'texts', 'answers']) $(id).replaceChildren();
    drawAnswers($('grid'), []);
    $('ask-answer').textContent = '';
    const megabytes = (report.bytes / 1e6).toFixed(1);
    facts.set('Model', `${number.format(report.parameters)} parameters`);
    facts.set('On the device', `${megabytes} MB`);
    facts.set('A step', `${report.dispatches} dispatches, ${number.format(report.tokensPerStep)} tokens`);
    showFacts();
    for (const id of ['pause', 'reset', 'start', 'check', 'lose']) $(id).disabled = false;
    events.add(0, `A new run: ${number.format(report.parameters)} parameters, all random.`);
    redraw();
  },
  running({ running: is, hidden, wanted }) {
    running = is;
    hiddenPause = hidden && wanted;
    $('pause').textContent = wanted ? 'Pause' : 'Resume';
    status();
  },
  telemetry({ steps, layers, seconds }) {
    const before = series.last;
    for (const row of series.push(steps, layers, seconds)) events.note(row);
    if (!before) status();
    redraw();
  },
  validation({ step, loss }) {
    series.validate(step, loss);
    bestValidation = loss;
    if (!current.task.digits) $('stat-quality').textContent = short(loss);
    redraw();
  },
  answers({ answers }) {
    const right = answers.filter((answer) => answer.right).length;
    accuracy = right / answers.length;
    $('stat-quality').textContent = `${Math.round(100 * accuracy)} %`;
    $('accuracy-text').textContent = `${right} of ${answers.length} sums right that it never trained on. A square for each.`;
    $('grid').setAttribute('aria-label', `${right} of ${answers.length} held-out sums are right`);
    drawAnswers($('grid'), answers);
    shownAnswers = answers;
    $('answers').replaceChildren(...answers.slice(0, 8).map(answerItem));
  },
  text({ id, step, prompt, written }) {
    if (prompt !== undefined) {
      const entry = document.createElement('li');
      entry.id = `text-${id}`;
      const pre = document.createElement('pre');
      pre.append(item('b', prompt), '');
      entry.append(item('small', `from step ${number.format(step)}`), pre);
      $('texts').prepend(entry);
      while ($('texts').children.length > 6) $('texts').lastChild.remove();
    }
    const entry = $(`text-${id}`);
    if (entry) entry.querySelector('pre').lastChild.data = written;
  },
  useless({ message }) {
    events.add(series.last?.step ?? 0, `No text can be drawn: ${message}`, 'bad');
  },
  snapshot({ step }) {
    snapshot = step;
  },
  lost({ message }) {
    showAlert('The GPU device was lost.', `${message.split(';')[0]}. Taking a new one…`);
  },
  recovered({ step }) {
    series.truncate(step);
    events.add(step, 'Device lost; resumed from the last snapshot on a new device.', 'good');
    showAlert('The GPU device was lost, and the run goes on.', `A new device was taken; training resumed from the snapshot of step ${number.format(step)}.`, true);
    redraw();
  },
  failed: showError,
};
let shownAnswers = [];

const asked = new Asked('worker.js', handlers);
const ask = (...message) => asked.ask(...message);
const tryTo = (...message) => asked.tryTo(...message);

function answerItem({ question, answer, right }) {
  const entry = document.createElement('li');
  entry.append(`${question} = `, item('span', `${answer.replace(/^0+(?=.)/, '')} ${right ? '✓' : '✗'}`, right ? 'right' : 'wrong'));
  return entry;
}

const shortLayer = (name) => name.replace('token_embedding', 'tokens').replace('position_embedding', 'positions')
  .replace(/^blocks\.(\d+)\./, (_, block) => `${Number(block) + 1} `).replace('attention', 'attn').replace('feed_forward', 'mlp');

const redraw = oncePerFrame(() => {
  const { last } = series;
  $('stat-step').textContent = last ? number.format(last.step + 1) : '–';
  $('stat-loss').textContent = short(series.smoothed);
  $('stat-speed').textContent = short(series.speedNow);
  $('stat-skipped').textContent = last ? number.format(series.skippedTotal) : '–';
  charts.update();
});

/** Every few seconds, what the charts show in words. */
function describe() {
  const { last } = series;
  if (!last) return;
  const first = series.loss.find((x) => x !== null);
  const steps = `over ${number.format(last.step + 1)} steps`;
  const texts = {
    'chart-loss': `Loss: from ${short(first)} to ${short(series.smoothed)} ${steps}; validation loss ${short(bestValidation)}`,
    'chart-norm': `Gradient norm: now ${short(last.gradient_norm)}; ${series.clipped.length} steps clipped, ${series.skippedTotal} skipped ${steps}`,
    'chart-rate': `Learning rate: now ${short(last.learning_rate)}`,
    'chart-speed': `Tokens per second: now ${short(series.speedNow)}`,
    'chart-scale': `Loss scale: now ${short(last.loss_scale)}`,
    heat: `Gradient norms by layer: ${layerNames.map((name, i) => `${name} ${short(series.heat.norms.at(-1)?.[i])}`).join(', ')}`,
  };
  for (const [id, text] of Object.entries(texts)) $(id).setAttribute('aria-label', text);
  status();
}
setInterval(describe, 5000);

function status() {
  const { last } = series;
  const at = last ? ` Step ${number.format(last.step + 1)}, loss ${short(series.smoothed)}${accuracy === null ? '' : `, ${Math.round(100 * accuracy)} % of sums right`}.` : '';
  let text = `Paused.${at}`;
  if (running) text = last ? `Training.${at}` : 'Building the model…';
  else if (hiddenPause) text = `Paused while the tab was hidden.${at}`;
  if (text !== lastStatus) $('status').textContent = text;
  lastStatus = text;
}

function showError(error) {
  const title = showAdvice(error);
  if (!running) $('status').textContent = lastStatus = title;
}

const facts = new Map();
function showFacts() {
  $('adapter').replaceChildren(...factList(facts));
}

function showAdapter({ info, features, limits }) {
  for (const [name, value] of describeDevice({ info, features })) facts.set(name, value);
  showFacts();
  const listed = ['maxBufferSize', 'maxStorageBufferBindingSize', 'maxStorageBuffersPerShaderStage', 'maxComputeWorkgroupStorageSize',
    'maxComputeInvocationsPerWorkgroup', 'maxComputeWorkgroupsPerDimension', 'minStorageBufferOffsetAlignment'];
  $('limits').replaceChildren(...listed.flatMap((limit) => [item('dt', limit), item('dd', number.format(limits[limit]))]));
  onGpu = !info.software;
  $('software').hidden = onGpu;
  // Steps that a CPU takes in a moment, too.
  if (info.software) $('batch').value = '32';
  if (shown) start();
  else waiting = start;
}

// ---- controls ----

const rate = () => RATES[$('learning-rate').value];
const clip = () => CLIPS[$('clip').value];
let current = { task: null, settings: null };

function readSettings() {
  return {
    size: $('size').value, batch: Number($('batch').value), context: Number($('context').value), learningRate: rate(), clip: clip(),
    stability: $('stability').checked, precision: $('precision').value, seed: Number($('seed').value),
  };
}

async function readTask() {
  const chosen = $('task').value;
  if (chosen.startsWith('add-')) return { digits: Number(chosen.slice(4)) };
  if (chosen === 'repository') {
    const answer = await fetch('repository.txt');
    return { name: 'this project’s documents', bytes: new Uint8Array(await answer.arrayBuffer()) };
  }
  if (textFile) return { name: textFile.name, bytes: new Uint8Array(await textFile.arrayBuffer()) };
  return { name: 'your text', bytes: new TextEncoder().encode($('text').value) };
}

async function start() {
  hideAlert();
  const [task, settings] = [await readTask(), readSettings()];
  const before = current;
  current = { task, settings };
  showTask();
  building = true;
  try {
    await ask('start', { task, settings });
    $('start').disabled = false;
  } catch (error) {
    current = before.task ? before : current;
    $('start').disabled = false;
    showError(error);
  } finally {
    building = false;
    $('compiling').hidden = true;
  }
}

function showTask() {
  const { digits } = current.task;
  $('addition-view').hidden = !digits;
  $('text-view').hidden = Boolean(digits);
  $('stat-quality-name').textContent = digits ? 'right answers' : 'validation loss';
  $('stat-quality').textContent = '–';
  showHeadline();
  if (digits) $('ask').value = ['', '2 + 5', '27 + 35', '270 + 354'][digits];
}

function showHeadline() {
  const what = current.task.digits ? 'to add' : 'to write';
  $('headline').textContent = `A small GPT is learning ${what}, in this tab${onGpu ? ', on your GPU' : ''}.`;
}

function showControls() {
  const isText = !$('task').value.startsWith('add-');
  $('own-text').hidden = $('task').value !== 'own';
  $('context').disabled = !isText;
  $('context-note').textContent = isText ? '' : 'The context of addition is a problem and its sum.';
  for (const [id, value] of [['learning-rate', rate()], ['clip', clip()]]) {
    $(`${id}-value`).textContent = short(value);
    $(id).setAttribute('aria-valuetext', short(value));
  }
  $('stability-note').textContent = $('stability').checked
    ? 'Gradients are clipped, spikes are skipped, and after a bad step the run goes back to a snapshot. All of it on the GPU.'
    : 'No clip, no spike guard, no way back. A step with NaN or Inf is skipped all the same: that check is part of every step.';
}

const runName = () => {
  const { task, settings } = current;
  const what = task.digits ? `add${task.digits}` : 'text';
  return `evenkeel-${what}-${settings.size}-${settings.precision}-seed${settings.seed}`;
};

$('pause').onclick = () => ask($('pause').textContent === 'Pause' ? 'pause' : 'resume');
$('reset').onclick = () => restart(current.settings);
/** The same run from its beginning, with what is set at once as it is now. */
async function restart(settings) {
  hideAlert();
  current.settings = { ...settings, learningRate: rate(), clip: clip(), stability: $('stability').checked };
  await tryTo('start', current);
}
$('new-run').onsubmit = (submit) => {
  submit.preventDefault();
  start();
};
$('task').onchange = showControls;
$('learning-rate').oninput = showControls;
$('learning-rate').onchange = () => tryTo('learningRate', { rate: rate() });
$('clip').oninput = showControls;
const setStability = async () => {
  showControls();
  await tryTo('stability', { stability: $('stability').checked, clip: clip() });
  if (series.last) events.add(series.last.step + 1, $('stability').checked ? `Stability features on, gradients clipped to ${short(clip())}.` : 'Stability features off.');
};
$('clip').onchange = setStability;
$('stability').onchange = setStability;
$('hurt-buttons').onclick = async ({ target }) => {
  const fault = FAULTS[target.dataset.hurt];
  if (!fault || !current.task) return;
  const step = await tryTo('disturb', { kind: target.dataset.hurt });
  if (step === undefined) return;
  series.faults.push({ step, ...fault });
  events.add(step, `You put in: ${fault.label}${fault.steps > 1 ? ` for ${fault.steps} steps` : ''}.`, 'bad');
};
$('save').onclick = async () => {
  const file = await tryTo('checkpoint');
  if (file) download(`${runName()}-step${file.step}.safetensors`, file.bytes, 'application/octet-stream');
};
$('save-json').onclick = async () => {
  const bytes = await tryTo('records', { format: 'json' });
  if (bytes) download(`${runName()}.jsonl`, bytes, 'application/jsonl');
};
$('save-csv').onclick = async () => {
  const bytes = await tryTo('records', { format: 'csv' });
  if (bytes) download(`${runName()}.csv`, bytes, 'text/csv');
};
$('load').onchange = async () => {
  const [file] = $('load').files;
  if (!file) return;
  const bytes = await file.arrayBuffer();
  const loaded = await tryTo('load', { bytes }, [bytes]);
  $('load').value = '';
  if (!loaded) return;
  const { step, seed } = loaded;
  current.settings.seed = seed;
  $('seed').value = seed;
  hideAlert();
  series.truncate(step);
  events.add(step, `Loaded ${file.name}.`);
  redraw();
};
$('check').onclick = async () => {
  $('check').disabled = true;
  const checks = await tryTo('numerics');
  $('check').disabled = false;
  if (!checks) return;
  const list = document.createElement('dl');
  for (const { name, outcome, found, consequence } of checks) {
    const term = item('dt', `${name}: `);
    term.append(item('span', outcome, outcome));
    list.append(term, item('dd', `${found}. ${consequence}`));
  }
  const worst = ['fail', 'degraded', 'pass'].find((outcome) => checks.some((check) => check.outcome === outcome));
  const verdict = { fail: 'Not fit to train.', degraded: 'Fit to train; what is degraded is worked around.', pass: 'Fit to train.' }[worst];
  $('numerics').replaceChildren(item('p', verdict), list);
  $('numerics').hidden = false;
};
$('lose').onclick = () => tryTo('lose');
$('advance-form').onsubmit = (submit) => {
  submit.preventDefault();
  tryTo('advance', { steps: Number($('advance').value) });
};
$('ask-form').onsubmit = async (submit) => {
  submit.preventDefault();
  const answer = await tryTo('ask', { question: $('ask').value });
  if (answer) $('ask-answer').replaceChildren(...answerItem(answer).childNodes);
};
$('prompt-form').onsubmit = (submit) => {
  submit.preventDefault();
  tryTo('prompt', { prompt: $('prompt').value });
};

function takeFile(file) {
  textFile = file;
  $('text').value = '';
  $('text').placeholder = `${file.name}, ${number.format(file.size)} bytes`;
  $('text-note').textContent = `${file.name} is read when the run starts. It stays on this machine.`;
}
$('file').onchange = () => $('file').files[0] && takeFile($('file').files[0]);
$('text').oninput = () => {
  textFile = null;
  $('text').placeholder = '';
  $('text-note').textContent = `${number.format($('text').value.length)} characters. It stays on this machine.`;
};
for (const type of ['dragover', 'dragleave', 'drop']) {
  $('text').addEventListener(type, (drag) => {
    drag.preventDefault();
    $('text').classList.toggle('over', type === 'dragover');
    if (type === 'drop') {
      const [file] = drag.dataTransfer.files;
      if (file) takeFile(file);
      else {
        textFile = null;
        $('text').value = drag.dataTransfer.getData('text');
      }
    }
  });
}

const tellHidden = () => asked.tell('hidden', { hidden: document.hidden || !shown });
document.addEventListener('visibilitychange', tellHidden);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => drawAnswers($('grid'), shownAnswers));

showControls();
whenChosen((task) => {
  shown = task === 'scratch';
  tellHidden();
  if (!shown) return;
  waiting?.();
  waiting = null;
});
