// 64 invocations of a workgroup, joined by eights.
const FOLD = 8u;
