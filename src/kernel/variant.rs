//! What a kernel is compiled for: the storage of its tensors, the device, the size of its heads.
//!
//! A variant swaps shared fragments of a kernel's text for others with the same names in them; a
//! kernel heeds the parts of it that it has fragments for.

use super::blocks::BlockFormat;
use super::cooperative::CooperativeMatrix;
use super::fragment::Fragment;
use super::half_conversions::HalfConversions;
use super::precision::{Precision, WeightStorage};
use super::shared;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Storage of tensors.
    pub precision: Precision,
    /// Storage of the optimizer's weights.
    pub weights: WeightStorage,
    /// The blocks that a weight which is multiplied with, looked up in or measured lies in; `None`
    /// where it lies in quads.
    pub blocks: Option<BlockFormat>,
    /// Whether matrix products of f16 tensors multiply in f16, on devices that can.
    pub native_f16: bool,
    /// The cooperative matrices that products through workgroup memory multiply, where they are of
    /// the storage of tensors; `None` for the arithmetic of single invocations. Operands that lie in
    /// [`blocks`](Self::blocks) beside values in f16 are rounded to f16, as with
    /// [`native_f16`](Self::native_f16), before which they go: their sums are f32.
    /// [`Gpu`](crate::Gpu) sets it where
    /// [`cooperative_matrices`](crate::Gpu::cooperative_matrices) were admitted.
    pub cooperative: Option<CooperativeMatrix>,
    /// What reads and writes f16 by the device's own conversions; products by
    /// [`cooperative`](Self::cooperative) matrices of f16 always read so. [`Gpu`](crate::Gpu) adds
    /// those that [`half_conversions`](crate::Gpu::half_conversions) admitted.
    pub half_conversions: HalfConversions,
    /// Whether 4 invocations work on a row instead of 64, and, but with subgroups of 8, on a chunk of
    /// the gradient and on what its scan left. [`Gpu`](crate::Gpu) sets it where
    /// [`is_software`](crate::Gpu::is_software) holds.
    pub few_lanes: bool,
    /// Whether matrix products in registers and attention share what they load among subgroups
    /// of 8, and the few invocations of a row their sums. [`Gpu`](crate::Gpu) sets it where software
    /// has them.
    pub subgroups_of_8: bool,
    /// Whether f32 tensors are read and written as words of 64 bits. [`Gpu`](crate::Gpu) sets it
    /// where software runs subgroups of 8 and has such words.
    pub words_of_64: bool,
    /// Whether an invocation of a product in registers computes 16 x 16 elements in the place of 8 x 8,
    /// but with [`subgroups_of_8`](Self::subgroups_of_8). [`Gpu`](crate::Gpu) leaves it where software
    /// has subgroups of 4, which is SwiftShader: a number that is loaded costs it as much as ten
    /// products of it.
    pub large_register_tiles: bool,
    /// Quads in a head of attention.
    pub head_quads: HeadQuads,
    /// The tile of a matrix product through workgroup memory.
    pub product_tile: ProductTile,
}

/// How many rows and columns of C one workgroup of a matrix product computes. The sums have the same
/// bits in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProductTile {
    /// 128 of each: the most arithmetic for what is loaded, and the most registers. Taken only where it
    /// was found to be faster: [`Gpu::tune_products`](crate::Gpu::tune_products).
    Of128,
    /// 64 of each.
    #[default]
    Of64,
    /// 32 of each: the most workgroups.
    Of32,
}

impl ProductTile {
    /// All of them, the largest first.
    pub const ALL: [Self; 3] = [Self::Of128, Self::Of64, Self::Of32];

    /// Rows, and columns.
    pub const fn size(self) -> u32 {
        match self {
            Self::Of128 => 128,
            Self::Of64 => 64,
            Self::Of32 => 32,
        }
    }

    /// How many cover `batch` products of `rows` x `cols`.
    pub const fn count(self, rows: u32, cols: u32, batch: u32) -> u32 {
        rows.div_ceil(self.size()) * cols.div_ceil(self.size()) * batch
    }

    /// Invocations of a workgroup.
    pub(super) const fn invocations(self) -> u32 {
        match self {
            Self::Of128 => 256,
            Self::Of64 => 128,
            Self::Of32 => 64,
        }
    }

    const fn fragment(self) -> Fragment {
        match self {
            Self::Of128 => shared::PRODUCT_TILE_128,
            Self::Of64 => shared::PRODUCT_TILE_64,
            Self::Of32 => shared::PRODUCT_TILE_32,
        }
    }
}

/// The most quads that a head of attention may have.
///
/// Attention holds rows of a head in private arrays, whose length WGSL must know: where they are
/// longer than need be, compilers take longer and registers are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeadQuads {
    /// Heads of up to 16 columns.
    UpTo4,
    /// Heads of up to 32 columns.
    UpTo8,
    /// Heads of up to 64 columns.
    UpTo16,
    /// Heads of up to 128 columns.
    UpTo32,
    /// Every head: up to 256 columns.
    #[default]
    UpTo64,
}

impl HeadQuads {
    /// All of them, the smallest first.
    pub const ALL: [Self; 5] = [Self::UpTo4, Self::UpTo8, Self::UpTo16, Self::UpTo32, Self::UpTo64];

    /// How many that are.
    pub const fn most(self) -> u32 {
        match self {
            Self::UpTo4 => 4,
            Self::UpTo8 => 8,
            Self::UpTo16 => 16,
            Self::UpTo32 => 32,
            Self::UpTo64 => 64,
        }
    }

    /// The smallest that a head of `quads` fits in.
    ///
    /// # Panics
    /// With more than [`MAX_HEAD_QUADS`](crate::kernels::MAX_HEAD_QUADS).
    pub fn fitting(quads: u32) -> Self {
        let fitting = Self::ALL.into_iter().find(|size| quads <= size.most());
        fitting.unwrap_or_else(|| panic!("a head of {quads} quads: at most 64"))
    }

    const fn fragment(self) -> Fragment {
        match self {
            Self::UpTo4 => shared::HEAD_QUADS_4,
            Self::UpTo8 => shared::HEAD_QUADS_8,
            Self::UpTo16 => shared::HEAD_QUADS_16,
            Self::UpTo32 => shared::HEAD_QUADS_32,
            Self::UpTo64 => shared::HEAD_QUADS_64,
        }
    }

    /// How a subgroup of 8 holds tiles of such heads.
    #[cfg(not(target_arch = "wasm32"))]
    const fn subgroup_fragment(self) -> Fragment {
        match self {
            Self::UpTo4 | Self::UpTo8 => shared::ATTENTION_SUBGROUP_8,
            Self::UpTo16 | Self::UpTo32 | Self::UpTo64 => shared::ATTENTION_SUBGROUP_WIDE,
        }
    }
}

impl From<Precision> for Variant {
    fn from(precision: Precision) -> Self {
        Self { precision, ..Self::default() }
    }
}

impl From<WeightStorage> for Variant {
    fn from(weights: WeightStorage) -> Self {
        Self { weights, ..Self::default() }
    }
}

impl From<HeadQuads> for Variant {
    fn from(head_quads: HeadQuads) -> Self {
        Self { head_quads, ..Self::default() }
    }
}

impl From<ProductTile> for Variant {
    fn from(product_tile: ProductTile) -> Self {
        Self { product_tile, ..Self::default() }
    }
}

impl Variant {
    /// Every combination that a kernel can heed.
    pub fn all() -> impl Iterator<Item = Self> {
        // What reads blocks has no heads, and no weights of an optimizer.
        let of_weights = |variant: &Self| {
            variant.weights == WeightStorage::F32 && variant.head_quads == HeadQuads::default()
        };
        let in_blocks = Self::over_quads().filter(of_weights).flat_map(|variant| {
            BlockFormat::ALL.map(|format| Self { blocks: Some(format), ..variant })
        });
        // Their scales are f16 whatever the storage of tensors.
        let in_blocks = in_blocks.flat_map(|variant| {
            let loads = HalfConversions { loads: true, ..variant.half_conversions };
            [variant.half_conversions, loads].map(|ways| Self { half_conversions: ways, ..variant })
        });
        Self::over_quads().chain(in_blocks)
    }

    /// The cooperative matrices that products heed: those of the storage of their tensors.
    pub(crate) fn matrices(self) -> Option<CooperativeMatrix> {
        self.cooperative.filter(|matrix| matrix.precision() == self.precision)
    }

    /// The tile of a product through workgroup memory.
    pub(crate) fn tile(self) -> ProductTile {
        self.matrices().map_or(self.product_tile, CooperativeMatrix::tile)
    }

    fn over_quads() -> impl Iterator<Item = Self> {
        let storage = Precision::ALL.into_iter().flat_map(|precision| {
            WeightStorage::ALL.map(|weights| Self { weights, ..precision.into() })
        });
        let native = Self { native_f16: true, ..Precision::F16.into() };
        let cooperative = CooperativeMatrix::ALL
            .map(|matrix| Self { cooperative: Some(matrix), ..matrix.precision().into() });
        let halves = move || {
            let cooperative = cooperative.into_iter().filter(|v| v.precision == Precision::F16);
            [Precision::F16.into(), native].into_iter().chain(cooperative)
        };
        let ways = HalfConversions::ALL.into_iter().filter(|ways| *ways != HalfConversions::NONE);
        let converted = ways.flat_map(move |half_conversions| {
            halves().map(move |variant| Self { half_conversions, ..variant })
        });
        let lanes = storage
            .chain([native])
            .chain(cooperative)
            .chain(converted)
            .flat_map(|variant| [false, true].map(|few_lanes| Self { few_lanes, ..variant }));
        lanes
            .flat_map(|variant| HeadQuads::ALL.map(|head_quads| Self { head_quads, ..variant }))
            .flat_map(|variant| ProductTile::ALL.map(|tile| Self { product_tile: tile, ..variant }))
            .flat_map(|variant| {
                [false, true].map(|subgroups_of_8| Self { subgroups_of_8, ..variant })
            })
            .flat_map(|variant| [false, true].map(|words_of_64| Self { words_of_64, ..variant }))
            .flat_map(|variant| {
                let large = Self { large_register_tiles: true, ..variant };
                std::iter::once(variant).chain(variant.is_of_registers().then_some(large))
            })
    }

    /// Whether products in registers heed all that it has, with no more of a device than its
    /// conversions.
    fn is_of_registers(self) -> bool {
        let Self { precision, half_conversions, .. } = self;
        self == Self { half_conversions, ..precision.into() }
    }

    /// Features of the device that this variant needs.
    pub fn features(self) -> wgpu::Features {
        let mut features = wgpu::Features::empty();
        features.set(wgpu::Features::SHADER_F16, self.native_f16);
        features.set(wgpu::Features::SUBGROUP, self.subgroups_of_8);
        features.set(wgpu::Features::SHADER_INT64, self.words_of_64);
        features | self.matrices().map_or(wgpu::Features::empty(), CooperativeMatrix::features)
    }

    /// Whether 4 invocations work on whatever has a text for so few. They leave half of a subgroup of
    /// 8 idle, which sums of rows make up for by shuffles and others do not.
    pub(crate) const fn has_few_lanes_everywhere(self) -> bool {
        self.few_lanes && !self.subgroups_of_8
    }

    /// The fragments that stand for `fragment` in this variant.
    pub fn substitute(self, fragment: &Fragment) -> Vec<Fragment> {
        if let Some(fragments) = self.block_fragments(fragment) {
            return fragments;
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(fragments) = self.cooperative_fragments(fragment) {
            return fragments;
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(fragments) = self.vector_fragments(fragment) {
            return fragments;
        }
        match fragment.stem() {
            "quad_f32" if self.precision == Precision::F16 => {
                self.half_conversions.quad_fragments().to_vec()
            }
            "quad_f32" => self.precision.fragments().to_vec(),
            "weight_f32" => self.weights.fragments().to_vec(),
            "product_direct" if self.large_register_tiles => vec![shared::PRODUCT_DIRECT_LARGE],
            "product_terms_f32" if self.native_f16 => vec![shared::PRODUCT_TERMS_F16],
            "row_lanes_64" | "row_lanes_256" if self.few_lanes => vec![shared::ROW_LANES_4],
            "fold_8" if self.few_lanes => vec![shared::FOLD_8_FEW],
            "fold_16" if self.few_lanes => vec![shared::FOLD_16_FEW],
            "head_quads_64" => vec![self.head_quads.fragment()],
            "product_tile_64" => vec![self.product_tile.fragment()],
            _ => vec![*fragment],
        }
    }

    /// What stands for `fragment` where a weight lies in blocks.
    fn block_fragments(self, fragment: &Fragment) -> Option<Vec<Fragment>> {
        let format = [self.half_conversions.load_fragment(), self.blocks?.fragment()];
        let readers = match fragment.stem() {
            "product_b_rows" => &[shared::PRODUCT_B_BLOCKS, shared::PRODUCT_B_ROWS_BLOCKS][..],
            "product_b_columns" => &[shared::PRODUCT_B_BLOCKS, shared::PRODUCT_B_COLUMNS_BLOCKS],
            "table_rows" => &[shared::TABLE_ROWS_BLOCKS],
            "weight_rows" => &[shared::WEIGHT_ROWS_BLOCKS],
            _ => return None,
        };
        Some([&format, readers].concat())
    }

    /// What stands for `fragment` where products go by cooperative matrices.
    #[cfg(not(target_arch = "wasm32"))]
    fn cooperative_fragments(self, fragment: &Fragment) -> Option<Vec<Fragment>> {
        let matrix = self.matrices()?;
        let fragments = match fragment.stem() {
            "product_tiled" => vec![matrix.fragment(), shared::PRODUCT_COOPERATIVE],
            "product_terms_f32" | "product_tile_64" => Vec::new(),
            _ => return None,
        };
        Some(fragments)
    }

    /// What stands for `fragment` on drivers that run shaders on the vector units of a CPU.
    #[cfg(not(target_arch = "wasm32"))]
    fn vector_fragments(self, fragment: &Fragment) -> Option<Vec<Fragment>> {
        let fragments = match fragment.stem() {
            "quad_f32" if self.words_of_64 && self.precision == Precision::F32 => {
                vec![shared::QUAD_F32_WORDS]
            }
            "product_direct" if self.subgroups_of_8 => vec![shared::PRODUCT_SUBGROUP],
            "attention_tile" if self.subgroups_of_8 => {
                vec![shared::ATTENTION_SUBGROUP, self.head_quads.subgroup_fragment()]
            }
            "attention_statistics" if self.subgroups_of_8 => {
                vec![shared::ATTENTION_STATISTICS_SUBGROUP]
            }
            "reduce" if self.few_lanes && self.subgroups_of_8 => vec![shared::REDUCE_SUBGROUP],
            "reduce_vec4" if self.few_lanes && self.subgroups_of_8 => {
                vec![shared::REDUCE_VEC4_SUBGROUP]
            }
            _ => return None,
        };
        Some(fragments)
    }
}
