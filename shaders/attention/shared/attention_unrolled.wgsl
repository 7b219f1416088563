// Quads in a head, at most MAX_HEAD_QUADS, where the compiler may unroll over them, so that private
// arrays become registers; 0 leaves the number to the uniform and compiles faster.
override unroll_quads: u32 = 0u;

fn head_quads() -> u32 { return select(unroll_quads, params.head_quads, unroll_quads == 0u); }
