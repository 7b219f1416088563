// Invocations of a workgroup that works on one long row alone.
const LANES = 256u;
