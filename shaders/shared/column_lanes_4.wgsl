// Invocations of a workgroup that adds up columns, and how many quads of a row it takes at most, where
// a CPU runs them one after the other: each of them would set all memory of the workgroup to zero.
const COLUMN_LANES = 4u;
const COLUMN_QUADS = 4u;
