// Invocations of a workgroup.
const LANES = 64u;
