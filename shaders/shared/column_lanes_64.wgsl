// Invocations of a workgroup that adds up columns, and how many quads of a row it takes at most.
const COLUMN_LANES = 64u;
const COLUMN_QUADS = 16u;
