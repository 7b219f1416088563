// Invocations of a workgroup that works on one row, where a CPU runs them one after the other: it
// pays for each of them at every barrier, which few of them cross for the same sum.
const LANES = 4u;
