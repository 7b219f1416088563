// Cooperative matrices of 8 x 8 with operands in f16 and sums in f32: what Apple's GPUs have, and
// lavapipe. Workgroup memory is written by single elements, as Metal's loads want it.
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
alias Stored = f16;
const UNIT = 8u; // rows and columns of a matrix
const WIDTH = 1u; // elements of Stored
const PAD = 8u; // elements between two rows: 16 bytes, so that few of them meet in a bank

fn put(at: u32, quad: vec4<f32>) {
    tiles[at] = Stored(quad.x);
    tiles[at + 1u] = Stored(quad.y);
    tiles[at + 2u] = Stored(quad.z);
    tiles[at + 3u] = Stored(quad.w);
}
