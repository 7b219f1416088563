// 64 parts, one for each invocation of a workgroup, joined by eights.
const FOLD = 8u;
const INVOCATIONS = 64u;
const COLUMNS = 64u;
