// How long the rest of a run takes, by what its last steps took.

/** Weight of what was told last. */
const NEWEST = 0.2;

export class TimeLeft {
  constructor() {
    this.clear();
  }

  clear() {
    this.perStep = null;
    this.told = 0;
  }

  /** So many steps took so many seconds. */
  took(steps, seconds) {
    if (steps === 0) return;
    this.told += 1;
    // The first steps compile kernels.
    if (this.told === 1) return;
    const each = seconds / steps;
    this.perStep = this.perStep === null ? each : this.perStep + NEWEST * (each - this.perStep);
  }

  /** Of so many steps, in words. */
  of(steps) {
    if (steps <= 0) return '0 s';
    return this.perStep === null ? '–' : duration(steps * this.perStep);
  }
}

/** Seconds in words. */
function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
