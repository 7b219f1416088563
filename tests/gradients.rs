//! Every operation in the middle of a graph, in f64 on the CPU: analytic gradients against central
//! differences.
//!
//! Each leaf is used twice, so that gradients have to be added up; see `support/cases.rs`.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use support::cases::{self, Case, FACTOR, Leaves};

/// Compares the gradient of every element of every parameter with a central difference.
fn check(case: &Case) {
    let Case { name, graph, data, loss: Some(loss), .. } = case else { return };
    let gradients = graph.evaluated_gradients(&graph.evaluate(data));
    for (parameter, analytic) in graph.parameters().iter().zip(&gradients) {
        let mut moved = data.clone();
        for (i, &analytic) in analytic.iter().enumerate() {
            let x = data.values[&parameter.name][i];
            let step = 1e-5;
            let mut at = |x: f64| {
                moved.values.get_mut(&parameter.name).expect("a leaf")[i] = x;
                graph.evaluate(&moved).get(*loss)[0]
            };
            let numeric = f64::from(FACTOR) * (at(x + step) - at(x - step)) / (2.0 * step);
            at(x);
            // Central differences: step² f''' and rounding / step, both about 1e-10.
            let allowed = 1e-7 * (1.0 + analytic.abs());
            assert!(
                (numeric - analytic).abs() < allowed,
                "{name}: {}[{i}]: analytic {analytic}, numeric {numeric}",
                parameter.name
            );
        }
        assert!(
            analytic.iter().any(|&g| g != 0.0),
            "{name}: {} has no gradient at all",
            parameter.name
        );
    }
}

#[test]
fn analytic_gradients_match_central_differences() {
    for case in cases::all(Leaves::Twice).into_iter().chain(cases::casts(Leaves::Twice)) {
        check(&case);
    }
}

/// What `src/graph/ops` declares: types that are operations, and the names they give themselves.
/// Not those of generation, which has no loss.
fn declared() -> (BTreeSet<String>, BTreeSet<String>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/graph/ops");
    let (mut types, mut names) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(directory).expect("the operations") {
        let path = entry.expect("an entry").path();
        if path.ends_with("generation.rs") {
            continue;
        }
        let text = fs::read_to_string(path).expect("readable");
        for rest in text.split("\nimpl Op for ").skip(1) {
            let (name, rest) = rest.split_once(" {").expect("a block");
            types.insert(name.to_owned());
            let (_, body) = rest.split_once("fn name(&self) -> &'static str {").expect("a name");
            let (body, _) = body.split_once("\n    }").expect("an end");
            names.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    (types, names)
}

#[test]
fn every_operation_occurs_in_a_case() {
    let (types, names) = declared();
    assert!(types.len() > 25 && names.len() >= types.len(), "found {types:?}, {names:?}");
    let cases = [cases::all(Leaves::Once), cases::casts(Leaves::Once)];
    let used: BTreeSet<_> = cases.iter().flatten().flat_map(|case| case.operations()).collect();
    let used_types: BTreeSet<_> = used.iter().map(|(ty, _)| ty.clone()).collect();
    let used_names: BTreeSet<_> = used.iter().map(|&(_, name)| name.to_owned()).collect();
    assert_eq!(types, used_types, "types declared (left) and in a case (right)");
    assert_eq!(names, used_names, "names declared (left) and in a case (right)");
}
