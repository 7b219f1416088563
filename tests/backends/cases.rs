//! Every kernel in every variant, with the constants that programs give it.

use std::fmt;

use evenkeel::kernel::{
    Declaration, HalfConversions, HeadQuads, Precision, ProductTile, Variant, WeightStorage,
};
use evenkeel::kernels;
use naga::valid::Capabilities;

/// One pipeline: a kernel, its storage, its constants.
#[derive(Clone, Debug)]
pub struct Case {
    pub kernel: &'static Declaration,
    pub variant: Variant,
    /// In the order of the declaration.
    pub overrides: Vec<u32>,
}

/// Both ways of f16 by integers, or both by the device: a text of one of each is of the same fragments.
///
/// But those by subgroups of 8, with words of 64 bits and with large tiles in registers, which are for
/// software drivers of Vulkan alone, the last in Chromium as well: the tests of kernels run them there.
/// And but those by cooperative matrices.
pub fn all() -> impl Iterator<Item = Case> {
    of(|variant| variant.cooperative.is_none())
}

/// Those by cooperative matrices, which Vulkan and Metal alone have.
pub fn cooperative() -> impl Iterator<Item = Case> {
    of(|variant| variant.cooperative.is_some())
}

fn of(is_chosen: impl Fn(&Variant) -> bool + Copy) -> impl Iterator<Item = Case> {
    kernels::all().flat_map(move |kernel| {
        let mut variants = kernel.variants();
        let is_of_software =
            |v: &Variant| v.subgroups_of_8 || v.words_of_64 || v.large_register_tiles;
        variants.retain(|variant| !is_of_software(variant));
        variants.retain(|variant| !has_one_way(variant));
        variants.retain(is_chosen);
        variants.into_iter().flat_map(move |variant| {
            let case = move |overrides| Case { kernel, variant, overrides };
            overrides(kernel).into_iter().map(case)
        })
    })
}

/// Whether f16 is read by the device and written by integers, or the other way round, by choice.
fn has_one_way(variant: &Variant) -> bool {
    let HalfConversions { loads, stores } = variant.half_conversions;
    loads != stores && variant.precision == Precision::F16 && variant.cooperative.is_none()
}

/// Every combination of the values that the constants of a kernel.
fn overrides(kernel: &Declaration) -> Vec<Vec<u32>> {
    kernel.overrides.iter().fold(vec![Vec::new()], |combinations, name| {
        let extend = |before: Vec<u32>| {
            values(name).into_iter().map(move |value| {
                let mut combination = before.clone();
                combination.push(value);
                combination
            })
        };
        combinations.into_iter().flat_map(extend).collect()
    })
}

fn values(name: &str) -> Vec<u32> {
    match name {
        "watch" => vec![0, 1],
        // Any number, and the same text.
        "context" => vec![2048],
        // The one of most text, whose gate has all of it: none is the same with branches never taken.
        "activation" => vec![3],
        "gated" => vec![1],
        _ => panic!("say here which values programs give to the constant {name}"),
    }
}

impl Case {
    pub fn needs_f16(&self) -> bool {
        self.variant.features().contains(wgpu::Features::SHADER_F16)
    }
}

impl Case {
    /// What naga checks that the variant needs, beside f16.
    pub fn capabilities(&self) -> Capabilities {
        match self.variant.cooperative {
            Some(_) => Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP,
            None => Capabilities::empty(),
        }
    }
}

/// A name that is also one of a file.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Variant { precision, weights, blocks, half_conversions, .. } = self.variant;
        let Variant { native_f16, few_lanes, head_quads, product_tile, cooperative, .. } =
            self.variant;
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
        if let Some(format) = blocks {
            write!(f, ".{format}")?;
        }
        if native_f16 {
            f.write_str(".native")?;
        }
        if let Some(matrix) = cooperative {
            write!(f, ".cooperative-{}-{}", matrix.precision(), matrix.size())?;
        }
        match half_conversions {
            HalfConversions::NONE => (),
            HalfConversions { stores: false, .. } => f.write_str(".converted-loads")?,
            _ => f.write_str(".converted")?,
        }
        if few_lanes {
            f.write_str(".few-lanes")?;
        }
        if head_quads != HeadQuads::default() {
            write!(f, ".{}-quads", head_quads.most())?;
        }
        if product_tile != ProductTile::default() {
            write!(f, ".tile-{}", product_tile.size())?;
        }
        for (name, value) in self.kernel.overrides.iter().zip(&self.overrides) {
            write!(f, ".{name}-{value}")?;
        }
        Ok(())
    }
}
