// y[r, c] = table[tokens[r] - first, c] where that is a row of the table, which is a part of a larger
// one. The part that begins with id 0 writes zeros where tokens[r] is outside the vocabulary. One
// invocation per quad.
struct EmbeddingParams { rows: u32, quads: u32, first: u32, table_rows: u32, vocabulary: u32 }

@group(0) @binding(0) var<uniform> params: EmbeddingParams;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> table: array<StoredTable>;
@group(0) @binding(3) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.rows * params.quads {
        let token = tokens[i / params.quads];
        // Far above all rows where the id lies below the first.
        let row = token - params.first;
        if row < params.table_rows {
            y[i] = table_quad(row, i % params.quads);
        } else if params.first == 0u && token >= params.vocabulary {
            y[i] = pack(vec4(0.0));
        }
    }
}
