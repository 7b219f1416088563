// A tile of 64 x 64 elements of C per workgroup, 4 x 8 per invocation: where C has enough of them
// for all of a GPU.
const TILE_QUADS = 16u; // of rows, and of columns
const COL_BLOCKS = 2u; // blocks of 4 x 4 elements per invocation, in one row
const INVOCATIONS = 128u;
