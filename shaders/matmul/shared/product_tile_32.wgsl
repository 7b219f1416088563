// A tile of 32 x 32 elements of C per workgroup, 4 x 4 per invocation: four times as many workgroups,
// where tiles of 64 x 64 would leave some of a GPU without one.
const TILE_QUADS = 8u; // of rows, and of columns
const ROW_BLOCKS = 1u; // blocks of 4 x 4 elements per invocation, one below the other
const COL_BLOCKS = 1u; // and side by side
const INVOCATIONS = 64u;
