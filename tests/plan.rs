//! Recorded graphs on the device: against the f64 evaluation of the same graph, against
//! themselves, and their memory.

mod support;

use std::collections::HashMap;

use evenkeel::gpu::Dispatch;
use evenkeel::graph::ops::{AttentionLayout, AttentionSettings, CrossEntropy, QkNorm};
use evenkeel::graph::{Dense, Element, Graph, HostData, Node, Op, Phase, Shape, Source, Value};
use evenkeel::kernel::ProductTile;
use evenkeel::kernels::{Accumulate, AccumulateParams, Activation};
use evenkeel::nn::{Gpt, GptConfig, Init, LanguageModel};
use evenkeel::record::{Recorder, Slot};
use evenkeel::step::StepInput;
use evenkeel::train::Model;
use evenkeel::{Gpu, Precision};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::cases::{self, Behind, Case, Form, Leaves, RowFunction};
use support::recorded::Recorded;
use support::{Tolerance, assert_close, tokens};

/// Some tens of roundings of 6e-8 each, relative to the largest element, because sums cancel.
fn tolerance(expected: &[f64]) -> Tolerance {
    let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    Tolerance {
        absolute: 1e-5 * largest + 1e-6,
        relative: 0.0,
        because: "f32 against f64 through a small graph, relative to the tensor's largest; 1e-6 \
                  for gradients that cancel to nothing",
    }
}

/// The same for values of `digits` bits: each of the few operations rounds once more, and the
/// weights a case is compared with add up to some units.
fn half_tolerance(expected: &[f64], precision: Precision) -> Tolerance {
    let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    let unit = if precision == Precision::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
    Tolerance {
        absolute: 8.0 * unit * largest + 4.0 * unit,
        relative: 0.0,
        because: "some roundings to half precision, relative to the tensor's largest element",
    }
}

/// Every value that an operation makes, but for new states, which lie apart.
fn computed(graph: &Graph) -> Vec<Value> {
    let ops = graph.nodes().iter().filter(|node| matches!(node.source, Source::Op(_)));
    let values = ops.flat_map(|node| (0..node.shapes.len()).map(|output| node.output(output)));
    values.filter(|value| graph.staged().iter().all(|(_, staged)| staged != value)).collect()
}

/// Runs a case as a plan with the given outputs and compares outputs, gradients and staged states
/// with the evaluation in f64; then the second microbatch, which adds the same gradients again.
fn compare(gpu: &Gpu, case: &Case, outputs: &[Value]) {
    let Case { name, graph, data, .. } = case;
    let expected = graph.evaluate(data);
    let recorded = Recorded::new(gpu, graph, data, outputs);
    recorded.run(&recorded.plan.first);
    for (index, &value) in outputs.iter().enumerate() {
        let what = format!("{name}: {}, output {}", graph.nodes()[value.node].label, value.output);
        let expected = expected.get(value);
        let mut output = recorded.output(index);
        if graph.shape(value).element == Element::U32 {
            output.iter_mut().for_each(|count| *count = count.to_bits() as f32);
        }
        assert_close(&what, &output, expected, tolerance(expected));
    }
    for &(state, value) in graph.staged() {
        let expected = expected.get(value);
        let what = format!("{name}: staged state {state}");
        assert_close(&what, &recorded.staged(state), expected, tolerance(expected));
    }
    let mut gradients = graph.evaluated_gradients(&expected);
    compare_gradients(&recorded, graph, name, &gradients);
    recorded.run(&recorded.plan.next);
    gradients.iter_mut().flatten().for_each(|gradient| *gradient *= 2.0);
    compare_gradients(&recorded, graph, &format!("{name}, twice"), &gradients);
}

fn compare_gradients(recorded: &Recorded<'_>, graph: &Graph, name: &str, expected: &[Vec<f64>]) {
    for (index, expected) in expected.iter().enumerate() {
        let what = format!("{name}: gradient of {}", graph.parameters()[index].name);
        let actual = recorded.gradient(index);
        assert_close(&what, &actual, expected, tolerance(expected));
    }
}

/// The loss and the gradients, as a trainer has them: everything else shares slots.
fn compare_loss(gpu: &Gpu, case: &Case) {
    compare(gpu, case, &[case.loss.unwrap_or(case.output)]);
}

#[test]
fn losses_and_gradients_match_the_evaluation() {
    let Some(gpu) = support::gpu() else { return };
    for leaves in [Leaves::Once, Leaves::Twice, Leaves::Mixed] {
        for case in cases::all(leaves) {
            compare_loss(&gpu, &case);
        }
    }
}

/// Activations in f16 and bf16: each operation against its f64 evaluation. Values of an operation
/// that f32 keeps do not lose digits on the way to f32 gradients of parameters.
#[test]
fn halves_match_the_evaluation() {
    let Some(gpu) = support::gpu() else { return };
    // LLVM takes minutes for attention in tiles, of which only loads and stores differ from f32.
    let is_slow = gpu.info.name.contains("llvmpipe");
    let hardware = support::gpu_with_hardware_kernels().filter(|_| !is_slow);
    for gpu in [gpu].into_iter().chain(hardware) {
        for precision in [Precision::F16, Precision::Bf16] {
            let leaves = Leaves::Stored(precision);
            for case in cases::all(leaves).into_iter().chain(cases::casts(leaves)) {
                let stored = |node: &Node| node.shapes.iter().any(|s| s.precision == precision);
                assert!(case.graph.nodes().iter().any(stored), "{}: all in f32", case.name);
                let expected = case.graph.evaluate(&case.data);
                let output = case.loss.unwrap_or(case.output);
                let recorded = Recorded::new(&gpu, &case.graph, &case.data, &[output]);
                recorded.run(&recorded.plan.first);
                let name = format!("{} in {precision}", case.name);
                let loss = expected.get(output);
                let tolerance = half_tolerance(loss, precision);
                assert_close(&name, &recorded.output(0), loss, tolerance);
                for (i, expected) in case.graph.evaluated_gradients(&expected).iter().enumerate() {
                    let what = format!("{name}: gradient of {}", case.graph.parameters()[i].name);
                    let tolerance = half_tolerance(expected, precision);
                    assert_close(&what, &recorded.gradient(i), expected, tolerance);
                }
            }
        }
    }
}

/// Matrix products that multiply in f16, where the device can, are as close.
#[test]
fn native_f16_matches_the_evaluation() {
    let Some(gpu) = support::gpu() else { return };
    if !gpu.device.features().contains(wgpu::Features::SHADER_F16) {
        return println!("skipped: {} has no shader-f16", gpu.info.name);
    }
    let leaves = Leaves::Stored(Precision::F16);
    let mut products = 0;
    for mut case in cases::all(leaves) {
        case.graph.set_native_f16(true);
        let expected = case.graph.evaluate(&case.data);
        let output = case.loss.unwrap_or(case.output);
        let recorded = Recorded::new(&gpu, &case.graph, &case.data, &[output]);
        recorded.run(&recorded.plan.first);
        let tiled = |dispatch: &&Dispatch| {
            dispatch.name.starts_with("matmul") && !dispatch.name.ends_with("direct")
        };
        products += recorded.plan.first.iter().filter(tiled).count();
        let loss = expected.get(output);
        let tolerance = half_tolerance(loss, Precision::F16);
        assert_close(&case.name, &recorded.output(0), loss, tolerance);
        for (i, expected) in case.graph.evaluated_gradients(&expected).iter().enumerate() {
            let what = format!("{}: gradient of {}", case.name, case.graph.parameters()[i].name);
            let tolerance = half_tolerance(expected, Precision::F16);
            assert_close(&what, &recorded.gradient(i), expected, tolerance);
        }
    }
    assert!(products > 10, "{products} products");
}

#[test]
fn the_kernels_of_hardware_adapters_match_the_evaluation() {
    let Some(gpu) = support::gpu_with_hardware_kernels() else { return };
    for case in cases::all(Leaves::Once) {
        compare_loss(&gpu, &case);
    }
}

#[test]
fn products_are_tuned() {
    let Some(gpu) = support::own_gpu_with_hardware_kernels() else { return };
    let found = support::block_on(gpu.tune_products()).expect("measured");
    assert_eq!(found.wrong, []);
    assert_eq!(gpu.product_tiles(), found.tiles);
    for (measured, tile) in found.measured.iter().zip(ProductTile::ALL.into_iter().cycle()) {
        assert!(measured.tile == tile && measured.seconds > 0.0, "{measured:?}");
    }
    let smallest = found.measured.chunks(ProductTile::ALL.len()).next().expect("one size at least");
    let fastest = smallest.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("tiles");
    assert_eq!(found.tiles.fitting(256, 256, 1), fastest.tile, "{:?}", found.measured);
    if let Some(software) = support::gpu().filter(Gpu::is_software) {
        let found = support::block_on(software.tune_products()).expect("nothing to measure");
        assert_eq!((found.measured, found.wrong), (vec![], vec![]), "products go by no tiles");
    }
}

#[test]
fn tiles_of_products_change_no_bit() {
    let Some(gpu) = support::own_gpu_with_hardware_kernels() else { return };
    let case = cases::linear_case(Leaves::Once, &[130], [132, 136], Activation::GeluTanh, false);
    let by_tiles = |tiles: &str| {
        gpu.set_product_tiles(tiles.parse().expect("tiles"));
        let output = [case.loss.unwrap_or(case.output)];
        let recorded = Recorded::new(&gpu, &case.graph, &case.data, &output);
        recorded.run(&recorded.plan.first);
        let is_product = |dispatch: &&Dispatch| dispatch.name == "matmul_transposed_b";
        let product = recorded.plan.first.iter().find(is_product).expect("a linear layer");
        let words = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let gradients = (0..case.graph.parameters().len()).map(|i| words(recorded.gradient(i)));
        (product.workgroups[0], words(recorded.output(0)), gradients.collect::<Vec<_>>())
    };
    let [large, usual, small] =
        [128, 64, 32].map(|size| by_tiles(&[size.to_string().as_str(); 7].join(" ")));
    assert_eq!([large.0, usual.0, small.0], [4, 9, 25]);
    assert!(large.1 == usual.1 && usual.1 == small.1, "outputs");
    assert!(large.2 == usual.2 && usual.2 == small.2, "gradients");
}

/// A product takes over the gradient of an activation, and what other products made before it.
#[test]
fn fused_gradients_have_the_bits_of_their_passes() {
    let Some(gpu) = support::gpu() else { return };
    let hardware = support::gpu_with_hardware_kernels();
    let all = [(Activation::GeluTanh, false), (Activation::Silu, true)];
    let size = [70, 68, 136];
    for gpu in [gpu].into_iter().chain(hardware) {
        for activation in all {
            let of = |apart| cases::feed_forward_case(Leaves::Once, size, activation, apart);
            let [fused, apart] = [false, true].map(|apart| passes_and_gradients(&gpu, &of(apart)));
            assert_eq!((fused.passes, apart.passes), ([0, 0], [1, 0]), "{activation:?}");
            assert!(fused.bits == apart.bits, "{activation:?}");
        }
        for (behind, gradients) in [(Behind::Scale, 0), (Behind::Activation, 1), (Behind::Gate, 1)]
        {
            let of = |apart| cases::branches_case(Leaves::Once, 70, behind, apart);
            let [fused, apart] = [false, true].map(|apart| passes_and_gradients(&gpu, &of(apart)));
            // Two additions of the forward pass, and two of gradients.
            assert_eq!((fused.passes, apart.passes), ([0, 2], [gradients, 4]), "{behind:?}");
            assert!(fused.bits == apart.bits, "{behind:?}");
        }
    }
}

struct Passes {
    /// Gradients of activations, and additions.
    passes: [usize; 2],
    /// Of all gradients.
    bits: Vec<u32>,
}

fn passes_and_gradients(gpu: &Gpu, case: &Case) -> Passes {
    let recorded = Recorded::new(gpu, &case.graph, &case.data, &[case.output]);
    recorded.run(&recorded.plan.first);
    let gradients = (0..case.graph.parameters().len()).map(|index| recorded.gradient(index));
    let bits = gradients.flatten().map(f32::to_bits).collect();
    let count = |names: &[&str]| {
        let kernels = recorded.plan.report.kernels.iter();
        kernels.filter(|(name, _)| names.contains(name)).map(|(_, count)| count).sum()
    };
    Passes { passes: [count(&["activate_backward", "gated_backward"]), count(&["add"])], bits }
}

/// Nor is a gradient taken over that something else adds to, or that is the gradient of more than one.
#[test]
fn gradients_that_others_have_a_part_in_keep_their_passes() {
    type Build<'b> = &'b dyn Fn(&mut Graph, Value, [Value; 2]) -> Value;
    let Some(gpu) = support::gpu() else { return };
    let added_to = |graph: &mut Graph, x: Value, weights: [Value; 2]| {
        let y = graph.activation(x, Activation::Tanh);
        let z = graph.linear(y, weights[0], None, Activation::None);
        let squares = graph.multiply(y, y);
        let z = graph.add(z, squares);
        graph.linear(z, weights[1], None, Activation::None)
    };
    let of_both_terms = |graph: &mut Graph, x: Value, weights: [Value; 2]| {
        let y = graph.activation(x, Activation::Tanh);
        let residual = graph.scale(x, 0.5);
        let sum = graph.add(y, residual);
        let z = graph.linear(sum, weights[0], None, Activation::Relu);
        graph.linear(z, weights[1], None, Activation::None)
    };
    for build in [&added_to as Build<'_>, &of_both_terms] {
        let mut case = cases::Builder::new("several users", Leaves::Once);
        let x = case.variable("x", &[3, 8]);
        let x = case.graph.scale(x, 2.0);
        let weights = ["first", "second"].map(|name| case.variable(name, &[8, 8]));
        let y = build(&mut case.graph, x, weights);
        let case = case.finish(y);
        compare_loss(&gpu, &case);
        assert_eq!(passes_and_gradients(&gpu, &case).passes[0], 1);
    }
}

/// The last sums of four biases are one dispatch; a bias that two layers share keeps its own.
#[test]
fn last_sums_of_biases_are_taken_by_four() {
    let Some(gpu) = support::gpu() else { return };
    let case = cases::biases_case(Leaves::Once, 70);
    compare_loss(&gpu, &case);
    let recorded = Recorded::new(&gpu, &case.graph, &case.data, &[case.output]);
    let sums = |name: &str| {
        let dispatches = recorded.plan.first.iter();
        dispatches.filter(|dispatch| dispatch.name == name).collect::<Vec<_>>()
    };
    let [fours, others] = ["column_sums", "column_sum"].map(sums);
    // Of five own biases one is left over, and two layers have the shared one.
    assert_eq!((fours.len(), others.len()), (1, 3));
    let origin = fours[0].origin.as_deref().expect("an origin");
    assert_eq!((&*origin.module, &*origin.label), ("layers", "layers.gradient.column_sums"));
}

/// Not only what reaches a loss: by-products, partial sums and gradients on the way too.
#[test]
fn every_value_matches_the_evaluation() {
    let Some(gpu) = support::gpu() else { return };
    for case in cases::all(Leaves::Once) {
        compare(&gpu, &case, &computed(&case.graph));
    }
}

#[test]
fn a_replay_gives_the_bits_of_a_fresh_plan() {
    let Some(gpu) = support::gpu() else { return };
    for case in cases::all(Leaves::Mixed) {
        let fresh = || {
            let outputs = [case.loss.unwrap_or(case.output), case.output];
            Recorded::new(&gpu, &case.graph, &case.data, &outputs)
        };
        let recorded = fresh();
        recorded.run(&recorded.plan.first);
        let first = recorded.bits();
        recorded.run(&recorded.plan.first);
        assert!(first == recorded.bits(), "{}: a replay differs", case.name);
        let other = fresh();
        other.run(&other.plan.first);
        assert!(first == other.bits(), "{}: a fresh plan differs", case.name);
        assert!(first.iter().any(|&bits| bits != 0), "{}: nothing but zeros", case.name);
    }
}

/// g + g is exact, so where a gradient has one contribution its second microbatch doubles it.
#[test]
fn the_second_microbatch_doubles_a_gradient_exactly() {
    let Some(gpu) = support::gpu() else { return };
    let mut compared = 0;
    for case in cases::all(Leaves::Once) {
        let recorded = Recorded::new(&gpu, &case.graph, &case.data, &[case.output]);
        let gradients = |recorded: &Recorded<'_>| -> Vec<Vec<f32>> {
            (0..case.graph.parameters().len()).map(|index| recorded.gradient(index)).collect()
        };
        recorded.run(&recorded.plan.first);
        let once = gradients(&recorded);
        recorded.run(&recorded.plan.next);
        let twice = gradients(&recorded);
        // A contribution that comes in chunks is added chunk by chunk.
        let in_chunks = |name: &str| case.name.contains("LinearCrossEntropy") && name == "weight";
        for (index, spec) in case.graph.parameters().iter().enumerate() {
            let contributions = case.graph.gradients().iter().filter(|&&(p, _)| p == index);
            if contributions.count() == 1 && !in_chunks(&spec.name) {
                let doubled: Vec<_> = once[index].iter().map(|g| 2.0 * g).collect();
                assert_eq!(doubled, twice[index], "{}: {}", case.name, spec.name);
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared} gradients");
}

/// A GPT with everything that makes lifetimes long: tied head, residuals, dropout.
fn gpt(layers: usize) -> (Graph, Value, HostData) {
    let config = GptConfig { dropout: 0.1, ..GptConfig::gpt2(29, 16, layers, 2, 16) };
    let gpt = Gpt::new(config).expect("valid");
    let mut graph = Graph::new(Phase::Train);
    let loss = LanguageModel { gpt, batch: 2, time: 16 }.build(&mut graph).loss;
    graph.backward(loss, 1.0);
    let mut data = HostData::default();
    for (seed, name) in [(1, "tokens"), (2, "targets")] {
        let ids = tokens(seed, 32, 29).into_iter().map(f64::from).collect();
        data.values.insert(name.into(), ids);
    }
    (graph, loss, data)
}

/// First and last node at which a value of a plan is alive.
fn life(graph: &Graph, slots: &HashMap<Value, Slot>, value: Value) -> (usize, usize) {
    let runs = |node: &Node| slots.contains_key(&node.output(0));
    let reads = |node: &Node| runs(node) && node.inputs.contains(&value);
    (value.node, graph.nodes().iter().rposition(reads).unwrap_or(value.node))
}

#[test]
fn values_that_live_together_share_no_buffer() {
    let Some(gpu) = support::gpu() else { return };
    let (graph, loss, data) = gpt(4);
    let Recorded { plan, sinks, .. } = Recorded::new(&gpu, &graph, &data, &[loss]);
    let in_slots: Vec<_> = computed(&graph)
        .into_iter()
        .filter(|value| plan.values.contains_key(value))
        .filter(|value| !sinks.gradients.contains(&plan.values[value].buffer))
        .collect();
    let mut shared = 0;
    for (i, &a) in in_slots.iter().enumerate() {
        let (first, mut last) = life(&graph, &plan.values, a);
        assert!(plan.values[&a].buffer.size() >= graph.shape(a).bytes());
        if a == loss {
            last = usize::MAX;
        }
        for &b in &in_slots[i + 1..] {
            if plan.values[&a].buffer == plan.values[&b].buffer {
                let (b_first, b_last) = life(&graph, &plan.values, b);
                let label = |value: Value| &graph.nodes()[value.node].label;
                assert!(
                    last < b_first || b_last < first,
                    "{} lives from {first} to {last}, {} from {b_first} to {b_last}",
                    label(a),
                    label(b),
                );
                shared += 1;
            }
        }
    }
    assert!(shared > 100, "only {shared} pairs share a buffer");
    let report = &plan.report;
    assert_eq!(report.values, in_slots.len());
    // 4 layers: the forward pass keeps most of what the backward pass reads.
    assert!(
        report.slot_bytes * 10 < report.value_bytes * 7,
        "{} bytes in slots, {} without sharing",
        report.slot_bytes,
        report.value_bytes
    );
}

/// What is written in place lies apart, parameter by parameter.
#[test]
fn gradients_written_in_place_do_not_overlap() {
    let Some(gpu) = support::gpu() else { return };
    let (graph, loss, data) = gpt(2);
    let recorded = Recorded::new(&gpu, &graph, &data, &[loss]);
    let values = &recorded.plan.values;
    let mut placed = 0;
    for &(parameter, value) in graph.gradients() {
        let (slot, gradients) = (&values[&value], &recorded.sinks.gradients);
        if gradients.contains(&slot.buffer) {
            let own = recorded.parameters.slot_in(gradients, parameter, slot.shape.element);
            assert_eq!((&slot.buffer, slot.offset), (&own.buffer, own.offset));
            assert_eq!(slot.shape.dims, own.shape.dims);
            placed += 1;
        }
    }
    // All but the tied table's and what layers share is written in place.
    assert!(placed >= graph.parameters().len() - 2, "{placed} are written in place");
    let mut ends: Vec<_> = (0..graph.parameters().len())
        .map(|index| recorded.parameters.slot(index))
        .map(|slot| (slot.offset, slot.offset + slot.shape.bytes()))
        .collect();
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ends:?}");
}

#[test]
fn the_report_adds_up() {
    let Some(gpu) = support::gpu() else { return };
    let (graph, loss, data) = gpt(4);
    let Recorded { plan, .. } = Recorded::new(&gpu, &graph, &data, &[loss]);
    let report = &plan.report;
    assert_eq!(report.dispatches, plan.first.len());
    assert_eq!(report.kernels.iter().map(|(_, count)| count).sum::<usize>(), plan.first.len());
    assert!(report.kernels.is_sorted_by(|a, b| a.1 >= b.1), "{:?}", report.kernels);
    let leaves = graph.nodes().iter().filter(|node| {
        matches!(node.source, Source::Input(_) | Source::Constant(_))
            && plan.values.contains_key(&node.output(0))
    });
    assert_eq!(report.leaf_bytes, leaves.map(|node| node.shapes[0].bytes()).sum::<u64>());
    let mut buffers: Vec<_> = plan
        .values
        .iter()
        .filter(|(value, _)| matches!(graph.nodes()[value.node].source, Source::Op(_)))
        .map(|(_, slot)| &slot.buffer)
        .collect();
    buffers.sort_unstable();
    buffers.dedup();
    // All gradients lie in one more buffer.
    assert_eq!(report.slots, buffers.len() - 1);
    let bytes: u64 = buffers.iter().map(|buffer| buffer.size()).sum();
    let flat: u64 = graph.parameters().iter().map(|p| p.shape.bytes().next_multiple_of(512)).sum();
    assert_eq!(report.slot_bytes, bytes - flat);
    assert!(report.nodes <= graph.nodes().len() && report.values <= report.nodes * 3);
}

/// Compares a case for each of a few shapes, with the kernels of software and hardware adapters;
/// failures shrink to the smallest shape.
fn shapes<S: Strategy>(cases: u32, strategy: S, case: impl Fn(S::Value) -> Case) {
    let Some(gpu) = support::gpu() else { return };
    let hardware = support::gpu_with_hardware_kernels().expect("the same device");
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&strategy, |value| {
        let case = case(value);
        compare_loss(&gpu, &case);
        compare_loss(&hardware, &case);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// 1, the sizes around a quad and around tiles of 32 and 64, and others.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..10, 30usize..35, 62usize..70]
}

#[test]
fn linear_of_any_shape() {
    let kind = prop::sample::select(&Activation::ALL[..]);
    shapes(16, (1usize..4, size(), size(), size(), kind, any::<bool>()), |value| {
        let (batch, rows, inputs, outputs, kind, bias) = value;
        let rows = if batch == 1 { vec![rows] } else { vec![batch, rows] };
        cases::linear_case(Leaves::Once, &rows, [inputs, outputs], kind, bias)
    });
}

/// Where a weight's gradient has too few tiles for a GPU, its sums are split and added up.
#[test]
fn gradients_over_many_rows_are_split_on_gpus() {
    let Some(gpu) = support::gpu() else { return };
    let hardware = support::gpu_with_hardware_kernels().expect("the same device");
    for (rows, is_split) in [(127, false), (128, true), (2 * 65, true), (515, false), (1024, true)]
    {
        let case = cases::linear_case(Leaves::Once, &[rows], [20, 13], Activation::GeluTanh, false);
        compare_loss(&hardware, &case);
        let sums = |gpu: &Gpu| {
            let output = [case.loss.unwrap_or(case.output)];
            let recorded = Recorded::new(gpu, &case.graph, &case.data, &output);
            recorded.plan.first.iter().filter(|dispatch| dispatch.name == "column_sum").count()
        };
        let more = if gpu.is_software() { sums(&hardware) - sums(&gpu) } else { sums(&gpu) };
        assert_eq!(more, usize::from(is_split), "{rows} rows");
    }
}

#[test]
fn matmul_of_any_shape() {
    let form = prop::sample::select(&[Form::Ab, Form::AbT, Form::AtB][..]);
    shapes(24, (form, 1usize..4, size(), size(), size()), |value| {
        let (form, batch, rows, cols, inner) = value;
        cases::matmul_case(Leaves::Once, form, batch, [rows, cols, inner])
    });
}

#[test]
fn layer_norm_of_any_shape() {
    // Two columns or more: one has no variance.
    shapes(16, (1usize..4, size(), 2usize..300), |(batch, rows, width)| {
        cases::layer_norm_case(Leaves::Mixed, &[batch, rows], width)
    });
}

#[test]
fn softmax_of_any_shape() {
    use RowFunction::{LogSumExp, MaskedSoftmax, Softmax};
    let function = prop::sample::select(&[Softmax, MaskedSoftmax, LogSumExp][..]);
    shapes(18, (function, size(), 1usize..300), |(function, rows, cols)| {
        cases::softmax_case(Leaves::Once, function, [rows, cols])
    });
}

#[test]
fn attention_of_any_shape() {
    let heads = (1usize..4, 1usize..4);
    let cap = prop::option::of(Just(0.9f32));
    let window = prop::option::of(1usize..80);
    // A width of a head may be a pipeline of its own to compile, so only a few.
    let head_quads = prop::sample::select(&[1usize, 3, 8][..]);
    shapes(12, (1usize..3, size(), heads, head_quads, (cap, window)), |value| {
        let (batch, time, (kv_heads, groups), head_quads, (soft_cap, window)) = value;
        let layout =
            AttentionLayout { heads: kv_heads * groups, kv_heads, head_dim: 4 * head_quads };
        let settings = AttentionSettings { scale: None, soft_cap, window };
        cases::attention_case(Leaves::Once, [batch, time], layout, settings)
    });
}

#[test]
fn head_norm_of_any_shape() {
    let kind = prop::sample::select(&[QkNorm::Rms, QkNorm::Layer][..]);
    shapes(16, (1usize..3, size(), 1usize..4, 1usize..4, 1usize..33, kind), |value| {
        let (batch, time, kv_heads, groups, head_quads, kind) = value;
        let layout =
            AttentionLayout { heads: kv_heads * groups, kv_heads, head_dim: 4 * head_quads };
        cases::head_norm_case(Leaves::Once, &[batch, time], layout, kind)
    });
}

#[test]
fn cross_entropy_of_any_shape() {
    let settings = (prop_oneof![Just(0.0f32), Just(0.1)], prop_oneof![Just(0.0f32), Just(1e-3)]);
    shapes(16, (1usize..4, size(), 1usize..300, settings), |value| {
        let (batch, rows, classes, (label_smoothing, z_loss)) = value;
        let settings = CrossEntropy { label_smoothing, z_loss };
        cases::cross_entropy_case(Leaves::Once, &[batch, rows], classes, settings)
    });
}

/// Shapes that do not fit panic while the graph is built, and show both.
/// An operation whose kernel knows f32 only.
#[derive(Debug)]
struct Single;

impl Op for Single {
    fn name(&self) -> &'static str {
        "single"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        inputs.to_vec()
    }

    fn gradient(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![None]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let quads = inputs[0].shape.quads() as u32;
        let params = AccumulateParams { quads, factor: 1.0, accumulate: 0 };
        let (x, y) = (inputs[0].binding(), outputs[0].binding());
        recorder.dispatch(&Accumulate { params, x, y });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![inputs[0].data.to_vec()]
    }
}

/// Such an operation is not let near halves, and runs in f32 where it is asked to.
#[test]
fn a_kernel_over_f32_is_kept_from_halves() {
    let Some(gpu) = support::gpu() else { return };
    let record = |precision| {
        let mut graph = Graph::in_precision(Phase::Evaluate, Precision::F16);
        let x = graph.input("x", Shape::real([3]));
        let y = graph.with_precision(precision, |graph| graph.apply(Single, &[x]));
        let values = [("x".to_owned(), vec![0.5, -1.0, 3.0])].into();
        let data = HostData { values, ..HostData::default() };
        Recorded::new(&gpu, &graph, &data, &[y]).plan.first.len()
    };
    assert_eq!(record(Precision::F32), 1);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| record(Precision::F16)));
    let message = refused.expect_err("a misread").downcast::<String>().expect("a message");
    assert!(message.contains("accumulate is bound to values in f16"), "{message}");
    assert!(message.contains("QUAD_F32"), "{message}");
}

mod misfits {
    use super::*;

    fn real(graph: &mut Graph, name: &str, dims: &[usize]) -> Value {
        graph.input(name, Shape::real(dims))
    }

    fn graph() -> Graph {
        Graph::new(Phase::Train)
    }

    #[test]
    #[should_panic(expected = "add: the operands have shapes (2, 3) and (3, 2)")]
    fn add() {
        let mut g = graph();
        let (a, b) = (real(&mut g, "a", &[2, 3]), real(&mut g, "b", &[3, 2]));
        g.add(a, b);
    }

    #[test]
    #[should_panic(expected = "multiply: the operands have shapes (6) and (2, 3)")]
    fn multiply() {
        let mut g = graph();
        let (a, b) = (real(&mut g, "a", &[6]), real(&mut g, "b", &[2, 3]));
        g.multiply(a, b);
    }

    #[test]
    #[should_panic(expected = "swiglu needs two halves of whole quads, not (2, 12)")]
    fn swiglu() {
        let mut g = graph();
        let x = real(&mut g, "x", &[2, 12]);
        g.swiglu(x);
    }

    #[test]
    #[should_panic(expected = "linear: x is (2, 5), the weight (out, in) is (7, 4)")]
    fn linear() {
        let mut g = graph();
        let (x, weight) = (real(&mut g, "x", &[2, 5]), real(&mut g, "weight", &[7, 4]));
        g.linear(x, weight, None, Activation::None);
    }

    #[test]
    #[should_panic(expected = "the bias does not fit the weight (7, 5)")]
    fn linear_bias() {
        let mut g = graph();
        let (x, weight) = (real(&mut g, "x", &[2, 5]), real(&mut g, "weight", &[7, 5]));
        let bias = real(&mut g, "bias", &[5]);
        g.linear(x, weight, Some(bias), Activation::None);
    }

    #[test]
    #[should_panic(expected = "(Neither transposed): shapes (2, 3) and (4, 5) do not fit")]
    fn matmul() {
        let mut g = graph();
        let (a, b) = (real(&mut g, "a", &[2, 3]), real(&mut g, "b", &[4, 5]));
        g.matmul(a, b);
    }

    #[test]
    #[should_panic(expected = "(B transposed): shapes (2, 4, 3) and (3, 5, 3) do not fit")]
    fn batched_matmul() {
        let mut g = graph();
        let (a, b) = (real(&mut g, "a", &[2, 4, 3]), real(&mut g, "b", &[3, 5, 3]));
        g.matmul_transposed_b(a, b);
    }

    #[test]
    #[should_panic(expected = "layer_norm: x is (2, 5), the weight is (4)")]
    fn layer_norm() {
        let mut g = graph();
        let (x, weight) = (real(&mut g, "x", &[2, 5]), real(&mut g, "weight", &[4]));
        g.layer_norm(x, weight, weight, 1e-5);
    }

    #[test]
    #[should_panic(expected = "residual_rms_norm: the operands have shapes (2, 5) and (3, 5)")]
    fn residual_rms_norm() {
        let mut g = graph();
        let (x, residual) = (real(&mut g, "x", &[2, 5]), real(&mut g, "residual", &[3, 5]));
        let weight = real(&mut g, "weight", &[5]);
        g.residual_rms_norm(x, residual, weight, 1e-5);
    }

    #[test]
    #[should_panic(expected = "batch_norm needs at least two rows in training, x is (1, 5)")]
    fn batch_norm_of_one_row() {
        let mut g = graph();
        let (x, weight) = (real(&mut g, "x", &[1, 5]), real(&mut g, "weight", &[5]));
        g.batch_norm(x, weight, weight, 1e-5);
    }

    #[test]
    #[should_panic(expected = "softmax: lengths are (3) u32, x is (2, 5)")]
    fn masked_softmax() {
        let mut g = graph();
        let x = real(&mut g, "x", &[2, 5]);
        let lengths = g.tokens("lengths", [3], 6);
        g.masked_softmax(x, lengths);
    }

    #[test]
    #[should_panic(expected = "attention: qkv is (2, 7, 24), the last dimension should be 32")]
    fn attention() {
        let mut g = graph();
        let qkv = real(&mut g, "qkv", &[2, 7, 24]);
        let layout = AttentionLayout { heads: 2, kv_heads: 1, head_dim: 8 };
        g.attention(qkv, layout, AttentionSettings::default());
    }

    #[test]
    #[should_panic(expected = "positions: x is (2, 9, 4), the table is (8, 4)")]
    fn positions() {
        let mut g = graph();
        let (x, table) = (real(&mut g, "x", &[2, 9, 4]), real(&mut g, "table", &[8, 4]));
        g.add_positions(x, table);
    }

    #[test]
    #[should_panic(expected = "rotary: 3 heads of 8 columns (a multiple of 8) in (2, 9, 16)")]
    fn rotary() {
        let mut g = graph();
        let x = real(&mut g, "x", &[2, 9, 16]);
        g.rotary(x, 3, 8, 1e4);
    }

    #[test]
    #[should_panic(expected = "cross_entropy: logits are (2, 3, 5), targets are (2, 4) u32")]
    fn cross_entropy() {
        let mut g = graph();
        let logits = real(&mut g, "logits", &[2, 3, 5]);
        let targets = g.tokens("targets", [2, 4], 5);
        g.cross_entropy(logits, targets, CrossEntropy::default());
    }

    #[test]
    #[should_panic(expected = "a loss is one f32 number, not (2, 3)")]
    fn backward() {
        let mut g = graph();
        let x = g.parameter("x", [2, 3], Init::ZERO);
        g.backward(x, 1.0);
    }

    #[test]
    #[should_panic(expected = "parameter \"x\" was made with another shape")]
    fn a_name_with_two_shapes() {
        let mut g = graph();
        g.parameter("x", [2, 3], Init::ZERO);
        g.parameter("x", [3, 2], Init::ZERO);
    }
}
