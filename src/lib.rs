//! Stable neural-network training on any GPU, native or in a browser tab.
//!
//! The numerically delicate part of training (gradient norms, clipping, overflow checks, softmax,
//! normalisation, AdamW) is a set of WGSL compute kernels that never need the host, and a runtime
//! over [wgpu](https://docs.rs/wgpu) that trains whole models with them on Vulkan, Metal, DX12 and
//! browser WebGPU. A step clips its gradients, checks them for overflow and commits or skips, all
//! on the device: nothing is read back.
//!
//! There are three doors, each built only on the one below.
//!
//! # Layers and a trainer
//!
//! For people who want to train a model: [`nn`] has layers and models, [`train`] the trainer.
//!
//! ```no_run
//! use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
//! use evenkeel::train::{AdamW, Batch, Clip, Schedule, Trainer};
//!
//! # async fn train(next_batch: impl Fn() -> (Vec<u32>, Vec<u32>)) -> evenkeel::Result<()> {
//! let gpu = evenkeel::Gpu::new().await?;
//! let gpt = Gpt::new(GptConfig::gpt2(96, 64, 4, 4, 128))?; // vocabulary, context, layers, heads, width
//! let mut trainer = Trainer::builder(LanguageModel { gpt, batch: 8, time: 64 })
//!     .optimizer(AdamW { learning_rate: 1e-3, ..AdamW::default() })
//!     .schedule(Schedule::Cosine { warmup: 20, total: 500, final_factor: 0.1 })
//!     .clip(Clip::Norm(1.0))
//!     .seed(1)
//!     .build(&gpu)
//!     .await?;
//! for step in 0..500 {
//!     let (tokens, targets) = next_batch();
//!     trainer.step(&Batch::new().with("tokens", tokens).with("targets", targets)).await?;
//!     if step % 50 == 49 {
//!         for record in trainer.telemetry().await? {
//!             println!("{} {} {}", record.step, record.loss, record.gradient_norm);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # A graph and a plan
//!
//! For people with a model of their own: a [`graph::Graph`] of operations with automatic
//! differentiation, which the trainer records once into a static list of dispatches
//! ([`plan::Plan`]) and replays every step. Any closure that builds a loss is a model.
//!
//! ```
//! use evenkeel::graph::{Graph, Shape};
//! use evenkeel::kernels::Activation;
//! use evenkeel::nn::Linear;
//! use evenkeel::train::ModelOutput;
//!
//! let model = |graph: &mut Graph| {
//!     let x = graph.input("x", Shape::real([32, 2]));
//!     let y = graph.input("y", Shape::real([32, 1]));
//!     let hidden = Linear::new(2, 16).activation(Activation::Silu).forward(graph, "hidden", x);
//!     let prediction = Linear::new(16, 1).forward(graph, "out", hidden);
//!     ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
//! };
//! # let mut graph = Graph::new(evenkeel::graph::Phase::Train);
//! # let output = model(&mut graph);
//! # graph.backward(output.loss, 1.0);
//! # assert_eq!(graph.gradients().len(), 4);
//! ```
//!
//! # Kernels
//!
//! For people with a wgpu program of their own: [`kernels`] has one struct per WGSL file, over
//! your own buffers, with offsets.
//!
//! ```no_run
//! use evenkeel::kernels::{LayerNorm, LayerNormParams};
//!
//! # fn norm(gpu: &evenkeel::Gpu, x: &wgpu::Buffer, weight: &wgpu::Buffer, bias: &wgpu::Buffer,
//! #         y: &wgpu::Buffer, statistics: &wgpu::Buffer) {
//! gpu.run(&LayerNorm {
//!     params: LayerNormParams { rows: 512, cols: 128, eps: 1e-5 },
//!     x: x.as_entire_buffer_binding(),
//!     weight: weight.as_entire_buffer_binding(),
//!     bias: bias.as_entire_buffer_binding(),
//!     y: y.as_entire_buffer_binding(),
//!     statistics: statistics.as_entire_buffer_binding(),
//! });
//! # }
//! ```
//! [`Gpu::from_device`] wraps a device that is already yours.
//!
//! # Staying stable
//!
//! [`guide`] says which technique to use when: storage, loss scaling, norms and clipping, spikes,
//! optimizers, logits, watching, and what to do when a run has gone wrong.
//!
//! # Async, and blocking
//!
//! Whatever may wait for the device is `async`, so that the same code runs in a browser, where
//! nothing may block. Natively [`block_on`] makes it blocking.
//!
//! # Words
//!
//! A *kernel* is a WGSL program with its declaration; a *dispatch* is a kernel with its buffers
//! and parameters; a *plan* is a recorded list of dispatches, and a *slot* is where a value lies in
//! it. A *graph* is made of *operations* that give *values*; *parameters* are trained, *states* are
//! kept. A *policy* decides what a step does with its gradients. A *reference* is the same
//! computation as plain f64 loops.

#[cfg(doctest)]
mod book;
pub mod data;
pub mod error;
#[cfg(not(target_arch = "wasm32"))]
pub mod file;
pub mod gguf;
pub mod gpu;
pub mod graph;
pub mod guide;
pub mod hugging_face;
pub mod init;
mod json;
pub mod kernel;
pub mod kernels;
pub mod nn;
pub mod plan;
pub mod record;
pub mod reference;
#[cfg(all(feature = "run", not(target_arch = "wasm32")))]
pub mod run;
pub mod shape;
pub mod step;
#[cfg(feature = "text")]
pub mod text;
pub mod train;
pub mod watch;

pub use error::{Error, Result};
pub use gpu::Gpu;
pub use kernel::{BlockFormat, Precision, WeightStorage};
#[cfg(not(target_arch = "wasm32"))]
pub use pollster::block_on;
