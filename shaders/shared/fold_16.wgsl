// 256 invocations of a workgroup, joined by sixteens.
const FOLD = 16u;
