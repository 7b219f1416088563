// What the workers have in common: a worker answers one message at a time, between slices of
// training, so its session is never used twice at once.
//
// From the page: {id, type, ...}, answered by {type: 'reply', id, result | error}.

export const post = (type, more = {}, transfer = []) => self.postMessage({ type, ...more }, transfer);
export const now = () => performance.now();
export const mark = (name) => post('mark', { name, at: performance.timeOrigin + now() });
export const plainError = (error) => ({ name: error?.name ?? 'Error', message: String(error?.message ?? error) });

/** Something that is done now and then: at most a share of the time, at least `pause` ms apart. */
export class Chore {
  constructor(pause, share, run) {
    Object.assign(this, { pause, share, run });
    this.due();
  }

  due() {
    this.next = 0;
  }

  /** Not before another pause. */
  later() {
    this.next = now() + this.pause;
  }

  async runIfDue() {
    const start = now();
    if (start < this.next) return;
    await this.run();
    const cost = now() - start;
    this.next = now() + Math.max(this.pause, cost / this.share);
  }
}

const queue = [];
let wake = () => {};
const yielding = new MessageChannel();
yielding.port1.onmessage = () => wake();

/** Waits for a message, or for the next turn of the event loop. */
const turn = (idle) => new Promise((resolve) => {
  wake = resolve;
  if (!idle) yielding.port2.postMessage(0);
});

/** Whether the page waits for an answer. */
export const isAsked = () => queue.length > 0;

/** Takes messages from now on; those of the types in `atOnce` do not wait for their turn. */
export function listen(atOnce) {
  self.onmessage = ({ data }) => {
    if (atOnce[data.type]) atOnce[data.type](data);
    else queue.push(data);
    wake();
  };
}

/** Answers messages and works, for ever. */
export async function loop({ handlers, isBusy, work, fail }) {
  for (;;) {
    try {
      while (isAsked()) await answer(queue.shift(), handlers);
      if (isBusy()) await work();
      // A message may have come meanwhile, before anyone waited for it.
      await turn(!isBusy() && !isAsked());
    } catch (error) {
      await fail(error);
    }
  }
}

async function answer({ id, type, ...message }, handlers) {
  try {
    const result = await handlers[type](message);
    post('reply', { id, result });
  } catch (error) {
    post('reply', { id, error: plainError(error) });
    if (error?.name === 'DeviceLost') throw error;
  }
}

/** Says what there is; false if there is nothing to train on. */
export async function describeAdapter() {
  if (!navigator.gpu) {
    post('failed', { name: 'NoWebGpu', message: 'This browser offers no WebGPU.' });
    return false;
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) {
    post('failed', { name: 'NoAdapter', message: 'The browser has WebGPU, but gives no adapter.' });
    return false;
  }
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  const limits = {};
  for (const name in adapter.limits) limits[name] = adapter.limits[name];
  post('adapter', {
    info: { vendor, architecture, device, description, software: Boolean(isFallbackAdapter) },
    features: [...adapter.features].sort(),
    limits,
  });
  return true;
}
