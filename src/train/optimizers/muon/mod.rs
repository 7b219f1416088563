//! Muon: momentum of hidden matrices, orthogonalised by matrix products.

mod hidden;
mod orthogonalize;
mod packing;
mod scale;

use std::fmt;

pub use hidden::is_hidden_matrix;
use orthogonalize::{Batch, Scratch};
use packing::{Packed, packed_chunks};
pub use scale::MuonScale;

use super::tensor_means::record_eps_shares;
use super::{
    AdamW, MomentShare, Optimizer, Rule, Segment, SegmentTensor, check, check_decay_rate,
    check_not_negative, check_positive, rounded,
};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::ParameterSpec;
use crate::kernels::{AdamwPackedParams, MuonMomentum, MuonMomentumParams, MuonParams};
use crate::record::{Recorder, to_u32};
use crate::step::Chunk;

/// Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>), as `torch.optim.Muon`
/// in f32: for hidden matrices the momentum, orthogonalised. All other tensors go by
/// [`adamw`](Self::adamw).
///
/// ```text
/// b = μ b + (1-μ) g        x = nesterov ? (1-μ) g + μ b : b        x /= max(‖x‖, eps)
/// five times:  G = x xᵀ      x = (a I + b' G + c G²) x      (a, b', c) = coefficients
/// w -= lr (scale x + decay w)
/// ```
///
/// The iteration brings all singular values near 1, so that rare directions move as far as common
/// ones. Where rows outnumber columns it runs with G = xᵀ x from the right, which is the same as
/// transposing. Take it for transformers: it usually needs the fewest steps. It keeps 4 bytes per
/// parameter of a hidden matrix and 8 per other parameter. Matrices of one shape are done together,
/// up to 32 MiB of them, and each step costs 15 products and about 10 passes per such batch beside
/// those of the model; scratch takes four such batches and is no part of what a step commits.
#[derive(Clone, Copy)]
pub struct Muon {
    /// Base learning rate of hidden matrices, which the schedule multiplies.
    pub learning_rate: f64,
    /// Decay rate μ of the momentum.
    pub momentum: f64,
    /// Looks ahead by one momentum step (Nesterov).
    pub nesterov: bool,
    /// Share of a hidden matrix removed per unit of learning rate, whatever its scale.
    pub weight_decay: f64,
    /// How the size of an update follows from the shape of its matrix.
    pub scale: MuonScale,
    /// Newton-Schulz iterations, at most 100.
    pub iterations: u32,
    /// Their coefficients.
    pub coefficients: [f64; 3],
    /// A norm counts at least this much.
    pub eps: f64,
    /// For all other tensors, without its options; the schedule multiplies its learning rate too.
    pub adamw: AdamW,
    /// Chooses the hidden matrices among the tensors with two dimensions.
    pub hidden: fn(&ParameterSpec) -> bool,
}

impl fmt::Debug for Muon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Muon")
            .field("learning_rate", &self.learning_rate)
            .field("momentum", &self.momentum)
            .field("nesterov", &self.nesterov)
            .field("weight_decay", &self.weight_decay)
            .field("scale", &self.scale)
            .field("iterations", &self.iterations)
            .field("coefficients", &self.coefficients)
            .field("eps", &self.eps)
            .field("adamw", &self.adamw)
            .finish_non_exhaustive()
    }
}

impl Default for Muon {
    /// Learning rate 0.02, momentum 0.95 with Nesterov, weight decay 0.1, scale
    /// [`MuonScale::Original`], 5 iterations with (3.4445, -4.7750, 2.0315), eps 1e-7,
    /// [`is_hidden_matrix`], and AdamW's own defaults.
    fn default() -> Self {
        Self {
            learning_rate: 0.02,
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            scale: MuonScale::default(),
            iterations: 5,
            coefficients: [3.4445, -4.7750, 2.0315],
            eps: 1e-7,
            adamw: AdamW::default(),
            hidden: is_hidden_matrix,
        }
    }
}

impl Optimizer for Muon {
    fn name(&self) -> &'static str {
        "Muon"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["momentum", "m", "v"]
    }

    fn squares(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn moment_bytes(&self, tensors: &[SegmentTensor<'_>]) -> Vec<u64> {
        let (batches, others) = self.divide(tensors);
        let momentum = batches.iter().map(Batch::quads).sum();
        let others = others.iter().map(SegmentTensor::quads).sum();
        [momentum, others, others].map(|quads: u32| 16 * u64::from(quads)).to_vec()
    }

    fn moment_shares(&self, tensors: &[SegmentTensor<'_>]) -> Vec<Vec<MomentShare>> {
        let (batches, others) = self.divide(tensors);
        let packed = |packed: Vec<SegmentTensor<'_>>| {
            let mut first = 0;
            let shares = packed.iter().map(|tensor| {
                let found = tensors.iter().position(|other| other.index == tensor.index);
                first += tensor.quads();
                MomentShare {
                    tensor: found.expect("one of the tensors"),
                    first: first - tensor.quads(),
                    shape: tensor.shape(),
                }
            });
            shares.collect::<Vec<_>>()
        };
        let hidden = batches.into_iter().flat_map(|batch| batch.tensors).collect();
        let others = packed(others);
        vec![packed(hidden), others.clone(), others]
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn betas(&self) -> [f64; 2] {
        self.adamw.betas
    }

    fn validate(&self) -> Result<()> {
        check_positive("learning_rate", self.learning_rate)?;
        check_decay_rate("momentum", self.momentum)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        check_not_negative("eps", self.eps)?;
        // Each is recorded, batch by batch; five to ten are what the coefficients are made for.
        check("iterations", f64::from(self.iterations), 0.0, 101.0, "at most 100")?;
        self.adamw.validate()?;
        let AdamW { amsgrad, cautious, cautious_decay, .. } = self.adamw;
        if amsgrad || cautious || cautious_decay {
            return Err(Error::Setting {
                setting: "adamw",
                value: format!("{:?}", self.adamw),
                range: "without its options inside Muon",
            });
        }
        Ok(())
    }

    fn scratch_bytes(&self, tensors: &[SegmentTensor<'_>]) -> u64 {
        let (batches, _) = self.divide(tensors);
        Scratch::quads(&batches).into_iter().map(|quads| 2 * 16 * u64::from(quads)).sum()
    }

    /// Only a whole matrix can be orthogonalised.
    fn takes_parts(&self, spec: &ParameterSpec) -> bool {
        !(spec.shape.dims.len() == 2 && (self.hidden)(spec))
    }

    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        let (batches, others) = self.divide(segment.layout);
        let scratch = Scratch::new(recorder.gpu(), &batches);
        for batch in &batches {
            self.record_batch(recorder, segment, batch, &scratch);
        }
        self.rule_of_others(recorder.gpu(), segment, &others)
    }

    fn record_eps_shares(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        shares: &wgpu::Buffer,
    ) -> bool {
        let (_, others) = self.divide(segment.layout);
        let (chunks, packed) = packed_chunks(&others, 0);
        let at =
            chunks.iter().zip(&packed).map(|(chunk, &offset)| Chunk { kept: offset, ..*chunk });
        let at: Vec<_> = at.collect();
        let mut first_chunk = 0;
        let layout = others.iter().map(|tensor| {
            let mine = SegmentTensor { first_chunk, ..*tensor };
            first_chunk += tensor.chunk_count;
            mine
        });
        let packed = Segment {
            chunks: &recorder.gpu().upload("packed chunks", &at),
            chunk_count: to_u32(at.len()),
            layout: &layout.collect::<Vec<_>>(),
            ..*segment
        };
        record_eps_shares(recorder, &packed, &segment.moments[2], self.adamw.eps, shares);
        true
    }
}

impl Muon {
    /// The update of a batch: momentum, orthogonalised, moves its matrices.
    fn record_batch(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        batch: &Batch<'_>,
        scratch: &Scratch,
    ) {
        let packed = Packed::new(recorder.gpu(), &batch.tensors, batch.base);
        recorder.dispatch(&MuonMomentum {
            params: MuonMomentumParams {
                chunk_count: packed.chunk_count,
                base: batch.base,
                momentum: self.momentum as f32,
                one_minus_momentum: (1.0 - self.momentum) as f32,
                nesterov: u32::from(self.nesterov),
            },
            state: recorder.step_state(),
            chunks: packed.chunks.as_entire_buffer_binding(),
            packed: packed.offsets.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            momentum_buffer: segment.moments[0].as_entire_buffer_binding(),
            x: scratch.x.as_entire_buffer_binding(),
        });
        let x = self.record_orthogonalization(recorder, batch, scratch);
        let scale = self.scale.factor(batch.rows as usize, batch.cols as usize);
        let rule = Rule::new(MuonParams {
            chunk_count: packed.chunk_count,
            weight_decay: self.weight_decay as f32,
            base: batch.base,
            scale: scale as f32,
        });
        packed.bind(rule).bind("x", x).record(recorder, segment);
    }

    /// AdamW for the tensors that are no hidden matrices.
    fn rule_of_others(
        &self,
        gpu: &Gpu,
        segment: &Segment<'_>,
        others: &[SegmentTensor<'_>],
    ) -> Rule {
        let packed = Packed::new(gpu, others, 0);
        let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded(self.adamw.betas);
        let rule = Rule::new(AdamwPackedParams {
            chunk_count: packed.chunk_count,
            weight_decay: self.adamw.weight_decay as f32,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            eps: self.adamw.eps as f32,
            learning_rate_factor: (self.adamw.learning_rate / self.learning_rate) as f32,
        });
        packed.bind(rule).bind("m", &segment.moments[1]).bind("v", &segment.moments[2])
    }
}
