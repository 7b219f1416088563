// Cooperative matrices of 16 x 16 with operands in f16 and sums in f32: what GPUs of NVIDIA and AMD
// have. Workgroup memory is written four elements at a time.
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
alias Stored = vec4<f16>;
const UNIT = 16u; // rows and columns of a matrix
const WIDTH = 4u; // elements of Stored
const PAD = 8u; // elements between two rows: 16 bytes, so that few of them meet in a bank

fn put(at: u32, quad: vec4<f32>) { tiles[at / 4u] = vec4<f16>(quad); }
