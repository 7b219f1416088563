//! Products in registers with 16 x 16 elements per invocation, which SwiftShader gets: the bits of
//! those with 8 x 8, in every storage and of blocks, with what comes at the end of a product.

use evenkeel::Gpu;
use evenkeel::kernel::{BlockFormat, Precision, Variant};
use evenkeel::kernels::*;
use evenkeel::reference::matmul::Product;

use super::support::{self, block_on, pad, values};

tests! {
    only_subgroups_of_4_get_large_tiles, large_tiles_change_no_bit,
    large_tiles_change_no_bit_of_blocks,
}

/// Large tiles, where the device has them.
fn wanted(precision: Precision) -> Variant {
    Variant { large_register_tiles: true, ..precision.into() }
}

fn has_large_tiles(gpu: &Gpu) -> bool {
    let sizes = [gpu.info.subgroup_min_size, gpu.info.subgroup_max_size];
    gpu.is_software() && sizes == [4; 2]
}

/// The device as it is and as one that gets no large tiles; `None` where it gets none anyway, since
/// other software drivers take minutes to compile them.
fn both() -> Option<[Gpu; 2]> {
    let gpu = support::gpu()?;
    let alone = support::gpu_with_hardware_kernels().expect("the same adapter");
    has_large_tiles(&gpu).then_some([gpu, alone])
}

/// 64 x 96 elements are two tiles of 64 x 64, three of 64 x 32, or six of 32 x 32.
fn only_subgroups_of_4_get_large_tiles() {
    let Some(gpu) = support::gpu() else { return };
    let is_swiftshader = gpu.info.name.to_lowercase().contains("swiftshader");
    assert!(has_large_tiles(&gpu) || !is_swiftshader, "{:?}", gpu.info);
    let alone = support::gpu_with_hardware_kernels().expect("the same adapter");
    let [a, b, c] = [64 * 64, 64 * 96, 64 * 96].map(|count| gpu.buffer("tensor", 4 * count));
    let bound = [&a, &b, &c].map(wgpu::Buffer::as_entire_buffer_binding);
    let kernel = MatmulDirect::plain(MatmulDirectParams::dense(64, 96, 64), bound);
    let workgroups = |gpu: &Gpu| gpu.prepare_as(&kernel, wanted(Precision::F32)).workgroups;
    assert_eq!(workgroups(&alone), [2, 1, 1]);
    assert_eq!(workgroups(&gpu) == [3, 1, 1], has_large_tiles(&gpu), "{:?}", workgroups(&gpu));
}

/// What all products read.
struct Operands {
    size: Product,
    precision: Precision,
    /// (rows, inner), and (inner, rows).
    a: [wgpu::Buffer; 2],
    /// (inner, cols), and (cols, inner).
    b: [wgpu::Buffer; 2],
    /// (rows, cols): what products are added to, and what an activation was given.
    before: Vec<f32>,
    argument: wgpu::Buffer,
    bias: wgpu::Buffer,
}

impl Operands {
    fn new(gpu: &Gpu, precision: Precision, size: Product) -> Self {
        let Product { rows, cols, inner } = size;
        let matrix = |seed, rows: usize, cols| {
            let padded = pad(&values(seed, rows * cols), cols);
            gpu.upload("operand", &precision.encode(&padded))
        };
        Self {
            size,
            precision,
            a: [matrix(1, rows, inner), matrix(2, inner, rows)],
            b: [matrix(3, inner, cols), matrix(4, cols, inner)],
            before: pad(&values(5, rows * cols), cols),
            argument: matrix(6, rows, cols),
            bias: gpu.upload("bias", &pad(&values(7, cols), cols)),
        }
    }

    /// What `run` makes of C.
    fn output(&self, gpu: &Gpu, precision: Precision, run: impl FnOnce(&wgpu::Buffer)) -> Vec<u8> {
        let before = precision.encode(&self.before);
        let c = gpu.upload("c", &before);
        run(&c);
        block_on(gpu.read(&c, 0, before.len())).expect("readable")
    }

    /// What the products of weights that may lie in blocks leave: A·B times the derivative of an
    /// activation, the same going on from sums, and A·Bᵀ with bias and activation.
    fn of_weights(&self, gpu: &Gpu, variant: Variant) -> [Vec<u8>; 3] {
        let [rows, cols, inner] = self.dimensions();
        let bind = wgpu::Buffer::as_entire_buffer_binding;
        let (a, b, argument) = (bind(&self.a[0]), bind(&self.b[0]), bind(&self.argument));
        let activation = Activation::Silu as u32;
        let product = self.output(gpu, self.precision, |c| {
            let params = MatmulDirectParams::dense(rows, cols, inner);
            let params = MatmulDirectParams { accumulate: 1, alpha: 0.5, ..params };
            let (a, b, pre_activation, c) = (a.clone(), b.clone(), argument.clone(), bind(c));
            let kernel = MatmulDirect { params, activation, gated: 0, a, b, pre_activation, c };
            gpu.run_as(&kernel, variant);
        });
        let resumed = self.output(gpu, self.precision, |c| {
            let sums = gpu.upload("sums", &self.before);
            let params = MatmulResumedDirectParams::dense(rows, cols, inner);
            let kernel = MatmulResumedDirect {
                params: MatmulResumedDirectParams { resume: 1, ..params },
                activation,
                gated: 0,
                a: a.clone(),
                b: b.clone(),
                pre_activation: argument.clone(),
                sums: bind(&sums),
                c: bind(c),
            };
            gpu.run_as(&kernel, variant);
        });
        let layer = self.output(gpu, self.precision, |c| {
            let given = gpu.buffer("given", c.size());
            let params = MatmulTransposedBDirectParams::dense(rows, cols, inner);
            let kernel = MatmulTransposedBDirect {
                params: MatmulTransposedBDirectParams { has_bias: 1, ..params },
                activation,
                a: a.clone(),
                b: bind(&self.b[1]),
                bias: bind(&self.bias),
                c: bind(c),
                pre_activation: bind(&given),
            };
            gpu.run_as(&kernel, variant);
        });
        [product, resumed, layer]
    }

    /// Aᵀ·B, whose C is f32.
    fn of_gradients(&self, gpu: &Gpu) -> Vec<u8> {
        let [rows, cols, inner] = self.dimensions();
        let [a, b] = [&self.a[1], &self.b[0]].map(wgpu::Buffer::as_entire_buffer_binding);
        self.output(gpu, Precision::F32, |c| {
            let params = MatmulTransposedADirectParams::dense(rows, cols, inner);
            let params = MatmulTransposedADirectParams { accumulate: 1, ..params };
            let c = c.as_entire_buffer_binding();
            gpu.run_as(&MatmulTransposedADirect { params, a, b, c }, wanted(self.precision));
        })
    }

    fn dimensions(&self) -> [u32; 3] {
        let Product { rows, cols, inner } = self.size;
        [rows, cols, inner].map(|count| count as u32)
    }
}

/// Within a tile of 64 x 32, at its edges, and over several with several partial sums.
fn large_tiles_change_no_bit() {
    let Some([gpu, alone]) = both() else { return };
    for precision in Precision::ALL {
        for (rows, cols, inner) in
            [(1, 1, 1), (17, 33, 5), (64, 32, 256), (65, 67, 257), (130, 20, 530)]
        {
            let operands = Operands::new(&gpu, precision, Product { rows, cols, inner });
            let [large, plain] = [&gpu, &alone].map(|gpu| {
                (operands.of_weights(gpu, wanted(precision)), operands.of_gradients(gpu))
            });
            assert!(large == plain, "{precision}, {rows} x {cols} x {inner}");
        }
    }
}

fn large_tiles_change_no_bit_of_blocks() {
    let Some([gpu, alone]) = both() else { return };
    let of_halves = (Precision::F16, BlockFormat::Q8_0);
    let of_f32 = BlockFormat::ALL.map(|format| (Precision::F32, format));
    for (precision, format) in of_f32.into_iter().chain([of_halves]) {
        let size = Product { rows: 70, cols: 96, inner: 288 };
        let mut operands = Operands::new(&gpu, precision, size);
        let blocks = format.split(&format.encode(&values(8, size.inner * size.cols))).concat();
        operands.b = [(); 2].map(|()| gpu.upload("blocks", &blocks));
        let variant = Variant { blocks: Some(format), ..wanted(precision) };
        let [large, plain] = [&gpu, &alone].map(|gpu| operands.of_weights(gpu, variant));
        assert!(large == plain, "{precision}, {format}");
    }
}
