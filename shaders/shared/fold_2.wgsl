// 4 invocations of a workgroup, joined in pairs, where a CPU runs them one after the other: each of
// them would set all memory of the workgroup to zero.
const FOLD = 2u;
