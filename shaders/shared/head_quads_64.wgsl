// Quads in a head, at most: the length of what holds a row of one.
const MAX_HEAD_QUADS = 64u;
