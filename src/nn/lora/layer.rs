//! The adapter of one layer, in a graph.

use std::ops::Range;

use crate::graph::ops::{AdaptedColumns, LowRank};
use crate::graph::{Graph, Value};
use crate::kernels::Activation;
use crate::nn::{Dropout, Embedding, Init};

/// A module whose weight is a part of a layer's, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptedPart {
    /// Scope of its B; `None` for the layer's own.
    pub name: Option<&'static str>,
    /// The rows of the layer's weight that are its own.
    pub rows: Range<usize>,
}

/// Low-rank updates of a [`Linear`](crate::nn::Linear) layer or an [`Embedding`]; see
/// [`Lora`](crate::nn::Lora).
#[derive(Clone, Debug, PartialEq)]
pub struct LinearAdapter {
    /// Rows of each A.
    pub rank: usize,
    /// Factor on B A.
    pub scale: f32,
    /// Whether there are magnitudes.
    pub dora: bool,
    /// Probability of dropout in front of A.
    pub dropout: f32,
    /// What is adapted of the layer, in the order of its rows.
    pub parts: Vec<AdaptedPart>,
}

/// Whether the A of so many parts are rows of one parameter, and h of all comes from one product: the
/// columns of each must begin with a quad.
pub(super) fn is_joined(rank: usize, parts: usize) -> bool {
    rank.is_multiple_of(4) || parts == 1
}

/// A part with its parameters.
struct Trained {
    /// A, and the first of its rows that belong to this part.
    a: (Value, usize),
    b: Value,
}

impl AdaptedPart {
    /// Runs `build` in its scope.
    fn scope<T>(&self, graph: &mut Graph, build: impl FnOnce(&mut Graph) -> T) -> T {
        match self.name {
            Some(name) => graph.scope(name, build),
            None => build(graph),
        }
    }
}

impl LinearAdapter {
    /// y = x W'ᵀ + bias, with the adapted W' in place of the weight (out, in).
    #[track_caller]
    pub(crate) fn forward(
        &self,
        graph: &mut Graph,
        x: Value,
        weight: Value,
        bias: Option<Value>,
    ) -> Value {
        let inputs = graph.shape(weight).cols();
        let parts = self.parameters(graph, inputs);
        let dropped = Dropout { probability: self.dropout }.forward(graph, x);
        let updates = self.updates(graph, dropped, &parts);
        if !self.dora {
            return graph.adapted_linear(x, weight, bias, &updates);
        }
        let factors = self.factors(graph, weight, &parts);
        let y = graph.adapted_linear(dropped, weight, None, &updates);
        let y = graph.scale_columns(y, &factors, bias);
        if dropped == x {
            return y;
        }
        // What is dropped in front of the adapter still passes the weight as it is.
        let negative = graph.scale(dropped, -1.0);
        let rest = graph.add(x, negative);
        let kept = graph.linear(rest, weight, None, Activation::None);
        graph.add(y, kept)
    }

    /// tokens (..) to rows of the adapted table (.., width).
    #[track_caller]
    pub(crate) fn embed(
        &self,
        graph: &mut Graph,
        name: &str,
        embedding: &Embedding,
        tokens: Value,
    ) -> Value {
        let Embedding { count, width, .. } = *embedding;
        let table = embedding.table(graph, name);
        graph.scope(name, |graph| {
            let normal = Init::Normal { mean: 0.0, deviation: 1.0 };
            let a = graph.added_parameter("lora_A", [count, self.rank], Init::ZERO);
            let b = graph.added_parameter("lora_B", [width, self.rank], normal);
            let hidden = graph.embedding(a, tokens);
            let updates = vec![(b, AdaptedColumns { first: 0, hidden: 0 })];
            graph.adapted_embedding(table, tokens, LowRank { hidden, scale: self.scale, updates })
        })
    }

    fn parameters(&self, graph: &mut Graph, inputs: usize) -> Vec<Trained> {
        let Self { rank, parts, .. } = self;
        let a =
            |graph: &mut Graph, rows| graph.added_parameter("lora_A", [rows, inputs], Init::LINEAR);
        let joined = is_joined(*rank, parts.len()).then(|| a(graph, rank * parts.len()));
        let trained = parts.iter().enumerate().map(|(index, part)| {
            part.scope(graph, |graph| Trained {
                a: joined.map_or_else(|| (a(graph, *rank), 0), |joined| (joined, index * rank)),
                b: graph.added_parameter("lora_B", [part.rows.len(), *rank], Init::ZERO),
            })
        });
        trained.collect()
    }

    /// The products x Aᵀ with what becomes of them: one where A is joined.
    fn updates(&self, graph: &mut Graph, x: Value, parts: &[Trained]) -> Vec<LowRank> {
        let mut updates: Vec<LowRank> = Vec::new();
        for (part, Trained { a: (a, a_first), b }) in self.parts.iter().zip(parts) {
            let columns = AdaptedColumns { first: part.rows.start, hidden: *a_first };
            match updates.last_mut().filter(|_| *a_first > 0) {
                Some(update) => update.updates.push((*b, columns)),
                None => {
                    let hidden = graph.linear(x, *a, None, Activation::None);
                    let (scale, updates_of) = (self.scale, vec![(*b, columns)]);
                    updates.push(LowRank { hidden, scale, updates: updates_of });
                }
            }
        }
        updates
    }

    /// Magnitudes and norms of each part, for [`Graph::scale_columns`].
    fn factors(
        &self,
        graph: &mut Graph,
        weight: Value,
        parts: &[Trained],
    ) -> Vec<(usize, Value, Value)> {
        let factors = self.parts.iter().zip(parts).map(|(part, Trained { a: (a, a_first), b })| {
            let (rows, init) = (part.rows.clone(), Init::ONE);
            let norms = graph.row_norms(weight, rows.clone(), None);
            let magnitude = part
                .scope(graph, |graph| graph.added_parameter("lora_magnitude", [rows.len()], init));
            graph.start_as(magnitude, norms);
            let update = Some((*a, *a_first, *b, self.scale));
            (rows.start, magnitude, graph.row_norms(weight, rows, update))
        });
        factors.collect()
    }
}
