// keys and values of sequence s, head h at positions[r] = those of row r of qkv, for the rows r of
// the sequence. Rows whose position is not below `context` are left out. One invocation per quad.
@group(0) @binding(0) var<uniform> params: CacheAppendParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> positions: array<u32>; // (sequences, rows)
@group(0) @binding(3) var<storage, read_write> keys: array<Quad>;
@group(0) @binding(4) var<storage, read_write> values: array<Quad>;

// (sequences, rows) of heads query, kv_heads key and kv_heads value heads.
struct CacheAppendParams {
    sequences: u32,
    rows: u32,
    heads: u32,
    kv_heads: u32,
    quads: u32,
    context: u32,
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let width = params.kv_heads * params.quads;
    let row = i / width;
    if row < params.sequences * params.rows {
        let position = positions[row];
        if position < params.context {
            let d = i % params.quads;
            let head = i % width / params.quads;
            let sequence = row / params.rows;
            let place = (sequence * params.kv_heads + head) * params.context + position;
            let first = row * (params.heads + 2u * params.kv_heads) + params.heads + head;
            keys[place * params.quads + d] = qkv[first * params.quads + d];
            values[place * params.quads + d] = qkv[(first + params.kv_heads) * params.quads + d];
        }
    }
}
