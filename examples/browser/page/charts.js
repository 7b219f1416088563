// Charts: uPlot for lines, a canvas for the layers and for the answers.
import uPlot from 'uplot';

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Numbers in few characters. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace('e+', 'e');
  if (size >= 1000) return Math.round(value).toLocaleString('en');
  return String(Number(value.toPrecision(3)));
}

/** Marks on the axis of a chart: skipped and clipped steps below, faults across. */
function marks(series) {
  const draw = (u) => {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const bottom = top + height;
    const ratio = devicePixelRatio;
    const x = (step) => u.valToPos(step, 'x', true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width + 1, height + 12 * ratio);
    ctx.clip();
    const ticks = (steps, name, length) => {
      ctx.strokeStyle = color(name);
      ctx.lineWidth = 1.5 * ratio;
      ctx.beginPath();
      let before = -Infinity;
      for (const step of steps) {
        const at = x(step);
        if (at - before < 0.5) continue;
        before = at;
        ctx.moveTo(at, bottom);
        ctx.lineTo(at, bottom - length * ratio);
      }
      ctx.stroke();
    };
    ticks(series().clipped, 'warn', 5);
    ticks(series().skipped, 'danger', 11);
    ctx.strokeStyle = color('danger');
    ctx.fillStyle = color('danger');
    ctx.lineWidth = ratio;
    ctx.setLineDash([4 * ratio, 3 * ratio]);
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    let free = -Infinity;
    for (const fault of series().faults) {
      const at = x(fault.step);
      ctx.beginPath();
      ctx.moveTo(at, top);
      ctx.lineTo(at, bottom);
      ctx.stroke();
      const text = ctx.measureText(fault.label).width;
      const start = Math.min(at + 3 * ratio, left + width - text);
      if (start > free) {
        ctx.fillText(fault.label, start, top + 11 * ratio);
        free = start + text + 4 * ratio;
      }
    }
    ctx.restore();
  };
  return { hooks: { draw } };
}

/** The first losses set the scale: what a fault makes of a loss would flatten all the rest. */
function lossRange(series) {
  return (u, low, high) => {
    const first = series().loss.find((x) => x !== null) ?? 1;
    const top = Math.min(high ?? first, 2 * first);
    return [0, Math.max(top, 1e-3) * 1.05];
  };
}

function logRange(u, low, high) {
  if (!(low > 0) || !(high > 0)) return [0.1, 10];
  return [10 ** Math.floor(Math.log10(Math.max(low / 1.5, 1e-9))), 10 ** Math.ceil(Math.log10(Math.min(Math.max(high, low * 2), 1e12)))];
}

const fromZero = (u, low, high) => [0, (high || 1) * 1.1];

/** What each chart is made of. */
const CHARTS = {
  loss: { log: false, range: lossRange, lines: [
    { data: 'loss', color: 'accent', width: 1, faint: true },
    { data: 'smooth', color: 'accent', width: 2.2 },
    { data: 'validation', color: 'second', width: 2, spanGaps: true, points: true },
  ] },
  norm: { log: true, lines: [
    { data: 'norm', color: 'accent', width: 1.4 },
    { data: 'threshold', color: 'threshold', width: 1.6, dash: [5, 4] },
  ] },
  rate: { range: () => fromZero, lines: [{ data: 'rate', color: 'accent', width: 1.8 }] },
  speed: { range: () => fromZero, lines: [{ data: 'speed', color: 'accent', width: 1.8 }] },
  scale: { log: true, lines: [{ data: 'scale', color: 'accent', width: 1.8 }] },
};

export class Charts {
  /** Draws `names` into the elements of a page whose ids begin with `prefix`, and the layers if it has a place for them. */
  constructor(series, { prefix = '', names = Object.keys(CHARTS) } = {}) {
    Object.assign(this, { series, prefix });
    this.charts = names.map((name) => [name, CHARTS[name]]);
    this.plots = {};
    this.build();
    new ResizeObserver(() => this.resize()).observe(this.element('charts'));
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.build());
  }

  element(id) {
    return document.getElementById(`${this.prefix}${id}`);
  }

  build() {
    for (const [name, chart] of this.charts) {
      this.plots[name]?.destroy();
      const root = this.element(`chart-${name}`);
      this.plots[name] = new uPlot(this.options(root, chart), this.data(chart), root);
    }
    this.drawHeat();
  }

  options(root, chart) {
    const axis = {
      stroke: color('soft'), grid: { stroke: color('grid'), width: 1 }, ticks: { show: false },
      font: '11px system-ui, sans-serif', gap: 4,
    };
    const range = chart.log ? logRange : chart.range(this.series);
    const line = ({ color: name, width, faint, dash, spanGaps, points }) => ({
      stroke: color(name), width, dash, spanGaps, alpha: faint ? 0.35 : 1,
      points: { show: Boolean(points), size: 6, fill: color(name) },
    });
    return {
      width: root.clientWidth || 300,
      height: root.clientHeight || 170,
      legend: { show: false },
      cursor: { sync: { key: `${this.prefix}steps` }, points: { size: 7 }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: (u, low, high) => [0, Math.max(high ?? 0, 20)] }, y: { distr: chart.log ? 3 : 1, range } },
      axes: [
        { ...axis, size: 24, values: (u, ticks) => ticks.map((tick) => (tick % 1 ? '' : short(tick))) },
        { ...axis, size: 48, values: (u, ticks) => ticks.map((tick) => (tick === null ? '' : short(tick))) },
      ],
      series: [{}, ...chart.lines.map(line)],
      plugins: [marks(this.series)],
    };
  }

  data(chart) {
    const series = this.series();
    return [series.step, ...chart.lines.map((line) => series[line.data])];
  }

  resize() {
    for (const [name, plot] of Object.entries(this.plots)) {
      const root = this.element(`chart-${name}`);
      if (root.clientWidth > 0) plot.setSize({ width: root.clientWidth, height: root.clientHeight });
    }
    this.drawHeat();
  }

  update() {
    for (const [name, chart] of this.charts) {
      if (this.element(`chart-${name}`).clientWidth > 0) this.plots[name].setData(this.data(chart));
    }
    this.drawHeat();
  }

  /** A row per layer, a column per watched step, colour by the logarithm of the norm. */
  drawHeat() {
    const canvas = this.element('heat');
    if (!canvas) return;
    const { step, norms } = this.series().heat;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => Math.round(size * devicePixelRatio));
    if (width === 0 || height === 0) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const ctx = canvas.getContext('2d');
    ctx.clearRect(0, 0, width, height);
    if (step.length === 0) return;
    // Columns of at least 3 pixels; where there are more steps, the latest.
    const columns = Math.max(Math.min(step.length, Math.floor(width / 3)), Math.min(40, Math.floor(width / 3)));
    const shown = norms.slice(-columns);
    const [column, row] = [width / columns, height / this.series().layerCount];
    const logs = shown.flatMap((layers) => [...layers]).filter((norm) => norm > 0 && Number.isFinite(norm)).map(Math.log10);
    logs.sort((a, b) => a - b);
    const at = (share) => logs[Math.floor(share * (logs.length - 1))] ?? 0;
    const [low, high] = [at(0.02), Math.max(at(0.98), at(0.02) + 0.5)];
    shown.forEach((layers, i) => layers.forEach((norm, layer) => {
      ctx.fillStyle = norm > 0 ? ramp((Math.log10(norm) - low) / (high - low)) : color('danger');
      ctx.fillRect(Math.floor(i * column), Math.floor(layer * row), Math.ceil(column), Math.ceil(row) - (row > 8 ? 1 : 0));
    }));
  }
}

const RAMP = [[22, 50, 79], [18, 119, 127], [111, 191, 115], [253, 230, 138]];

/** A colour of the ramp for a share in [0, 1]. */
function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const index = Math.min(Math.floor(at), RAMP.length - 2);
  const mix = RAMP[index].map((x, i) => Math.round(x + (at - index) * (RAMP[index + 1][i] - x)));
  return `rgb(${mix.join(' ')})`;
}

/** A square per problem. */
export function drawAnswers(canvas, answers) {
  const side = Math.ceil(Math.sqrt(answers.length));
  const ctx = canvas.getContext('2d');
  const cell = canvas.width / side;
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  const colors = [color('grid'), color('good')];
  answers.forEach(({ right }, i) => {
    ctx.fillStyle = colors[Number(right)];
    ctx.fillRect((i % side) * cell + 1, Math.floor(i / side) * cell + 1, cell - 2, cell - 2);
  });
}
