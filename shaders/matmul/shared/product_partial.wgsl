// Terms are added up 256 at a time, and then those partial sums: one long sum would lose all terms
// that are small beside it, as those of a gradient over a large vocabulary are.
const PARTIAL_QUADS = 64u;
