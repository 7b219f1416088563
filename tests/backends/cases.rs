//! Every kernel in every variant, with the constants that programs give it.

use std::fmt;

use evenkeel::kernel::Declaration;
use evenkeel::kernels;
use evenkeel::precision::{Precision, Variant, WeightStorage};

/// One pipeline: a kernel, its storage, its constants.
#[derive(Clone, Debug)]
pub struct Case {
    pub kernel: &'static Declaration,
    pub variant: Variant,
    /// In the order of the declaration.
    pub overrides: Vec<u32>,
}

pub fn all() -> impl Iterator<Item = Case> {
    kernels::all().flat_map(|kernel| {
        let variants = kernel.variants().into_iter();
        variants.flat_map(move |variant| {
            let case = move |overrides| Case { kernel, variant, overrides };
            overrides(kernel).into_iter().map(case)
        })
    })
}

/// Every combination of the values that a kernel's constants take.
fn overrides(kernel: &Declaration) -> Vec<Vec<u32>> {
    kernel.overrides.iter().fold(vec![Vec::new()], |combinations, name| {
        let extend = |before: Vec<u32>| {
            values(name).iter().map(move |&value| {
                let mut combination = before.clone();
                combination.push(value);
                combination
            })
        };
        combinations.into_iter().flat_map(extend).collect()
    })
}

fn values(name: &str) -> &'static [u32] {
    match name {
        // Quads in a head: left to the uniform, as software adapters get it, then the narrowest,
        // the tiny model's, the usual one of 64 columns, and the widest.
        "unroll_quads" => &[0, 1, 8, 16, 32],
        "watch" => &[0, 1],
        _ => panic!("say here which values programs give to the constant {name}"),
    }
}

impl Case {
    pub fn needs_f16(&self) -> bool {
        self.variant.features().contains(wgpu::Features::SHADER_F16)
    }
}

/// A name that is also one of a file.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Variant { precision, weights, native_f16 } = self.variant;
        f.write_str(self.kernel.name)?;
        if precision != Precision::F32 {
            write!(f, ".{precision}")?;
        }
        match weights {
            WeightStorage::F32 => (),
            WeightStorage::Bf16Stochastic => f.write_str(".bf16-stochastic")?,
            WeightStorage::Bf16Kahan => f.write_str(".bf16-kahan")?,
            WeightStorage::Bf16Split => f.write_str(".bf16-split")?,
        }
        if native_f16 {
            f.write_str(".native")?;
        }
        for (name, value) in self.kernel.overrides.iter().zip(&self.overrides) {
            write!(f, ".{name}-{value}")?;
        }
        Ok(())
    }
}
