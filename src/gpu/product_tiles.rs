//! Which tile matrix products of each size go by on a GPU: by default that of the GPU it was first
//! measured on, and after [`Gpu::tune_products`] what was found on the one that is here.
//!
//! All tiles give the same bits, so that a choice is about time and nothing else.

use std::fmt;
use std::str::FromStr;

#[cfg(not(target_arch = "wasm32"))]
use super::numerics::{Check, Outcome, digits};
use super::{Dispatch, Gpu};
use crate::error::{Error, Result};
use crate::kernel::ProductTile;
use crate::kernels::{
    Matmul, MatmulDirect, MatmulDirectParams, MatmulParams, MatmulTransposedA,
    MatmulTransposedAParams, MatmulTransposedB, MatmulTransposedBParams,
};

/// Rows and columns of the products that are measured, each of twice as many tiles of 64 x 64 as the
/// one before.
const SIZES: [(u32, u32); 7] =
    [(256, 256), (256, 512), (512, 512), (512, 1024), (1024, 1024), (1024, 2048), (2048, 2048)];
/// Terms of their sums.
const INNER: u32 = 512;
/// Measurements of which the fastest counts.
const REPEATS: usize = 3;
/// Seconds of the three products of a size, above which larger ones are not measured.
const LONG: f64 = 0.02;

/// How many tiles of 64 x 64 cover one of [`SIZES`].
const fn tiles_of((rows, cols): (u32, u32)) -> u32 {
    ProductTile::Of64.count(rows, cols, 1)
}

/// The tile that matrix products through workgroup memory go by, by how many of 64 x 64 they have.
///
/// As text, from the smallest products to the largest: `32 32 32 32 64 64 64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductTiles([ProductTile; SIZES.len()]);

impl Default for ProductTiles {
    /// With few tiles of 64 x 64, smaller ones are faster: measured on a GPU of 132 processors, 1.2
    /// times at 144 and 64 tiles, 0.9 times at 256; GPUs that have fewer lose at most as much.
    fn default() -> Self {
        Self(SIZES.map(
            |size| {
                if tiles_of(size) < 256 { ProductTile::Of32 } else { ProductTile::Of64 }
            },
        ))
    }
}

impl ProductTiles {
    /// The fastest of each size; larger ones than were measured go by that of the largest. `None`
    /// where nothing was.
    fn fastest(measured: &[MeasuredProduct]) -> Option<Self> {
        let mut last = None;
        let tiles = SIZES.map(|size| {
            let of_size = measured.iter().filter(|product| (product.rows, product.cols) == size);
            let fastest = of_size.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
            last = fastest.map(|product| product.tile).or(last);
            last
        });
        last.map(|any| Self(tiles.map(|tile| tile.unwrap_or(any))))
    }

    /// That for `batch` products of `rows` x `cols`: what was fastest for the nearest number of
    /// tiles, and no tile of which half would be empty.
    pub fn fitting(&self, rows: u32, cols: u32, batch: u32) -> ProductTile {
        let tiles = u64::from(ProductTile::Of64.count(rows, cols, batch));
        // Nearer to the one than to the next, which has twice as many, by ratio.
        let is_near = |size| tiles * tiles < 2 * u64::from(tiles_of(size)).pow(2);
        let nearest = SIZES.iter().position(|&size| is_near(size)).unwrap_or(SIZES.len() - 1);
        let is_filled = |tile: &ProductTile| 2 * rows.min(cols) > tile.size();
        let mut not_larger =
            ProductTile::ALL.into_iter().filter(|t| t.size() <= self.0[nearest].size());
        not_larger.find(is_filled).unwrap_or(ProductTile::Of32)
    }
}

impl fmt::Display for ProductTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<_> = self.0.iter().map(|tile| tile.size().to_string()).collect();
        f.pad(&sizes.join(" "))
    }
}

impl FromStr for ProductTiles {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let tile = |word: &str| ProductTile::ALL.into_iter().find(|t| t.size().to_string() == word);
        let tiles: Option<Vec<_>> = text.split_whitespace().map(tile).collect();
        let tiles = tiles.and_then(|tiles| tiles.try_into().ok());
        tiles.map(Self).ok_or_else(|| Error::Setting {
            setting: "tiles of products",
            value: format!("{text:?}"),
            range: "seven times 128, 64 or 32",
        })
    }
}

/// What [`Gpu::tune_products`] found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ProductTuning {
    /// What was chosen.
    pub tiles: ProductTiles,
    /// Each size by each tile that is right, from the smallest to the largest.
    pub measured: Vec<MeasuredProduct>,
    /// Tiles whose products of integers are not those of the plain kernel: nothing goes by them.
    pub wrong: Vec<ProductTile>,
}

#[cfg(not(target_arch = "wasm32"))]
impl ProductTuning {
    /// As a row beside those of [`Numerics::checks`](super::Numerics::checks), with the speed of each
    /// tile for the smallest and the largest size.
    pub fn check(&self) -> Check {
        let sizes = self.measured.iter().map(|product| (product.rows, product.cols));
        let (smallest, largest) = (sizes.clone().min(), sizes.max());
        let both = [smallest, largest.filter(|_| largest != smallest)];
        let found: Vec<_> = both.into_iter().flatten().map(|size| self.speeds(size)).collect();
        let wrong: Vec<_> = self.wrong.iter().map(|tile| tile.size().to_string()).collect();
        let (outcome, wrong) = match wrong.as_slice() {
            [] => (Outcome::Pass, String::new()),
            wrong => (Outcome::Degraded, format!("; wrong, and not used: {}", wrong.join(", "))),
        };
        Check {
            name: "product tiles",
            outcome,
            found: format!("{}{wrong}", found.join("; ")),
            consequence: format!("by size, products go by tiles of {}", self.tiles),
        }
    }

    fn speeds(&self, (rows, cols): (u32, u32)) -> String {
        let of_size = self.measured.iter().filter(|p| (p.rows, p.cols) == (rows, cols));
        let speeds: Vec<_> = of_size
            .map(|p| format!("{} by {}", digits(p.operations_per_second() * 1e-9), p.tile.size()))
            .collect();
        format!("{rows} x {cols} x {INNER}: {} GFLOP/s", speeds.join(", "))
    }
}

/// Seconds of products of one size by one tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredProduct {
    /// Rows of C.
    pub rows: u32,
    /// Its columns.
    pub cols: u32,
    /// Terms of each sum.
    pub inner: u32,
    /// What a workgroup computes.
    pub tile: ProductTile,
    /// Seconds of A·B, Aᵀ·B and A·Bᵀ together.
    pub seconds: f64,
}

impl MeasuredProduct {
    /// Multiplications and additions per second.
    pub fn operations_per_second(&self) -> f64 {
        let elements = f64::from(self.rows) * f64::from(self.cols);
        3.0 * 2.0 * elements * f64::from(self.inner) / self.seconds
    }
}

impl Gpu {
    /// The tiles that matrix products go by.
    pub fn product_tiles(&self) -> ProductTiles {
        *self.shared.product_tiles.lock().expect("not poisoned")
    }

    /// Lets products of what is built from here on go by these tiles, found earlier on the same
    /// adapter and driver. No result changes by it.
    pub fn set_product_tiles(&self, tiles: ProductTiles) {
        *self.shared.product_tiles.lock().expect("not poisoned") = tiles;
    }

    /// Measures matrix products of some sizes by each tile, and lets what is built from here on go
    /// by the fastest: a few seconds, in which nothing else should run. A tile counts only if
    /// its products of integers are those of the kernel that uses no workgroup memory.
    ///
    /// Where shaders run on the CPU nothing is measured: products do not go by tiles there.
    ///
    /// ```no_run
    /// # async fn tune(gpu: &evenkeel::Gpu) -> evenkeel::Result<()> {
    /// let found = gpu.tune_products().await?;
    /// for product in &found.measured {
    ///     let gflops = product.operations_per_second() * 1e-9;
    ///     println!("{} x {} in tiles of {}: {gflops:.0} GFLOP/s", product.rows, product.cols, product.tile.size());
    /// }
    /// // Next time, `gpu.set_product_tiles(text.parse()?)` takes its place.
    /// let text = found.tiles.to_string();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] where no tile is right, [`Error::DeviceLost`].
    pub async fn tune_products(&self) -> Result<ProductTuning> {
        let (mut measured, mut wrong) = (Vec::new(), Vec::new());
        if self.is_software() {
            return Ok(ProductTuning { tiles: self.product_tiles(), measured, wrong });
        }
        let operands = Operands::new(self);
        let mut right = ProductTile::ALL.to_vec();
        let plain = operands.result(self, &operands.plain(self)).await?;
        for tile in ProductTile::ALL {
            for product in operands.products(self, SIZES[0], tile) {
                if operands.result(self, &product).await? != plain && !wrong.contains(&tile) {
                    wrong.push(tile);
                }
            }
        }
        right.retain(|tile| !wrong.contains(tile));
        for size @ (rows, cols) in SIZES {
            let mut least = f64::INFINITY;
            for &tile in &right {
                let seconds = self.seconds_of_all(&operands.products(self, size, tile)).await?;
                measured.push(MeasuredProduct { rows, cols, inner: INNER, tile, seconds });
                least = least.min(seconds);
            }
            if least > LONG {
                break;
            }
        }
        let tiles = ProductTiles::fastest(&measured).ok_or_else(|| self.no_tile())?;
        self.set_product_tiles(tiles);
        Ok(ProductTuning { tiles, measured, wrong })
    }

    async fn seconds_of_all(&self, products: &[Dispatch]) -> Result<f64> {
        let mut all = 0.0;
        for product in products {
            let mut least = f64::INFINITY;
            for _ in 0..REPEATS {
                least = least.min(self.seconds_repeated(product).await?);
            }
            all += least;
        }
        Ok(all)
    }

    fn no_tile(&self) -> Error {
        Error::Unsupported {
            what: format!("matrix products through workgroup memory on {:?}", self.info.name),
            instead: "no tile gives what the plain kernel gives; use another adapter or driver"
                .to_owned(),
        }
    }
}

/// What is multiplied: A of (rows, inner) and B of (inner, cols) as they are and transposed, so that
/// the products of the smallest size are all the same C. Larger ones read on in the same buffers.
struct Operands {
    a: wgpu::Buffer,
    a_transposed: wgpu::Buffer,
    b: wgpu::Buffer,
    b_transposed: wgpu::Buffer,
    c: wgpu::Buffer,
    bias: wgpu::Buffer,
    pre_activation: wgpu::Buffer,
}

impl Operands {
    fn new(gpu: &Gpu) -> Self {
        let (rows, cols) = SIZES[SIZES.len() - 1];
        let upload = |name, rows: u32, cols: u32, get: &dyn Fn(u32, u32) -> f32| {
            let smallest = (0..rows).flat_map(|row| (0..cols).map(move |col| get(row, col)));
            let (_, largest) = SIZES[SIZES.len() - 1];
            let more = (rows * cols..largest * INNER).map(|i| integer(0, i, 0));
            gpu.upload(name, &smallest.chain(more).collect::<Vec<_>>())
        };
        let (fewest_rows, fewest_cols) = SIZES[0];
        Self {
            a: upload("a", fewest_rows, INNER, &|row, k| integer(1, row, k)),
            a_transposed: upload("a transposed", INNER, fewest_rows, &|k, row| integer(1, row, k)),
            b: upload("b", INNER, fewest_cols, &|k, col| integer(2, k, col)),
            b_transposed: upload("b transposed", fewest_cols, INNER, &|col, k| integer(2, k, col)),
            c: gpu.buffer("c", 4 * u64::from(rows) * u64::from(cols)),
            bias: gpu.buffer("bias", 16),
            pre_activation: gpu.buffer("pre-activation", 16),
        }
    }

    /// The product of the smallest size, in registers only.
    fn plain(&self, gpu: &Gpu) -> Dispatch {
        let (rows, cols) = SIZES[0];
        let params = MatmulDirectParams::dense(rows, cols, INNER);
        let [a, b, c] = [&self.a, &self.b, &self.c].map(wgpu::Buffer::as_entire_buffer_binding);
        gpu.prepare(&MatmulDirect::plain(params, [a, b, c]))
    }

    /// A·B, Aᵀ·B and A·Bᵀ.
    fn products(&self, gpu: &Gpu, (rows, cols): (u32, u32), tile: ProductTile) -> [Dispatch; 3] {
        let [a, a_transposed, b, b_transposed, c] =
            [&self.a, &self.a_transposed, &self.b, &self.b_transposed, &self.c]
                .map(wgpu::Buffer::as_entire_buffer_binding);
        let params = MatmulParams::dense(rows, cols, INNER);
        let a_b = Matmul::plain(params, [a.clone(), b.clone(), c.clone()]);
        let params = MatmulTransposedAParams::dense(rows, cols, INNER);
        let at_b = MatmulTransposedA { params, a: a_transposed, b, c: c.clone() };
        let params = MatmulTransposedBParams::dense(rows, cols, INNER);
        let [bias, pre_activation] =
            [&self.bias, &self.pre_activation].map(wgpu::Buffer::as_entire_buffer_binding);
        let (activation, b) = (0, b_transposed);
        let a_bt = MatmulTransposedB { params, activation, a, b, bias, c, pre_activation };
        [gpu.prepare_as(&a_b, tile), gpu.prepare_as(&at_b, tile), gpu.prepare_as(&a_bt, tile)]
    }

    /// C of the smallest size.
    async fn result(&self, gpu: &Gpu, product: &Dispatch) -> Result<Vec<f32>> {
        let (rows, cols) = SIZES[0];
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        encoder.clear_buffer(&self.c, 0, None);
        gpu.encode(&mut encoder, [product]);
        gpu.submit(encoder);
        gpu.read(&self.c, 0, (rows * cols) as usize).await
    }
}

/// Integers from -128 to 127: sums of 512 products of two are below 2^24, and exact in any order.
fn integer(seed: u32, row: u32, col: u32) -> f32 {
    let mixed = (row ^ seed << 28).wrapping_mul(0x9e37_79b1).wrapping_add(col);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77);
    (((mixed ^ mixed >> 13) >> 16 & 255) as i32 - 128) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_what_was_nearest() {
        use ProductTile::{Of32, Of64, Of128};
        let tiles = ProductTiles([Of32, Of32, Of32, Of32, Of64, Of64, Of128]);
        let cases = [
            ((64, 64, 1), Of32),
            // 180 and 182 tiles of 64 x 64: between 128 and 256, by ratio.
            ((180 * 64, 64, 1), Of32),
            ((182 * 64, 64, 1), Of64),
            ((64, 64, 182), Of64),
            ((2048, 2048, 1), Of128),
            ((4096, 4096, 8), Of128),
            // Half of a tile of 128 would be empty, and of one of 64.
            ((64, 1 << 20, 1), Of64),
            ((65, 1 << 20, 1), Of128),
            ((32, 1 << 20, 1), Of32),
            ((1, 1 << 20, 1), Of32),
        ];
        for ((rows, cols, batch), tile) in cases {
            assert_eq!(tiles.fitting(rows, cols, batch), tile, "{rows} x {cols} x {batch}");
        }
    }

    #[test]
    fn the_fastest_of_each_size_is_taken() {
        use ProductTile::{Of32, Of64, Of128};
        let product = |(rows, cols), tile, seconds| MeasuredProduct {
            rows,
            cols,
            inner: INNER,
            tile,
            seconds,
        };
        let measured = [
            product(SIZES[0], Of128, 3.0),
            product(SIZES[0], Of64, 2.0),
            product(SIZES[0], Of32, 1.0),
            product(SIZES[1], Of128, 2.0),
            product(SIZES[1], Of64, 1.0),
            product(SIZES[1], Of32, 3.0),
            // A tile that is wrong is not measured.
            product(SIZES[2], Of128, 4.0),
            product(SIZES[2], Of32, 5.0),
        ];
        let tiles = ProductTiles::fastest(&measured).expect("measured");
        assert_eq!(tiles.to_string(), "32 64 128 128 128 128 128");
        assert_eq!(ProductTiles::fastest(&[]), None, "all are wrong");
        let tuning = ProductTuning { tiles, measured: measured.into(), wrong: vec![Of64] };
        let check = tuning.check();
        assert_eq!(check.outcome, Outcome::Degraded);
        let (smallest, rest) = check.found.split_once("; ").expect("two sizes");
        assert_eq!(smallest, "256 x 256 x 512: 0.07 by 128, 0.10 by 64, 0.20 by 32 GFLOP/s");
        assert_eq!(
            rest,
            "512 x 512 x 512: 0.20 by 128, 0.16 by 32 GFLOP/s; wrong, and not used: 64"
        );
        assert!(check.consequence.ends_with("32 64 128 128 128 128 128"), "{}", check.consequence);
        let speed = product((256, 256), Of64, 0.5).operations_per_second();
        assert_eq!(speed, 6.0 * 256.0 * 256.0 * 512.0 / 0.5);
    }

    #[test]
    fn tiles_of_the_first_gpu() {
        let tiles = ProductTiles::default();
        assert_eq!(tiles.to_string(), "32 32 32 32 64 64 64");
        // Where they were measured.
        assert_eq!(tiles.fitting(768, 768, 1), ProductTile::Of32);
        assert_eq!(tiles.fitting(1024, 1024, 1), ProductTile::Of64);
    }

    #[test]
    fn tiles_come_back_from_text() {
        let tiles: ProductTiles = "32 32 64 64 64 128 128".parse().expect("seven");
        assert_eq!(tiles.to_string(), "32 32 64 64 64 128 128");
        for text in ["", "32 32 64 64 64 128", "32 32 64 64 64 128 128 128", "1 2 3 4 5 6 7"] {
            let error = text.parse::<ProductTiles>().expect_err(text);
            assert!(error.to_string().contains("tiles"), "{error}");
        }
    }

    #[test]
    fn sums_are_exact() {
        let largest = (0..256 * 512).map(|i| integer(1, i / 512, i % 512).abs() as u32).max();
        assert_eq!(largest, Some(128));
        assert!(u64::from(INNER) * 128 * 128 < 1 << 24);
    }
}
