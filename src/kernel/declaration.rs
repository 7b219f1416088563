//! The Rust half of a kernel, and `kernel!`, which writes it.

use std::collections::HashSet;

use super::fragment::Fragment;
use super::precision::Precision;
use super::variant::Variant;

/// The most workgroups WebGPU guarantees in one dimension of a dispatch.
pub const MAX_GROUPS: u32 = 65_535;

/// Which subgroup has what to do follows from its index, which naga does not know to be the same for
/// all of it.
const ENABLE_MATRICES: &str =
    "enable wgpu_cooperative_matrix;\ndiagnostic(off, derivative_uniformity);\n";

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

/// One scalar of a kernel's uniform block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in Rust and in WGSL.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// `"u32"`, `"i32"` or `"f32"`.
    pub ty: &'static str,
}

/// The Rust half of one kernel. [`contract`](crate::kernel::contract) holds both halves together.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// Name of the kernel: its WGSL file, its pipeline label, its reference, its test row.
    pub name: &'static str,
    /// Name of the Rust type.
    pub type_name: &'static str,
    /// WGSL text in order; the last one is the kernel's own file.
    pub fragments: &'static [Fragment],
    /// `@workgroup_size`; see [`workgroup_size_of`](Self::workgroup_size_of).
    pub workgroup_size: [u32; 3],
    /// Storage buffers in binding order; they start at binding 1.
    pub buffers: &'static [(&'static str, Access)],
    /// Fields of the uniform at binding 0.
    pub uniform: &'static [Field],
    /// Size of the uniform in bytes.
    pub uniform_size: usize,
    /// Names of the pipeline-overridable constants.
    pub overrides: &'static [&'static str],
}

impl Declaration {
    /// The complete WGSL source over f32 storage.
    pub fn source(&self) -> String {
        self.source_of(Variant::default())
    }

    /// The complete WGSL source of a variant.
    pub fn source_of(&self, variant: Variant) -> String {
        let fragments = self.fragments_of(variant);
        let features = self.variant(variant).features();
        let has_f16 = features.contains(wgpu::Features::SHADER_F16);
        let has_matrices = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let head = [
            if has_f16 { "enable f16;\n" } else { "" },
            if has_matrices { ENABLE_MATRICES } else { "" },
        ];
        let text = fragments.iter().flat_map(|fragment| [fragment.text, "\n"]);
        head.into_iter().chain(text).collect()
    }

    /// The WGSL text of a variant, in order, each piece once.
    pub fn fragments_of(&self, variant: Variant) -> Vec<Fragment> {
        let variant = self.variant(variant);
        let mut joined: Vec<Fragment> = Vec::new();
        for fragment in self.fragments.iter().flat_map(|f| variant.substitute(f)) {
            if joined.iter().all(|other| other.path != fragment.path) {
                joined.push(fragment);
            }
        }
        joined
    }

    /// `@workgroup_size` of a variant.
    pub fn workgroup_size_of(&self, variant: Variant) -> [u32; 3] {
        let mine = self.variant(variant);
        if mine.few_lanes {
            [4, 1, 1]
        } else if mine.subgroups_of_8 || mine.large_register_tiles {
            [8, 1, 1]
        } else if mine.cooperative.is_some() {
            [128, 1, 1]
        } else if self.has_fragment("product_tile_64") {
            [variant.product_tile.invocations(), 1, 1]
        } else {
            self.workgroup_size
        }
    }

    /// Whether the kernel reads or writes tensors through `unpack` and `pack`.
    pub fn has_quads(&self) -> bool {
        self.has_fragment("quad_f32")
    }

    /// Whether the kernel reads a weight that may lie in [blocks](Variant::blocks): A·B and A·Bᵀ,
    /// whose B is one, and rows of a table or of a weight.
    pub(crate) fn reads_blocks(&self) -> bool {
        let has = |stem| self.has_fragment(stem);
        let is_product = has("product_b_rows") || has("product_b_columns");
        is_product && has("product_a_rows") || has("table_rows") || has("weight_rows")
    }

    /// The part of a variant that makes a difference to this kernel.
    pub fn variant(&self, variant: Variant) -> Variant {
        let mut mine = Variant::default();
        // No browser has what they need, and their texts are not in programs for pages.
        let has_vectors = cfg!(not(target_arch = "wasm32"));
        if self.has_quads() {
            mine.precision = variant.precision;
            let can = variant.precision == Precision::F16 && self.has_fragment("product_terms_f32");
            mine.native_f16 = variant.native_f16 && can;
            if has_vectors && self.has_fragment("product_tiled") {
                mine.cooperative = variant.matrices();
                mine.native_f16 &= mine.cooperative.is_none();
            }
            mine.words_of_64 =
                has_vectors && variant.words_of_64 && variant.precision == Precision::F32;
        }
        if self.has_fragment("weight_f32") {
            mine.weights = variant.weights;
        }
        if self.reads_blocks() {
            mine.blocks = variant.blocks;
        }
        let is_f16 = mine.precision == Precision::F16;
        let ways = variant.half_conversions;
        // Integers would take longer than the products, and the self-test of the matrices covers it.
        let loads = ways.loads || mine.cooperative.is_some() && is_f16;
        mine.half_conversions.loads = loads && (is_f16 || mine.blocks.is_some());
        mine.half_conversions.stores = ways.stores && is_f16;
        let has_one_of = |stems: &[&str]| stems.iter().any(|stem| self.has_fragment(stem));
        let has_row_lanes = has_one_of(&["row_lanes_64", "row_lanes_256"]);
        let has_other_lanes = has_one_of(&["fold_8", "fold_16"]);
        mine.few_lanes = variant.few_lanes && has_row_lanes
            || variant.has_few_lanes_everywhere() && has_other_lanes;
        let reduces = mine.few_lanes
            && ["reduce", "reduce_vec4"].iter().any(|fragment| self.has_fragment(fragment));
        let is_direct = self.has_fragment("product_direct");
        let shares = reduces || is_direct || self.has_fragment("attention_tile");
        mine.subgroups_of_8 = has_vectors && variant.subgroups_of_8 && shares;
        mine.large_register_tiles =
            variant.large_register_tiles && is_direct && !mine.subgroups_of_8;
        if self.has_fragment("head_quads_64") {
            mine.head_quads = variant.head_quads;
        }
        if self.has_fragment("product_tile_64") && mine.cooperative.is_none() {
            mine.product_tile = variant.product_tile;
        }
        mine
    }

    /// Every variant of this kernel.
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<_> = Variant::all().map(|variant| self.variant(variant)).collect();
        let mut seen = HashSet::new();
        variants.retain(|&variant| seen.insert(variant));
        variants
    }

    pub(super) fn has_fragment(&self, stem: &str) -> bool {
        self.fragments.iter().any(|fragment| fragment.stem() == stem)
    }
}

/// A kernel together with the buffers and parameters of one dispatch.
pub trait Kernel {
    /// What the WGSL must look like.
    const DECLARATION: Declaration;
    /// The buffers in binding order.
    fn buffers(&self) -> Vec<wgpu::BufferBinding<'_>>;
    /// The uniform block's bytes.
    fn uniform(&self) -> &[u8];
    /// Values of the pipeline-overridable constants, in the order of the declaration.
    fn overrides(&self) -> Vec<u32>;
    /// How many workgroups of a variant cover this dispatch's work.
    fn grid(&self, variant: Variant) -> [u32; 3];
}

/// A kernel of whatever type with its buffers and parameters: what is common to all is compiled
/// once.
pub(crate) struct AnyKernel<'a> {
    pub declaration: &'static Declaration,
    pub buffers: Vec<wgpu::BufferBinding<'a>>,
    pub uniform: &'a [u8],
    pub overrides: Vec<u32>,
    pub grid: [u32; 3],
}

impl<'a> AnyKernel<'a> {
    pub fn of<K: Kernel>(kernel: &'a K, variant: Variant) -> Self {
        Self {
            declaration: const { &K::DECLARATION },
            buffers: kernel.buffers(),
            uniform: kernel.uniform(),
            overrides: kernel.overrides(),
            grid: kernel.grid(variant),
        }
    }
}

/// Folds a one-dimensional count of workgroups into a grid within [`MAX_GROUPS`]. The grid may
/// hold a few groups too many; `shared/grid.wgsl` gives the flat index back.
pub const fn grid(groups: u32) -> [u32; 3] {
    if groups <= MAX_GROUPS {
        return [groups, 1, 1];
    }
    let y = groups.div_ceil(MAX_GROUPS);
    [groups.div_ceil(y), y, 1]
}

/// Declares a kernel: the WGSL it is made of, its workgroup, grid, uniform and buffers.
///
/// The expansion is a uniform struct and a kernel struct with one public field per buffer
/// (a [`wgpu::BufferBinding`], so offsets into larger buffers work) that implements
/// [`Kernel`](crate::kernel::Kernel). Binding 0 is the uniform `params`; buffers follow in order.
///
/// ```
/// # use evenkeel::{kernel, kernel::{Fragment, Kernel, grid}};
/// const SQUARE: Fragment = Fragment {
///     path: "square.wgsl",
///     text: "
///         // y[i] = x[i]^2. One invocation per element.
///         struct SquareParams { count: u32 }
///         @group(0) @binding(0) var<uniform> params: SquareParams;
///         @group(0) @binding(1) var<storage, read> x: array<f32>;
///         @group(0) @binding(2) var<storage, read_write> y: array<f32>;
///         @compute @workgroup_size(64)
///         fn main(@builtin(global_invocation_id) id: vec3<u32>) {
///             if id.x < params.count { y[id.x] = x[id.x] * x[id.x]; }
///         }",
/// };
/// kernel! {
///     /// y = x².
///     pub Square = [SQUARE];
///     workgroup [64, 1, 1];
///     grid |params| grid(params.count.div_ceil(64));
///     uniform SquareParams {
///         /// Elements.
///         count: u32,
///     }
///     buffers {
///         /// (count)
///         Read x,
///         /// (count), overwritten.
///         Write y,
///     }
/// }
/// assert_eq!(Square::DECLARATION.name, "square");
/// ```
#[macro_export]
macro_rules! kernel {
    (
        $(#[$doc:meta])*
        pub $Kernel:ident = [$($fragment:expr),+ $(,)?];
        workgroup $size:tt;
        grid |$p:ident $(, $variant:ident)?| $grid:expr;
        $(overrides { $($(#[$override_doc:meta])* $override:ident),+ $(,)? })?
        uniform $Params:ident { $($(#[$field_doc:meta])* $field:ident: $field_type:ident),* $(,)? }
        buffers { $($(#[$buffer_doc:meta])* $access:ident $buffer:ident),* $(,)? }
    ) => {
        #[doc = concat!("Parameters of [`", stringify!($Kernel), "`].")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, ::bytemuck::Pod, ::bytemuck::Zeroable)]
        pub struct $Params { $($(#[$field_doc])* pub $field: $field_type),* }

        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $Kernel<'a> {
            /// The uniform block.
            pub params: $Params,
            $($($(#[$override_doc])* pub $override: u32,)+)?
            $($(#[$buffer_doc])* pub $buffer: ::wgpu::BufferBinding<'a>),*
        }

        impl $crate::kernel::Kernel for $Kernel<'_> {
            const DECLARATION: $crate::kernel::Declaration = {
                const FRAGMENTS: &[$crate::kernel::Fragment] = &[$($fragment),+];
                $crate::kernel::Declaration {
                    name: FRAGMENTS[FRAGMENTS.len() - 1].stem(),
                    type_name: stringify!($Kernel),
                    fragments: FRAGMENTS,
                    workgroup_size: $size,
                    buffers: &[$((stringify!($buffer), $crate::kernel::Access::$access)),*],
                    uniform: &[$($crate::kernel::Field {
                        name: stringify!($field),
                        offset: ::std::mem::offset_of!($Params, $field),
                        ty: stringify!($field_type),
                    }),*],
                    uniform_size: ::std::mem::size_of::<$Params>(),
                    overrides: &[$($(stringify!($override)),+)?],
                }
            };
            fn buffers(&self) -> Vec<::wgpu::BufferBinding<'_>> {
                vec![$(self.$buffer.clone()),*]
            }
            fn uniform(&self) -> &[u8] {
                ::bytemuck::bytes_of(&self.params)
            }
            fn overrides(&self) -> Vec<u32> {
                vec![$($(self.$override),+)?]
            }
            fn grid(&self, _variant: $crate::kernel::Variant) -> [u32; 3] {
                let $p = &self.params;
                $(let $variant = _variant;)?
                $grid
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_covers_any_count_within_the_limit() {
        for groups in [0, 1, 65_535, 65_536, 131_071, 10_000_019, u32::MAX / 64] {
            let [x, y, z] = grid(groups);
            assert!(x <= MAX_GROUPS && y <= MAX_GROUPS && z == 1, "{groups}: {x} {y} {z}");
            let covered = u64::from(x) * u64::from(y);
            assert!(covered >= u64::from(groups), "{groups} groups, {covered} covered");
            assert!(covered - u64::from(groups) < u64::from(y.max(1)), "{groups}: {covered}");
        }
    }
}
