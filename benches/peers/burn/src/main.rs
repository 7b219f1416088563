//! What Burn does where evenkeel's benchmarks run: the step of `cargo bench --bench step`, matrix
//! products, and clipping by the global norm with AdamW. Medians; ratios are to be taken with figures
//! of the same machine and hour, as `cargo xtask bench-peers` does, which reads the lines of the form
//! "name = time ms".
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/burn/Cargo.toml [-- step | products | updates]
//! ```
//!
//! Burn tries kernels while it warms up (minutes on a software driver) and keeps what it found for
//! the next start.

use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::activation::gelu_approximate;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DeviceKind, Distribution};

/// As Cargo.toml asks for it.
const BURN: &str = "0.22.1";
/// Vocabulary, context, layers, heads, width and batch of "0.8 M" in benches/step.rs.
const MODEL: (usize, usize, usize, usize, usize, usize) = (96, 64, 4, 4, 128, 8);

/// The median of single runs, each waited for.
fn milliseconds(device: &Device, repeats: usize, mut run: impl FnMut()) -> f64 {
    let mut once = || {
        let start = Instant::now();
        run();
        device.sync().expect("the device");
        start.elapsed().as_secs_f64() * 1e3
    };
    println!("    (first run {:.0} ms)", once());
    for _ in 0..5 {
        once();
    }
    let mut times: Vec<f64> = (0..repeats).map(|_| once()).collect();
    times.sort_by(f64::total_cmp);
    times[repeats / 2]
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    heads: usize,
}

impl Block {
    fn new(width: usize, heads: usize, device: &Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        Self {
            norm1: LayerNormConfig::new(width).init(device),
            qkv: linear(width, 3 * width),
            out: linear(width, width),
            norm2: LayerNormConfig::new(width).init(device),
            up: linear(width, 4 * width),
            down: linear(4 * width, width),
            heads,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, time, width] = x.dims();
        let heads = |part: Tensor<3>| {
            part.reshape([batch, time, self.heads, width / self.heads]).swap_dims(1, 2)
        };
        let mut parts = self.qkv.forward(self.norm1.forward(x.clone())).chunk(3, 2).into_iter();
        let mut next = || heads(parts.next().expect("three parts"));
        let (q, k, v) = (next(), next(), next());
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let attended = attention(q, k, v, None, None, options);
        let x = x + self.out.forward(attended.swap_dims(1, 2).reshape([batch, time, width]));
        let hidden = gelu_approximate(self.up.forward(self.norm2.forward(x.clone())));
        x + self.down.forward(hidden)
    }
}

#[derive(Module, Debug)]
struct Gpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Gpt {
    fn new(device: &Device) -> Self {
        let (vocabulary, context, layers, heads, width, _) = MODEL;
        Self {
            tokens: EmbeddingConfig::new(vocabulary, width).init(device),
            positions: EmbeddingConfig::new(context, width).init(device),
            blocks: (0..layers).map(|_| Block::new(width, heads, device)).collect(),
            norm: LayerNormConfig::new(width).init(device),
        }
    }

    fn loss(
        &self,
        loss: &CrossEntropyLoss,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
    ) -> Tensor<1> {
        let [batch, time] = tokens.dims();
        let positions = self.positions.weight.val().unsqueeze::<3>();
        let mut x = self.tokens.forward(tokens) + positions;
        for block in &self.blocks {
            x = block.forward(x);
        }
        let head = self.tokens.weight.val().transpose().unsqueeze::<3>();
        let logits = self.norm.forward(x).matmul(head);
        let vocabulary = logits.dims()[2];
        loss.forward(logits.reshape([batch * time, vocabulary]), targets.reshape([batch * time]))
    }
}

/// Sums the squares of all gradients, or multiplies all by a factor.
enum Clip<'a> {
    Sum(&'a GradientsParams, Option<Tensor<1>>),
    Scale(&'a mut GradientsParams, Tensor<1>),
}

impl ModuleVisitor for Clip<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let id: ParamId = param.id;
        match self {
            Self::Sum(gradients, sum) => {
                let Some(gradient) = gradients.get::<D>(id) else { return };
                let squares = gradient.square().sum();
                *sum = Some(match sum.take() {
                    Some(before) => before + squares,
                    None => squares,
                });
            }
            Self::Scale(gradients, factor) => {
                let Some(gradient) = gradients.remove::<D>(id) else { return };
                let factor = factor.clone().reshape([1; D]);
                gradients.register(id, gradient * factor);
            }
        }
    }
}

/// `clip_grad_norm_` with 1, without a readback.
fn clip<M: Module>(module: &M, gradients: &mut GradientsParams) {
    let mut sum = Clip::Sum(gradients, None);
    module.visit(&mut sum);
    let Clip::Sum(_, Some(sum)) = sum else { return };
    let factor = (sum.sqrt() + 1e-6).recip().clamp_max(1.0);
    module.visit(&mut Clip::Scale(gradients, factor));
}

fn step(device: &Device) {
    let device = device.clone().autodiff();
    let (vocabulary, context, .., batch) = MODEL;
    let mut model = Some(Gpt::new(&device));
    let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init();
    let loss = CrossEntropyLossConfig::new().init(&device);
    let uniform = Distribution::Uniform(0.0, vocabulary as f64);
    let tokens = Tensor::<2>::random([batch, context], uniform, &device).int();
    for clips in [true, false] {
        let ms = milliseconds(&device, 15, || {
            let now = model.take().expect("a model");
            let gradients = now.loss(&loss, tokens.clone(), tokens.clone()).backward();
            let mut gradients = GradientsParams::from_grads(gradients, &now);
            if clips {
                clip(&now, &mut gradients);
            }
            model = Some(optimizer.step(1e-4, now, gradients));
        });
        let speed = (batch * context) as f64 / ms * 1e3;
        let case = if clips { "step 0.8 M" } else { "step 0.8 M, not clipped" };
        println!("{case} = {ms:.3} ms ({speed:.0} tokens/s)");
    }
}

fn products(device: &Device) {
    for size in [512, 1024] {
        let matrix = || Tensor::<2>::random([size, size], Distribution::Default, device);
        let (a, b) = (matrix(), matrix());
        let ms = milliseconds(device, 15, || drop(a.clone().matmul(b.clone())));
        let speed = 2e-6 * (size as f64).powi(3) / ms;
        println!("matmul {size} x {size} x {size} = {ms:.4} ms ({speed:.1} GFLOP/s)");
    }
}

#[derive(Module, Debug)]
struct Weights {
    all: Vec<Param<Tensor<1>>>,
}

fn updates(device: &Device) {
    let device = device.clone().autodiff();
    for (count, tensors) in [(1_000_000, 148), (10_000_000, 148)] {
        let random = || Tensor::<1>::random([count / tensors], Distribution::Default, &device);
        let all = (0..tensors).map(|_| Param::from_tensor(random())).collect();
        let mut weights = Some(Weights { all });
        let gradients: Vec<_> = (0..tensors).map(|_| random().inner()).collect();
        let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init();
        let ms = milliseconds(&device, 9, || {
            let now = weights.take().expect("weights");
            let mut given = GradientsParams::new();
            for (param, gradient) in now.all.iter().zip(&gradients) {
                given.register(param.id, gradient.clone());
            }
            clip(&now, &mut given);
            weights = Some(optimizer.step(1e-4, now, given));
        });
        println!("update {} M in {tensors} tensors = {ms:.4} ms", count / 1_000_000);
    }
}

fn main() {
    // With the feature `vulkan` kernels are SPIR-V, else WGSL.
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    println!("Burn {BURN}: {device:?}");
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("products") {
        products(&device);
    }
    if wanted("updates") {
        updates(&device);
    }
    if wanted("step") {
        step(&device);
    }
}
