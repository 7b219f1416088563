//! An adapter as a part of the weights that it stands beside.

use std::collections::HashMap;
use std::ops::Range;

use super::super::{CONFIG, invalid};
use super::MODEL;
use crate::error::Result;
use crate::nn::lora::AdaptedModule;
use crate::nn::{GptConfig, Lora};
use crate::plan::Parameters;

/// The parameters of a module's adapter, by their indices.
struct Merged {
    module: AdaptedModule,
    a: usize,
    b: usize,
    magnitude: Option<usize>,
}

/// What becomes of weights with an adapter merged into them.
pub(in crate::hugging_face) struct Merge {
    scale: f64,
    rank: usize,
    /// By the index of the weight.
    modules: HashMap<usize, Vec<Merged>>,
}

impl Merge {
    /// Finds the adapter of this model among the parameters.
    pub fn new(gpt: &GptConfig, lora: &Lora, parameters: &Parameters) -> Result<Self> {
        lora.validate(gpt)?;
        let index = |name: &str| {
            let found = parameters.specs().iter().position(|spec| spec.name == name);
            found.ok_or_else(|| invalid(MODEL, format!("there is no parameter {name}")))
        };
        let mut modules: HashMap<_, Vec<_>> = HashMap::new();
        for module in lora.modules(gpt) {
            if gpt.tied_head && module.weight == "token_embedding.weight" {
                let reason = "the weight of embedding and head is one, and an adapter of either \
                              would change both";
                return Err(invalid(CONFIG, format!("{}: {reason}", module.name)));
            }
            let [weight, a, b] = [index(&module.weight)?, index(&module.a)?, index(&module.b)?];
            let magnitude = module.magnitude.as_deref().map(index).transpose()?;
            modules.entry(weight).or_default().push(Merged { module, a, b, magnitude });
        }
        Ok(Self { scale: lora.scale(), rank: lora.rank, modules })
    }

    /// Turns rows of a weight into those of the merged weight.
    pub async fn add(
        &self,
        parameters: &Parameters,
        weight: usize,
        rows: Range<usize>,
        values: &mut [f32],
    ) -> Result<()> {
        let Some(modules) = self.modules.get(&weight) else { return Ok(()) };
        let cols = values.len() / rows.len();
        for Merged { module, a, b, magnitude } in modules {
            let inside = rows.start.max(module.rows.start)..rows.end.min(module.rows.end);
            if inside.is_empty() {
                continue;
            }
            let own = inside.start - module.rows.start..inside.end - module.rows.start;
            let [low, high] = if module.is_embedding {
                let high = parameters.read_rows(*b, 0..cols).await?;
                [parameters.read_rows(*a, inside.clone()).await?, transposed(&high, cols)]
            } else {
                let high = parameters.read_rows(*a, module.a_rows.clone()).await?;
                [parameters.read_rows(*b, own.clone()).await?, high]
            };
            let magnitudes = match magnitude {
                Some(magnitude) => Some(parameters.read_rows(*magnitude, own).await?),
                None => None,
            };
            let first = (inside.start - rows.start) * cols;
            let values = &mut values[first..first + inside.len() * cols];
            add_product(values, [&low, &high], (self.scale, self.rank), magnitudes.as_deref());
        }
        Ok(())
    }
}

/// (cols, rank) to (rank, cols).
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rank = values.len() / cols;
    (0..rank).flat_map(|k| (0..cols).map(move |c| values[c * rank + k])).collect()
}

/// Adds scale low·high, (rows, rank) times (rank, cols), to values, and gives each row its magnitude.
fn add_product(
    values: &mut [f32],
    [low, high]: [&[f32]; 2],
    (scale, rank): (f64, usize),
    magnitudes: Option<&[f32]>,
) {
    let cols = high.len() / rank;
    for (index, (row, low)) in values.chunks_mut(cols).zip(low.chunks(rank)).enumerate() {
        let mut sums: Vec<_> = row.iter().map(|&w| f64::from(w)).collect();
        for (&low, high) in low.iter().zip(high.chunks(cols)) {
            let factor = scale * f64::from(low);
            sums.iter_mut().zip(high).for_each(|(sum, &h)| *sum += factor * f64::from(h));
        }
        if let Some(magnitudes) = magnitudes {
            let magnitude = f64::from(magnitudes[index]);
            let norm = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
            if norm != magnitude {
                sums.iter_mut().for_each(|sum| *sum *= magnitude / norm);
            }
        }
        row.iter_mut().zip(sums).for_each(|(w, sum)| *w = sum as f32);
    }
}
