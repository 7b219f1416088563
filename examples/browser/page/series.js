// What the charts show, on the main thread: numbers by step, thinned when there are many, and what
// is marked on the axis.

/** Points that a chart shows at most; beyond, every second one goes. */
const MOST = 3000;
/** Weight of the newest loss in the smoothed curve, once there are enough for it. */
const SMOOTHING = 0.06;

/** Reasons and events, by their numbers in telemetry. */
export const REASONS = ['', 'NaN or Inf in the gradients', 'training has given up', 'loss spike', 'gradient spike', 'rolled back',
  'NaN or Inf in the loss', 'NaN or Inf in running statistics'];
export const EVENTS = {
  1: 'loss spike', 2: 'gradient spike', 4: 'clipped harder', 8: 'learning rate cut', 16: 'moments emptied',
  32: 'rolled back to a snapshot', 64: 'snapshot', 128: 'loss scale halved', 256: 'loss scale raised',
};
export const ROLLED_BACK = 32;

const COLUMNS = ['loss', 'smooth', 'validation', 'norm', 'threshold', 'rate', 'scale', 'speed', 'row'];
/** The largest f32: what the threshold is where nothing clips. */
const NO_CLIP = 3e38;

/** A finite number, or null: a gap in the curve. */
const finite = (x) => (Number.isFinite(x) ? x : null);

export class Series {
  constructor(columns, tokensPerStep, layerCount) {
    this.at = Object.fromEntries(columns.map((name, index) => [name, index]));
    this.width = columns.length;
    this.tokensPerStep = tokensPerStep;
    this.layerCount = layerCount;
    this.clear();
  }

  clear() {
    this.stride = 1;
    this.step = [];
    for (const name of COLUMNS) this[name] = [];
    this.smoothed = null;
    this.skipped = [];
    this.clipped = [];
    this.faults = [];
    this.heat = { step: [], norms: [] };
    this.last = null;
    this.skippedTotal = 0;
    this.received = 0;
  }

  /** Forgets `step` and what follows: the run went back to it. */
  truncate(step) {
    const kept = this.step.findIndex((s) => s >= step);
    if (kept >= 0) for (const name of ['step', ...COLUMNS]) this[name].length = kept;
    for (const name of ['skipped', 'clipped']) this[name] = this[name].filter((s) => s < step);
    this.faults = this.faults.filter((fault) => fault.step < step);
    const column = this.heat.step.findIndex((s) => s >= step);
    if (column >= 0) {
      this.heat.step.length = column;
      this.heat.norms.length = column;
    }
    this.smoothed = this.smooth.findLast((x) => x !== null) ?? null;
    const row = this.row.at(-1);
    this.last = row && step > 0 ? { ...row, step: step - 1 } : null;
    this.skippedTotal = this.last?.skipped_total ?? 0;
  }

  /** Adds rows of telemetry; returns them as objects. */
  push(steps, layers, seconds) {
    const rows = [];
    for (let offset = 0; offset < steps.length; offset += this.width) {
      rows.push(Object.fromEntries(Object.entries(this.at).map(([name, i]) => [name, steps[offset + i]])));
    }
    const speed = (rows.length * this.tokensPerStep) / seconds;
    for (const row of rows) this.add(row, speed);
    for (let offset = 0; offset < layers.length; offset += this.layerCount + 1) {
      this.heat.step.push(layers[offset]);
      this.heat.norms.push(layers.slice(offset + 1, offset + 1 + this.layerCount));
    }
    if (this.heat.step.length > MOST) {
      this.heat.step = this.heat.step.slice(-MOST / 2);
      this.heat.norms = this.heat.norms.slice(-MOST / 2);
    }
    if (this.step.length > MOST) this.thin();
    return rows;
  }

  add(row, speed) {
    const applied = row.applied === 1;
    const clipped = applied && row.clip_coefficient < 1;
    const disturbed = this.faults.some((fault) => row.step >= fault.step && row.step < fault.step + fault.steps);
    const loss = finite(row.loss);
    if (loss !== null && !disturbed) {
      // The mean of the first losses, then of about the last 1 / SMOOTHING.
      const weight = Math.max(SMOOTHING, 1 / (row.step + 1));
      this.smoothed = this.smoothed === null ? loss : this.smoothed + weight * (loss - this.smoothed);
    }
    if (!applied) this.skipped.push(row.step);
    if (clipped) this.clipped.push(row.step);
    this.last = row;
    this.speedNow = speed;
    this.skippedTotal = row.skipped_total;
    this.received += 1;
    if (row.step % this.stride !== 0 && applied && !disturbed) return;
    this.step.push(row.step);
    this.loss.push(loss);
    this.smooth.push(this.smoothed);
    this.validation.push(null);
    this.norm.push(finite(row.gradient_norm) || null);
    this.threshold.push(row.max_norm < NO_CLIP ? row.max_norm : null);
    this.rate.push(row.learning_rate);
    this.scale.push(row.loss_scale);
    this.speed.push(finite(speed));
    this.row.push(row);
  }

  validate(step, loss) {
    const index = this.step.findLastIndex((s) => s <= step);
    if (index >= 0) this.validation[index] = finite(loss);
  }

  /** Keeps every second point, and all that were marked or validated. */
  thin() {
    this.stride *= 2;
    const marked = new Set(this.skipped);
    const keep = this.step.map((step, i) => step % this.stride === 0 || marked.has(step) || this.validation[i] !== null);
    for (const name of ['step', ...COLUMNS]) this[name] = this[name].filter((_, i) => keep[i]);
  }
}
