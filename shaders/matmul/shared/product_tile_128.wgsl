// A tile of 128 x 128 elements of C per workgroup, 8 x 8 per invocation: the most arithmetic for what
// is loaded, where a GPU has the registers and C enough tiles. It takes all of WebGPU's workgroup memory.
const TILE_QUADS = 32u; // of rows, and of columns
const ROW_BLOCKS = 2u; // blocks of 4 x 4 elements per invocation, one below the other
const COL_BLOCKS = 2u; // and side by side
const INVOCATIONS = 256u;
