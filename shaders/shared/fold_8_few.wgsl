// 64 parts joined by eights, in the order of fold_8.wgsl, by the 4 invocations of a workgroup, where a
// CPU runs them one after the other: each sets all memory of the workgroup to zero, so it has little.
const FOLD = 8u;
const INVOCATIONS = 4u;
const COLUMNS = 8u;
