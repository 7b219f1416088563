//! Questions to an adapter: what it does where WGSL promises little. No training step runs these;
//! [`Gpu::numerics`](crate::Gpu::numerics) does, and judges the answers.

use crate::kernel::shared::{ACTIVATION, EXP_LOG, GRID, LANES_64, NUMERICS, REDUCE};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// Which tests call a bit pattern NaN or not finite: bit 0 not finite and 1 NaN by integers,
    /// 2 and 3 the same on the bits of the loaded f32, 4 `x != x`, 5 `abs(x) > MAX`,
    /// 6 `min(max(x, -MAX), MAX) != x`, 7 `x - x != 0`.
    pub ProbeBits = [GRID, NUMERICS, wgsl!("../../shaders/probe/probe_bits.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.count.div_ceil(64));
    uniform ProbeBitsParams {
        /// Elements.
        count: u32,
    }
    buffers {
        /// u32 (count)
        Read words,
        /// f32 (count): the same bytes.
        Read values,
        /// u32 (count), overwritten.
        Write tests,
    }
}

/// The functions of [`ProbeArithmetic`], by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ProbeOperation {
    /// x
    #[default]
    Copy = 0,
    /// x + y
    Add = 1,
    /// x y
    Multiply = 2,
    /// x / y
    Divide = 3,
    /// fma(x, y, -(x y)): what rounding took from the product.
    ProductError = 4,
    /// WGSL's exp
    Exp = 5,
    /// WGSL's exp2
    Exp2 = 6,
    /// WGSL's log
    Log = 7,
    /// WGSL's log2
    Log2 = 8,
    /// log(1 + x) of `shared/exp_log.wgsl`
    LogOnePlus = 9,
    /// WGSL's tanh
    Tanh = 10,
    /// tanh of `shared/activation.wgsl`
    TanhAccurate = 11,
    /// WGSL's sqrt
    Sqrt = 12,
    /// WGSL's inverseSqrt
    InverseSqrt = 13,
}

impl ProbeOperation {
    /// Every operation.
    pub const ALL: [Self; 14] = [
        Self::Copy,
        Self::Add,
        Self::Multiply,
        Self::Divide,
        Self::ProductError,
        Self::Exp,
        Self::Exp2,
        Self::Log,
        Self::Log2,
        Self::LogOnePlus,
        Self::Tanh,
        Self::TanhAccurate,
        Self::Sqrt,
        Self::InverseSqrt,
    ];
}

kernel! {
    /// z = f(x, y), element by element, by a [`ProbeOperation`].
    pub ProbeArithmetic =
        [GRID, ACTIVATION, NUMERICS, EXP_LOG, wgsl!("../../shaders/probe/probe_arithmetic.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.count.div_ceil(64));
    uniform ProbeArithmeticParams {
        /// Elements.
        count: u32,
        /// A [`ProbeOperation`] as u32.
        operation: u32,
    }
    buffers {
        /// f32 (count)
        Read x,
        /// f32 (count)
        Read y,
        /// f32 (count), overwritten.
        Write z,
    }
}

kernel! {
    /// Sums of rows, in order: plain, Kahan's, by TwoSum (Ogita, Rump and Oishi, "Accurate sum and
    /// dot product", 2005), and by TwoSum with every result passed through an integer operation.
    pub ProbeCompensation = [GRID, wgsl!("../../shaders/probe/probe_compensation.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows.div_ceil(64));
    uniform ProbeCompensationParams {
        /// Rows.
        rows: u32,
        /// Elements in a row.
        cols: u32,
        /// Must be 0; the compiler cannot know.
        zero: u32,
    }
    buffers {
        /// f32 (rows, cols)
        Read x,
        /// f32 (rows, 4), overwritten: plain, Kahan, TwoSum, TwoSum behind integers.
        Write sums,
    }
}

kernel! {
    /// `pack2x16float`, `unpack2x16float`, and `f32` of a u32.
    pub ProbeConversion = [GRID, wgsl!("../../shaders/probe/probe_conversion.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.count.div_ceil(64));
    uniform ProbeConversionParams {
        /// Elements.
        count: u32,
    }
    buffers {
        /// f32 (count, 2)
        Read pairs,
        /// u32 (count)
        Read words,
        /// u32 (count), overwritten with the pairs in f16.
        Write packed,
        /// f32 (count, 2), overwritten with the two f16 of each word.
        Write unpacked,
        /// f32 (count), overwritten with the numbers that the words are.
        Write numbers,
    }
}

kernel! {
    /// Sum and largest of each 256 elements through workgroup memory, and of all through atomics.
    pub ProbeReduction = [GRID, LANES_64, REDUCE, wgsl!("../../shaders/probe/probe_reduction.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.count.div_ceil(256));
    uniform ProbeReductionParams {
        /// Elements.
        count: u32,
    }
    buffers {
        /// u32 (count)
        Read words,
        /// f32 (count), not negative.
        Read values,
        /// u32 (count / 256 rounded up, 2), overwritten: sum modulo 2³² and largest.
        Write word_results,
        /// f32 (count / 256 rounded up, 2), overwritten: sum and largest.
        Write value_results,
        /// u32 (2): sum modulo 2³² and largest of all words, joined to what is there.
        Write totals,
    }
}

kernel! {
    /// Words shuffled across workgroups and mixed within them, where a missing barrier or a lost
    /// atomic operation shows. Run in a chain, each reading what the one before wrote.
    pub ProbeRace = [GRID, wgsl!("../../shaders/probe/probe_race.wgsl")];
    workgroup [256, 1, 1];
    grid |params| grid(params.count / 256);
    uniform ProbeRaceParams {
        /// Elements: a power of two, at least 256.
        count: u32,
        /// Exchanges through workgroup memory, at least 1.
        rounds: u32,
        /// Elements between the reads of neighbours, odd.
        stride: u32,
    }
    buffers {
        /// u32 (count)
        Read x,
        /// u32 (count), overwritten.
        Write y,
        /// u32 (3): sum modulo 2³², xor and largest of `y`, joined to what is there.
        Write totals,
    }
}

kernel! {
    /// Eight chains of x ← factor x + addend per quad of y, in registers alone: how fast a device
    /// multiplies and adds. Chain j of quad i begins with ((8 i + j) mod 64) / 64, and
    /// `y[4 i + j]` is the sum of what chains j and j + 4 end with.
    pub ProbeMultiplyAdd = [GRID, wgsl!("../../shaders/probe/probe_multiply_add.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform ProbeMultiplyAddParams {
        /// Quads of y.
        quads: u32,
        /// Steps of each chain, a multiple of 4.
        rounds: u32,
        /// Factor.
        factor: f32,
        /// Addend.
        addend: f32,
    }
    buffers {
        /// f32 (4 quads), overwritten.
        Write y,
    }
}

impl ProbeMultiplyAddParams {
    /// Multiplications and additions.
    pub const fn operations(&self) -> u64 {
        2 * 8 * self.quads as u64 * self.rounds as u64
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    ProbeArithmetic::DECLARATION,
    ProbeBits::DECLARATION,
    ProbeCompensation::DECLARATION,
    ProbeConversion::DECLARATION,
    ProbeMultiplyAdd::DECLARATION,
    ProbeRace::DECLARATION,
    ProbeReduction::DECLARATION,
];
