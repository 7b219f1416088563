//! The rows that a model computes where it goes on with texts, and the cache they go on from.

use crate::graph::ops::{AttentionLayout, AttentionSettings};
use crate::graph::{Graph, Shape, Value};
use crate::kernel::Precision;

/// Rows of several texts at given positions, with all before them in a cache: what takes the place
/// of whole sequences in a model.
#[derive(Debug)]
pub struct CachedRows {
    /// Where in its text each row is, (1, sequences * rows).
    pub positions: Value,
    /// Texts.
    pub sequences: usize,
    /// Positions of a text.
    pub context: usize,
    /// Storage of keys and values.
    pub precision: Precision,
    /// Rows of rotary tables, by their frequencies.
    rotations: Vec<(Vec<f64>, Value)>,
}

impl CachedRows {
    pub fn new(positions: Value, sequences: usize, context: usize, precision: Precision) -> Self {
        Self { positions, sequences, context, precision, rotations: Vec::new() }
    }

    /// Adds the rows of a table (context, width) to x (1, rows, width).
    #[track_caller]
    pub fn add_positions(&self, graph: &mut Graph, x: Value, table: Value) -> Value {
        let rows = graph.embedding(table, self.positions);
        graph.add(x, rows)
    }

    /// Rotates the first heads of qkv (1, rows, columns). Layers that turn alike share the rows of a
    /// table.
    #[track_caller]
    pub fn rotate(
        &mut self,
        graph: &mut Graph,
        qkv: Value,
        heads: usize,
        frequencies: Vec<f64>,
    ) -> Value {
        let found = self.rotations.iter().find(|(known, _)| *known == frequencies);
        let rows = found.map(|&(_, rows)| rows).unwrap_or_else(|| {
            let rows = graph.rotary_rows(self.positions, self.context, &frequencies);
            self.rotations.push((frequencies, rows));
            rows
        });
        graph.rotary_by_row(qkv, heads, rows)
    }

    /// Attention of qkv (1, rows, columns) to the cache of the current scope.
    #[track_caller]
    pub fn attend(
        &self,
        graph: &mut Graph,
        qkv: Value,
        layout: AttentionLayout,
        settings: AttentionSettings,
    ) -> Value {
        let dims = [self.sequences, layout.kv_heads, self.context, layout.head_dim];
        let shape = Shape::real(dims).stored_as(self.precision);
        let cache = ["keys", "values"].map(|name| {
            let name = format!("{}.{name}", graph.scope_name());
            graph.input(&name, shape.clone())
        });
        let rows = [qkv, self.positions];
        graph.with_precision(self.precision, |graph| {
            graph.attention_cached(rows, cache, layout, settings)
        })
    }
}
