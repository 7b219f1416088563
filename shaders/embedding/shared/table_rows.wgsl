// A quad of a row of the table.
alias StoredTable = Quad;

fn table_quad(row: u32, quad: u32) -> Quad { return table[row * params.quads + quad]; }
