// 256 parts, one for each invocation of a workgroup, joined by sixteens.
const FOLD = 16u;
const INVOCATIONS = 256u;
const COLUMNS = 256u;
