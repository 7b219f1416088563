//! A rule in the frame that all optimizers share: `shaders/optimizer/shared/update_frame.wgsl`.

use bytemuck::Pod;

use crate::kernel::Declaration;

/// The uniform of a kernel that [`update_rule!`](crate::update_rule!) declares.
pub trait UpdateParams: Pod {
    /// The kernel.
    const KERNEL: Declaration;

    /// Rows of the chunk table.
    fn chunk_count(&self) -> u32;
}

/// Declares the kernel of an optimizer: what it has of its own beside the frame of all optimizers.
///
/// The frame goes through the weights, unscales and clips the gradient, obeys the verdict and the
/// schedule. The kernel's WGSL file is the rule alone: a `struct Params` with the uniform's fields,
/// and
///
/// ```wgsl
/// fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32>
/// ```
///
/// which returns what to add to four weights w, given their gradient g. `at` says where they are,
/// `at.index` being their quad in the moments and `at.weight_index` that in weights and gradient,
/// which is another where a [rank](crate::train::TrainerBuilder::shard_optimizer_state) keeps its own
/// range of the moments. It holds what the tensor has to say: `learning_rate`, `weight_decay`, `unbias1` and
/// `unbias2` (1 / (1 - βᵗ)), `tensor` (a [`TensorState`](crate::step::TensorState)), `row` (its row in
/// tables by tensor). What the rule keeps it must read through `remembered(value, at.tensor)`, which is zero where the memory of a
/// tensor was emptied. Padding must stay zero.
///
/// In front of its own fields the uniform has `chunk_count` and `weight_decay`; in front of its own
/// buffers, which start at binding 6, the kernel has `state`, `chunks`, `tensors`, `gradient` and
/// `weight`. Fragments that the rule calls stand in front of its own file. Everything else is as in
/// [`kernel!`](crate::kernel!).
///
/// ```
/// # use evenkeel::{kernel::{Fragment, Kernel}, update_rule};
/// const SIGN_DESCENT: Fragment = Fragment {
///     path: "sign_descent.wgsl",
///     text: "
///         // w -= lr (sign(g) + decay w).
///         struct Params { chunk_count: u32, weight_decay: f32 }
///         fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
///             return -at.learning_rate * (sign(g) + at.weight_decay * w);
///         }",
/// };
/// update_rule! {
///     /// Gradient descent by signs.
///     pub SignDescent = [SIGN_DESCENT];
///     uniform SignDescentParams {}
///     buffers {}
/// }
/// assert_eq!(SignDescent::DECLARATION.buffers.len(), 5);
/// ```
#[macro_export]
macro_rules! update_rule {
    (
        $(#[$doc:meta])*
        pub $Kernel:ident = [$($fragment:expr),+ $(,)?];
        uniform $Params:ident { $($field:tt)* }
        buffers { $($buffer:tt)* }
    ) => {
        $crate::kernel! {
            $(#[$doc])*
            pub $Kernel = [
                $crate::kernel::shared::STEP_STATE,
                $crate::kernel::shared::GRID,
                $crate::kernel::shared::CLIPPED,
                $crate::kernel::shared::WEIGHT_F32,
                $crate::kernel::shared::UPDATE_FRAME,
                $($fragment),+
            ];
            workgroup [64, 1, 1];
            grid |params| $crate::kernel::grid(params.chunk_count);
            uniform $Params {
                /// Rows of the chunk table.
                chunk_count: u32,
                /// Weight decay of tensors whose own factor on it is 1.
                weight_decay: f32,
                $($field)*
            }
            buffers {
                /// (1) [`StepState`](crate::step::StepState)
                Read state,
                /// (chunk_count) [`Chunk`](crate::step::Chunk)
                Read chunks,
                /// (tensors) [`TensorState`](crate::step::TensorState)
                Read tensors,
                /// Flat gradient in quads, still scaled and not clipped.
                Read gradient,
                /// As the gradient, advanced.
                Write weight,
                $($buffer)*
            }
        }

        impl $crate::kernels::UpdateParams for $Params {
            const KERNEL: $crate::kernel::Declaration =
                <$Kernel<'static> as $crate::kernel::Kernel>::DECLARATION;

            fn chunk_count(&self) -> u32 {
                self.chunk_count
            }
        }
    };
}

/// [`update_rule!`](crate::update_rule!) over the two moments of Adam, in `m` and `v`; own buffers
/// start at binding 8.
macro_rules! adam_rule {
    (
        $(#[$doc:meta])*
        pub $Kernel:ident = [$($fragment:expr),+ $(,)?];
        uniform $Params:ident { $($field:tt)* }
        buffers { $($buffer:tt)* }
    ) => {
        $crate::update_rule! {
            $(#[$doc])*
            pub $Kernel = [
                $crate::kernel::shared::ADAM_ROOT,
                $crate::kernel::shared::ADAM_MOMENTS,
                $($fragment),+
            ];
            uniform $Params {
                /// Decay of the first moment.
                beta1: f32,
                /// 1 - beta1, rounded once.
                one_minus_beta1: f32,
                /// Decay of the second moment.
                beta2: f32,
                /// 1 - beta2, rounded once.
                one_minus_beta2: f32,
                $($field)*
            }
            buffers {
                /// First moment, as the gradient unless the rule packs it, advanced.
                Write m,
                /// Second moment, as the first.
                Write v,
                $($buffer)*
            }
        }
    };
}
pub(super) use adam_rule;
