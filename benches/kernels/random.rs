use evenkeel::kernels::*;
use evenkeel::step::StepInput;

use crate::bench::{Family, SHAPES, bind};

pub fn run(family: &mut Family<'_>) {
    let input = family.gpu.upload("input", &[StepInput { seed: 1, ..Default::default() }]);
    for shape in SHAPES {
        let (rows, cols) = (shape.rows, shape.cols);
        let [x, y] = family.tensors(shape);
        let [input, x, y] = [&input, &x, &y].map(bind);
        let params = DropoutParams::new(shape.quads(), 0, 0.1);
        family.moves_its_buffers(shape, &Dropout { params, step_input: input, x, y: y.clone() });
        let params = FillParams { rows, cols, value: 1.0 };
        family.moves_its_buffers(shape, &Fill { params, w: y.clone() });
        let (first_row, seed, stream, low, high) = (0, 1, 2, -1.0, 1.0);
        let params = InitializeUniformParams { first_row, rows, cols, seed, stream, low, high };
        family.moves_its_buffers(shape, &InitializeUniform { params, w: y.clone() });
        let (mean, deviation) = (0.0, 0.02);
        let params =
            InitializeNormalParams { first_row, rows, cols, seed, stream, mean, deviation };
        family.moves_its_buffers(shape, &InitializeNormal { params, w: y });
    }
}
