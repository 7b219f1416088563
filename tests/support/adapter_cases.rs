//! Graphs with the operations that adapters are made of.

use evenkeel::graph::Shape;
use evenkeel::graph::ops::{AdaptedColumns, LowRank};

use super::cases::{Builder, Case, Leaves};

/// x Wᵀ with an update of rank `rank` in each of these ranges of columns: from one h, or from an h for
/// each.
fn adapted_case(
    leaves: Leaves,
    [inputs, outputs, rank]: [usize; 3],
    ranges: &[[usize; 2]],
    is_joined: bool,
) -> Case {
    let name = format!("adapted linear {inputs} {outputs} {rank} {ranges:?} {is_joined}");
    let mut case = Builder::new(name, leaves);
    let x = case.variable("x", &[2, 3, inputs]);
    let weight = case.variable("weight", &[outputs, inputs]);
    let bias = is_joined.then(|| case.variable("bias", &[outputs]));
    let mut updates: Vec<LowRank> = Vec::new();
    for (index, &[first, count]) in ranges.iter().enumerate() {
        let b = case.variable(&format!("b{index}"), &[count, rank]);
        if index == 0 || !is_joined {
            let columns = if is_joined { rank * ranges.len() } else { rank };
            let hidden = case.variable(&format!("h{index}"), &[2, 3, columns]);
            updates.push(LowRank { hidden, scale: 0.7, updates: Vec::new() });
        }
        let hidden = if is_joined { index * rank } else { 0 };
        let update = updates.last_mut().expect("one was added");
        update.updates.push((b, AdaptedColumns { first, hidden }));
    }
    let y = case.graph.adapted_linear(x, weight, bias, &updates);
    case.finish(y)
}

pub fn adapted(leaves: Leaves) -> Vec<Case> {
    let mut table = Builder::new("adapted embedding", leaves);
    let weight = table.variable("table", &[7, 6]);
    let tokens = table.tokens("tokens", &[2, 3], 7);
    let hidden = table.variable("h", &[2, 3, 5]);
    let b = table.variable("b", &[6, 5]);
    let updates = vec![(b, AdaptedColumns { first: 0, hidden: 0 })];
    let update = LowRank { hidden, scale: 1.3, updates };
    let y = table.graph.adapted_embedding(weight, tokens, update);
    vec![
        adapted_case(leaves, [5, 7, 3], &[[0, 7]], true),
        adapted_case(leaves, [5, 16, 4], &[[0, 8], [12, 4]], true),
        adapted_case(leaves, [5, 16, 3], &[[0, 4], [4, 4], [12, 4]], false),
        table.finish(y),
    ]
}

pub fn scaled_columns(leaves: Leaves) -> Vec<Case> {
    let norms = |case: &mut Builder, data: &[f32]| {
        case.graph.constant("norms", Shape::f32([data.len()]), data)
    };
    let mut some = Builder::new("some scaled columns", leaves);
    let x = some.variable("x", &[2, 3, 16]);
    let [first, second] = ["m1", "m2"].map(|name| some.variable(name, &[4]));
    let bias = some.variable("bias", &[16]);
    let one = norms(&mut some, &[0.5, 1.5, 2.0, 0.7]);
    let other = norms(&mut some, &[1.1, 0.8, 3.0, 0.6]);
    let y = some.graph.scale_columns(x, &[(4, first, one), (12, second, other)], Some(bias));

    let mut all = Builder::new("all columns scaled", leaves);
    let x = all.variable("x", &[5, 3]);
    let m = all.variable("m", &[3]);
    let one = norms(&mut all, &[0.9, 1.4, 2.2]);
    let z = all.graph.scale_columns(x, &[(0, m, one)], None);

    let row_norms = |name: &str, has_update: bool| {
        let mut case = Builder::new(name, leaves);
        let w = case.variable("w", &[9, 10]);
        let update = has_update.then(|| {
            let (a, b) = (case.variable("a", &[7, 10]), case.variable("b", &[4, 3]));
            (a, 3, b, 0.8)
        });
        let norms = case.graph.row_norms(w, 5..9, update);
        case.forward(norms)
    };
    let norms = [row_norms("norms of rows", false), row_norms("norms of adapted rows", true)];
    [some.finish(y), all.finish(z)].into_iter().chain(norms).collect()
}
