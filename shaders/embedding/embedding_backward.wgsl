// gradient[v, c] = sum of dy[r, c] over the rows r with tokens[r] = first + v, in order of r. One
// workgroup per row of the gradient: it looks through the tokens in blocks, and each lane adds its own columns of
// the matching rows. accumulate 1 adds to what is there.
struct EmbeddingBackwardParams {
    rows: u32,
    quads: u32,
    first: u32,
    gradient_rows: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: EmbeddingBackwardParams;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<Quad>;
@group(0) @binding(3) var<storage, read_write> gradient: array<vec4<f32>>;

const BLOCK = 512u;
const WORDS = BLOCK / 32u;
// Quads a lane sums in registers in one pass over the tokens: 1024 columns a pass.
const HELD = 4u;

// One bit per token of a block. Three of them in turn: while one is read, the next is already clear
// and the one before, which every lane has left behind at the barrier, is cleared.
var<workgroup> matches: array<array<atomic<u32>, WORDS>, 3>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    let token = params.first + row;
    // Read once: FXC takes what is read in a loop that lanes leave at different times for varying,
    // and rejects barriers that depend on it.
    let rows = params.rows;
    let quads = params.quads;
    let blocks = (rows + BLOCK - 1u) / BLOCK;
    var turn = 0u;
    for (var first = 0u; first < quads; first += 64u * HELD) {
        var total = array<vec4<f32>, HELD>();
        var found = false;
        for (var block = 0u; block < blocks; block++) {
            for (var at = lane; at < BLOCK; at += 64u) {
                let r = block * BLOCK + at;
                if r < rows && tokens[min(r, rows - 1u)] == token {
                    atomicOr(&matches[turn][at / 32u], 1u << (at % 32u));
                }
            }
            workgroupBarrier();
            for (var word = 0u; word < WORDS; word++) {
                var bits = atomicLoad(&matches[turn][word]);
                found |= bits != 0u;
                while bits != 0u {
                    let r = block * BLOCK + word * 32u + firstTrailingBit(bits);
                    bits &= bits - 1u;
                    for (var k = 0u; k < HELD; k++) {
                        let q = first + k * 64u + lane;
                        if q < quads { total[k] += unpack(dy[r * quads + q]); }
                    }
                }
            }
            if lane < WORDS { atomicStore(&matches[(turn + 2u) % 3u][lane], 0u); }
            turn = (turn + 1u) % 3u;
        }
        if row < params.gradient_rows && (found || params.accumulate == 0u) {
            for (var k = 0u; k < HELD; k++) {
                let q = first + k * 64u + lane;
                if q < quads {
                    let at = row * quads + q;
                    if params.accumulate != 0u { total[k] += gradient[at]; }
                    gradient[at] = total[k];
                }
            }
        }
    }
}
