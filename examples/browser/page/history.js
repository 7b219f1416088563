// What a run has told so far, kept with its state so that a reload loses none of it.

const STEP = 0;

export class History {
  /** Of rows of telemetry with these columns, the first of which is the step. */
  constructor(columns) {
    Object.assign(this, { width: columns.length, rows: [], validation: [], seconds: 0, earlier: new Uint8Array(0) });
  }

  /** Adds rows, which took so many seconds. */
  push(steps, seconds) {
    for (let at = 0; at < steps.length; at += this.width) this.rows.push(steps.slice(at, at + this.width));
    this.seconds += seconds;
  }

  /** Forgets `step` and what follows: the run went back to it. */
  truncate(step) {
    this.rows = this.rows.filter((row) => row[STEP] < step);
    this.validation = this.validation.filter(([at]) => at < step);
  }

  /** All rows, one after another. */
  flat() {
    const all = new Float64Array(this.rows.length * this.width);
    this.rows.forEach((row, i) => all.set(row, i * this.width));
    return all;
  }

  /** The metrics of the whole run: those of before the reload, then the session's own. */
  lines(own) {
    const all = new Uint8Array(this.earlier.length + own.length);
    all.set(this.earlier);
    all.set(own, this.earlier.length);
    return all;
  }

  /** {facts, parts} to keep. */
  parts(own) {
    return {
      facts: { validation: this.validation, seconds: this.seconds },
      parts: { rows: new Uint8Array(this.flat().buffer), lines: this.lines(own) },
    };
  }

  restore({ facts, parts }) {
    this.push(new Float64Array(parts.rows.slice().buffer), 0);
    Object.assign(this, { validation: facts.validation, seconds: facts.seconds, earlier: parts.lines });
  }
}
