use evenkeel::Precision;
use evenkeel::kernels::*;

use crate::bench::{Family, SHAPES, Shape, bind};

pub fn run(family: &mut Family<'_>) {
    for shape in SHAPES {
        plain(family, shape);
        activations(family, shape);
        gated(family, shape);
        casts(family, shape);
    }
}

/// Half of the bytes of f32, and all of them.
fn casts(family: &mut Family<'_>, shape: Shape) {
    let quads = shape.quads();
    let [single, half] = family.tensors(shape);
    let bytes = single.size() / 2 * 3;
    let [single, half] = [&single, &half].map(bind);
    for precision in [Precision::F16, Precision::Bf16] {
        let size = format!("{shape} {precision}");
        let params = CastFromF32Params { quads };
        let kernel = CastFromF32 { params, x: single.clone(), y: half.clone() };
        family.moves_as(precision, &size, bytes, &kernel);
        let params = CastToF32Params { quads };
        let kernel = CastToF32 { params, x: half.clone(), y: single.clone() };
        family.moves_as(precision, &size, bytes, &kernel);
    }
}

fn plain(family: &mut Family<'_>, shape: Shape) {
    let quads = shape.quads();
    let [a, b, y] = family.tensors(shape);
    let row = family.vector(shape.cols);
    let [a, b, y, row] = [&a, &b, &y, &row].map(bind);
    let (x, params) = (a.clone(), CopyQuadsParams { quads });
    family.moves_its_buffers(shape, &CopyQuads { params, x: x.clone(), y: y.clone() });
    let params = ScaleParams { quads, factor: 0.5 };
    family.moves_its_buffers(shape, &Scale { params, x: x.clone(), y: y.clone() });
    let params = BroadcastAddParams { quads, period_quads: shape.cols / 4 };
    family.moves_its_buffers(shape, &BroadcastAdd { params, x, b: row.clone(), y: y.clone() });
    let (numerator, divisor) = (family.vector(shape.cols), family.vector(shape.cols));
    let [numerator, divisor] = [&numerator, &divisor].map(bind);
    let params = ScaleColumnsParams {
        rows: shape.rows,
        row_quads: shape.cols / 4,
        first_quad: 0,
        quads: shape.cols / 4,
        has_factor: 1,
        has_bias: 1,
    };
    let (x, bias) = (a.clone(), row.clone());
    let scaled = ScaleColumns { params, x, numerator, divisor, bias, y: y.clone() };
    family.moves_its_buffers(shape, &scaled);
    let params = AddParams { quads };
    let add = Add { params, a: a.clone(), b: b.clone(), y: y.clone() };
    family.moves_its_buffers(shape, &add);
    let params = MultiplyParams { quads };
    family.moves_its_buffers(shape, &Multiply { params, a, b, y });
}

fn activations(family: &mut Family<'_>, shape: Shape) {
    let quads = shape.quads();
    let [x, dy, y] = family.tensors(shape);
    let [x, dy, y] = [&x, &dy, &y].map(bind);
    let kind = Activation::GeluTanh as u32;
    let params = ActivateParams { quads, kind };
    family.moves_its_buffers(shape, &Activate { params, x: x.clone(), y: y.clone() });
    let params = ActivateBackwardParams { quads, kind };
    let backward = ActivateBackward { params, x: x.clone(), dy: dy.clone(), x_gradient: y.clone() };
    family.moves_its_buffers(shape, &backward);
    let params = SoftCapParams { quads, cap: 30.0 };
    family.moves_its_buffers(shape, &SoftCap { params, x: x.clone(), y: y.clone() });
    let params = SoftCapBackwardParams { quads, cap: 30.0 };
    family.moves_its_buffers(shape, &SoftCapBackward { params, x, dy, x_gradient: y });
}

/// SwiGLU. The size is that of the output: rows x hidden.
fn gated(family: &mut Family<'_>, shape: Shape) {
    let (quads, hidden_quads) = (shape.quads(), shape.cols / 4);
    let [x, dx] = family.tensors(Shape { cols: 2 * shape.cols, ..shape });
    let [y, dy] = family.tensors(shape);
    let [x, dx, y, dy] = [&x, &dx, &y, &dy].map(bind);
    let kind = Activation::Silu as u32;
    let params = GatedParams { quads, hidden_quads, kind };
    family.moves_its_buffers(shape, &Gated { params, x: x.clone(), y });
    let params = GatedBackwardParams { quads, hidden_quads, kind };
    family.moves_its_buffers(shape, &GatedBackward { params, x, dy, x_gradient: dx });
}
