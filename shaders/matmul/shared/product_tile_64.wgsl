// A tile of 64 x 64 elements of C per workgroup, 4 x 8 per invocation: where C has enough of them
// for all of a GPU.
const TILE_QUADS = 16u; // of rows, and of columns
const ROW_BLOCKS = 1u; // blocks of 4 x 4 elements per invocation, one below the other
const COL_BLOCKS = 2u; // and side by side
const INVOCATIONS = 128u;
