// What the pages of both tasks have in common: the worker that is asked, the alert, the list of events.
import { advice } from './advice.js';
import { EVENTS, REASONS, ROLLED_BACK } from './series.js';

export const $ = (id) => document.getElementById(id);
export const number = new Intl.NumberFormat('en');

export function item(tag, text, className) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

/** A function that draws at most once per frame, however often it is called. */
export function oncePerFrame(draw) {
  let frame = 0;
  return () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
}

/** Offers bytes as a file. */
export function download(name, bytes, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A worker that is asked, and that tells: `handlers` by the types of what it tells. */
export class Asked {
  constructor(script, handlers) {
    this.replies = new Map();
    this.failed = handlers.failed;
    this.worker = new Worker(script, { type: 'module' });
    this.worker.onerror = (error) => this.failed({ name: 'Worker', message: error.message ?? 'The worker did not start.' });
    this.worker.onmessage = ({ data: { type, ...message } }) => {
      if (type === 'reply') this.settle(message);
      else handlers[type](message);
    };
    this.nextId = 0;
  }

  settle({ id, result, error }) {
    const { resolve, reject } = this.replies.get(id);
    this.replies.delete(id);
    if (error) reject(Object.assign(new Error(error.message), { name: error.name }));
    else resolve(result);
  }

  /** Asks the worker, and waits for its answer. */
  ask(type, message = {}, transfer = []) {
    const id = this.nextId;
    this.nextId += 1;
    this.worker.postMessage({ id, type, ...message }, transfer);
    return new Promise((resolve, reject) => this.replies.set(id, { resolve, reject }));
  }

  /** Asks, and shows what went wrong. */
  async tryTo(type, message, transfer) {
    try {
      return await this.ask(type, message, transfer);
    } catch (error) {
      // A lost device is told by the worker itself.
      if (error.name !== 'DeviceLost') this.failed(error);
      return undefined;
    }
  }

  /** Says something that needs no answer. */
  tell(type, message = {}) {
    this.worker.postMessage({ type, ...message });
  }
}

export function showAlert(title, text, calm = false, list = [], action) {
  $('alert').hidden = false;
  $('alert').classList.toggle('calm', calm);
  $('alert-title').textContent = title;
  $('alert-text').textContent = text;
  $('alert-list').replaceChildren(...list.map((line) => item('li', line)));
  $('alert-action').hidden = !action;
  if (action) {
    $('alert-action').textContent = action.label;
    $('alert-action').onclick = action.run;
  }
}

export const hideAlert = () => ($('alert').hidden = true);

/** Shows an error with what to do about it, `own` knowing better than all tasks' advice; returns its title. */
export function showAdvice({ name, message }, own) {
  const { title, list, retry } = advice(name, message, own);
  const action = retry && { label: 'Reload the page', run: () => location.reload() };
  showAlert(title, message, false, list, action);
  return title;
}

/** What the device can do, in words, and whether it is a GPU. */
export function describeDevice({ info, features }) {
  const name = info.description || [info.vendor, info.architecture, info.device].filter(Boolean).join(' ');
  return new Map([
    ['Adapter', name || 'not named by the browser'],
    ['Kind', info.software ? 'software: runs on the CPU' : 'GPU'],
    ['f16 arithmetic', features.includes('shader-f16') ? 'offered (not needed)' : 'not offered (not needed)'],
  ]);
}

/** Terms and what they are. */
export const factList = (facts) => [...facts].flatMap(([name, value]) => [item('dt', name), item('dd', value)]);

/** Events that a list keeps. */
const EVENTS_KEPT = 60;

/** What happened, newest first. */
export class EventList {
  /** `anew` says how a run that has given up is begun again. */
  constructor(list, anew) {
    Object.assign(this, { list, anew });
  }

  clear() {
    this.list.replaceChildren();
  }

  add(step, text, kind) {
    const entry = document.createElement('li');
    if (kind) entry.className = kind;
    entry.append(item('b', `step ${number.format(step)}`), ` ${text}`);
    this.list.prepend(entry);
    while (this.list.children.length > EVENTS_KEPT) this.list.lastChild.remove();
  }

  /** Tells what is worth telling of a step. */
  note(row) {
    if (row.gave_up) this.add(row.step, `Training has given up: too many steps in a row were skipped. ${this.anew}`, 'bad');
    if (!row.applied) {
      const count = row.nonfinite_count > 0 ? `${number.format(row.nonfinite_count)} gradient elements are NaN or Inf` : REASONS[row.reason];
      this.add(row.step, `Skipped: ${count}. ${row.reason === 5 ? 'The weights are those of the snapshot.' : 'Nothing was changed.'}`, 'good');
    }
    for (const [bit, name] of Object.entries(EVENTS)) {
      const quiet = ['snapshot', 'loss spike', 'gradient spike', 'learning rate cut', 'loss scale raised'].includes(name);
      if (row.events & bit && !quiet && !(Number(bit) === ROLLED_BACK && !row.applied)) this.add(row.step, `${name[0].toUpperCase()}${name.slice(1)}.`);
    }
  }
}
