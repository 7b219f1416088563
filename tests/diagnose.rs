//! Faults planted in every kind of layer: the diagnosis names where they begin, and leaves the run
//! as it was.

#[macro_use]
mod support;

use std::collections::HashMap;

use evenkeel::graph::{Graph, HostData, Phase, Shape, Source};
use evenkeel::nn::{Classifier, Gpt, GptConfig, Init, LanguageModel, MlpClassifier};
use evenkeel::train::{
    AdamW, Batch, Diagnosis, LossScale, Model, ModelOutput, Trainer, TrainerBuilder, ValueKind,
};
use evenkeel::{Gpu, Precision};
use support::models::{small_gpt, small_gpt_batch};
use support::{Tolerance, assert_close, block_on, tokens, values, wide};

tests! {
    a_nan_weight_in_a_gpt, a_nan_weight_in_a_llama_in_half_precision, a_nan_weight_in_a_classifier,
    an_inf_in_the_batch, an_overflow_in_each_linear_layer, an_overflow_of_attention_scores_in_f16,
    an_overflow_of_scaled_gradients, a_learning_rate_far_too_high, ranges_match_the_evaluation,
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn diagnose<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Diagnosis {
    block_on(trainer.diagnose(batch)).expect("a diagnosis")
}

/// RMSNorm, SwiGLU, rotary positions and grouped heads; vocabulary 27, context 8.
fn llama() -> LanguageModel {
    let gpt = Gpt::new(GptConfig::llama(27, 8, 1, [4, 2], 32)).expect("valid");
    LanguageModel { gpt, batch: 2, time: 8 }
}

fn classifier() -> Classifier {
    let mlp = MlpClassifier { inputs: 5, hidden: vec![7, 6], classes: 3, batch_norm: true };
    Classifier { mlp, batch: 6 }
}

fn classifier_batch(inputs: &[f32]) -> Batch {
    Batch::new().with("inputs", inputs).with("targets", &tokens(9, 6, 3)[..])
}

/// Writes one element of a parameter, whatever it is.
fn plant<M: Model>(trainer: &Trainer<M>, name: &str, element: usize, value: f32) {
    let slot = trainer.parameters().find(name).expect("a parameter");
    let (row, col) = (element / slot.shape.cols(), element % slot.shape.cols());
    let quad_element = row * slot.shape.row_quads() * 4 + col;
    trainer.gpu().write(&slot.buffer, slot.offset + 4 * quad_element as u64, &value.to_le_bytes());
}

/// Each parameter in turn holds a NaN in its last element.
fn names_each_parameter<M: Model>(model: M, batch: &Batch, precision: Precision) {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(model).precision(precision));
    let specs = trainer.parameters().specs().to_vec();
    for spec in specs {
        let last = spec.shape.count() - 1;
        let before = block_on(trainer.parameters().read(&spec.name)).expect("readable")[last];
        plant(&trainer, &spec.name, last, f32::NAN);
        let diagnosis = diagnose(&mut trainer, batch);
        let fault = diagnosis.first_fault().expect("a NaN");
        assert_eq!((&*fault.label, fault.kind), (&*spec.name, ValueKind::Parameter));
        assert_eq!((fault.nonfinite_count, fault.first_nonfinite), (1, Some(last)));
        let corner: Vec<_> = spec.shape.dims.iter().map(|dim| dim - 1).collect();
        assert_eq!(fault.first_position(), Some(corner));
        plant(&trainer, &spec.name, last, before);
    }
    let diagnosis = diagnose(&mut trainer, batch);
    assert_eq!(diagnosis.first_fault(), None, "{diagnosis}");
}

fn a_nan_weight_in_a_gpt() {
    names_each_parameter(small_gpt(0.0, 2), &small_gpt_batch(1, 2), Precision::F32);
}

fn a_nan_weight_in_a_llama_in_half_precision() {
    names_each_parameter(llama(), &small_gpt_batch(1, 2), Precision::Bf16);
}

fn a_nan_weight_in_a_classifier() {
    names_each_parameter(classifier(), &classifier_batch(&values(3, 30)), Precision::F16);
}

fn an_inf_in_the_batch() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(classifier()));
    let mut inputs = values(3, 30);
    inputs[13] = f32::INFINITY;
    let diagnosis = diagnose(&mut trainer, &classifier_batch(&inputs));
    let fault = diagnosis.first_fault().expect("an Inf");
    assert_eq!((&*fault.label, fault.kind), ("inputs", ValueKind::Input));
    assert_eq!(fault.first_position(), Some(vec![2, 3]));
    assert!(diagnosis.to_string().contains("it came with the batch"), "{diagnosis}");
}

/// Each linear layer's weight large enough that its product overflows f16, though all it reads is
/// finite there.
fn an_overflow_in_each_linear_layer() {
    let Some(gpu) = support::gpu() else { return };
    let batch = small_gpt_batch(1, 2);
    for layer in ["attention.qkv", "attention.projection", "mlp.up", "mlp.down"] {
        let builder = Trainer::builder(small_gpt(0.0, 2)).precision(Precision::F16);
        let mut trainer = build(&gpu, builder.loss_scale(LossScale::Static(1.0)));
        let name = format!("blocks.0.{layer}.weight");
        let names: Vec<_> = trainer.parameters().names().collect();
        assert!(names.contains(&&*name), "{names:?}");
        let write = |name: &str, scale: f32| {
            let count = trainer.parameters().find(name).unwrap().shape.count();
            let weight: Vec<_> = values(5, count).iter().map(|x| scale * x).collect();
            trainer.parameters().write(name, &weight).expect("written");
        };
        // What comes before must not be too small: normalised rows are of order 1 anyway.
        match layer {
            "attention.projection" => write("blocks.0.attention.qkv.weight", 9.0),
            "mlp.down" => write("blocks.0.mlp.up.weight", 9.0),
            _ => {}
        }
        write(&name, 6.5e4);
        let diagnosis = diagnose(&mut trainer, &batch);
        let fault = diagnosis.first_fault().unwrap_or_else(|| panic!("{layer}: {diagnosis}"));
        assert_eq!(fault.label, format!("blocks.0.{layer}.linear"), "{diagnosis}");
        assert_eq!(fault.shape.precision, Precision::F16);
        assert!(fault.inputs.iter().all(|&input| diagnosis.values[input].is_finite()));
        let text = diagnosis.to_string();
        assert!(text.contains("overflowed f16, which ends at 65,504"), "{text}");
        assert!(text.contains(&format!("it reads {}", "blocks.0")), "{text}");
    }
}

/// softmax(q kᵀ) v written out, so that the scores are stored.
fn explicit_attention(graph: &mut Graph) -> ModelOutput {
    let x = graph.input("x", Shape::real([2, 4, 8]));
    let [q, k, v] = ["q", "k", "v"].map(|name| {
        let weight = graph.parameter(name, [8, 8], Init::Uniform { low: 0.5, high: 1.0 });
        graph.linear(x, weight, None, evenkeel::kernels::Activation::None)
    });
    let scores = graph.scope("attention", |graph| graph.matmul_transposed_b(q, k));
    let probabilities = graph.softmax(scores);
    let y = graph.matmul(probabilities, v);
    ModelOutput { loss: graph.mean_squared_error(y, x), prediction: y }
}

fn an_overflow_of_attention_scores_in_f16() {
    let Some(gpu) = support::gpu() else { return };
    let builder = || Trainer::builder(explicit_attention).loss_scale(LossScale::Static(1.0));
    let batch = Batch::new().with("x", vec![60.0f32; 64]);
    let mut trainer = build(&gpu, builder().precision(Precision::F16));
    let diagnosis = diagnose(&mut trainer, &batch);
    let fault = diagnosis.first_fault().unwrap_or_else(|| panic!("{diagnosis}"));
    assert_eq!(fault.label, "attention.matmul_transposed_b", "{diagnosis}");
    assert_eq!(fault.nonfinite_count, 2 * 4 * 4);
    // bf16 and f32 reach further.
    for precision in [Precision::Bf16, Precision::F32] {
        let mut trainer = build(&gpu, builder().precision(precision));
        assert_eq!(diagnose(&mut trainer, &batch).first_fault(), None, "{precision}");
    }
}

/// The loss scale is too high: it begins in the backward pass, and the label says in which.
fn an_overflow_of_scaled_gradients() {
    let Some(gpu) = support::gpu() else { return };
    let builder = Trainer::builder(small_gpt(0.0, 2)).precision(Precision::F16);
    let mut trainer = build(&gpu, builder.loss_scale(LossScale::Static(2f32.powi(30))));
    let diagnosis = diagnose(&mut trainer, &small_gpt_batch(1, 2));
    let fault = diagnosis.first_fault().unwrap_or_else(|| panic!("{diagnosis}"));
    assert_eq!(fault.label, "cross_entropy.gradient.cross_entropy_backward", "{diagnosis}");
    assert!(diagnosis.to_string().contains("loss scale 1073741824"), "{diagnosis}");
}

fn a_learning_rate_far_too_high() {
    let Some(gpu) = support::gpu() else { return };
    let optimizer = AdamW { learning_rate: 1e25, ..AdamW::default() };
    let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.0, 2)).optimizer(optimizer));
    let batch = small_gpt_batch(1, 2);
    assert_eq!(diagnose(&mut trainer, &batch).first_fault(), None);
    block_on(trainer.step(&batch)).expect("a step");
    let diagnosis = diagnose(&mut trainer, &batch);
    let fault = diagnosis.first_fault().unwrap_or_else(|| panic!("{diagnosis}"));
    assert_eq!(fault.kind, ValueKind::Computed, "{diagnosis}");
    let largest = diagnosis.largest(1)[0];
    assert!(largest.largest > 1e24, "{diagnosis}");
}

/// The ranges are those of the f64 evaluation, in both microbatches, and nothing moves.
fn ranges_match_the_evaluation() {
    let Some(gpu) = support::gpu() else { return };
    let model = small_gpt(0.0, 2);
    let mut graph = Graph::new(Phase::Train);
    let output = model.build(&mut graph);
    graph.backward(output.loss, 0.5);
    let mut trainer = build(&gpu, Trainer::builder(model).accumulation(2));
    let (tokens_of, targets_of) = (tokens(1, 32, 27), tokens(2, 32, 27));
    let batch = Batch::new().with("tokens", &tokens_of[..]).with("targets", &targets_of[..]);
    let before = block_on(trainer.committed_bytes()).unwrap();
    let state = block_on(trainer.state()).unwrap();
    let diagnosis = diagnose(&mut trainer, &batch);
    assert!(block_on(trainer.committed_bytes()).unwrap() == before);
    assert_eq!(block_on(trainer.state()).unwrap(), state);

    let mut data = HashMap::new();
    for name in trainer.parameters().names() {
        data.insert(name.to_owned(), wide(&block_on(trainer.parameters().read(name)).unwrap()));
    }
    let tolerance = Tolerance {
        absolute: 1e-7,
        relative: 1e-4,
        because: "the largest of some f32 sums, or the root of the mean of their squares",
    };
    for microbatch in 0..2 {
        let ids = |ids: &[u32]| ids[16 * microbatch..][..16].iter().map(|&i| i.into()).collect();
        data.insert("tokens".to_owned(), ids(&tokens_of));
        data.insert("targets".to_owned(), ids(&targets_of));
        let evaluation = graph.evaluate(&HostData { values: data.clone(), ..Default::default() });
        let mut compared = 0;
        for report in diagnosis.values.iter().filter(|v| v.microbatch == microbatch) {
            // Gradients of parameters hold the sum over microbatches.
            let nodes = graph.nodes().iter().filter(|node| node.label == report.label);
            let nodes: Vec<_> =
                nodes.filter(|n| !matches!(n.source, Source::Constant(_))).collect();
            let sum =
                graph.gradients().iter().any(|(_, v)| graph.nodes()[v.node].label == report.label);
            let [node] = nodes[..] else { continue };
            if sum {
                continue;
            }
            let expected = evaluation.get(node.output(report.output));
            let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
            let squares: f64 = expected.iter().map(|x| x * x).sum();
            let rms = (squares / expected.len() as f64).sqrt();
            let found = [report.largest, report.rms as f32];
            assert_close(&report.label, &found, &[largest, rms], tolerance);
            compared += 1;
        }
        assert!(compared > 30, "{compared} of {}", diagnosis.values.len());
    }
}
