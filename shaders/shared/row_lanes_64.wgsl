// Invocations of a workgroup that works on one row: as many as GPUs run at once, or twice that.
const LANES = 64u;
