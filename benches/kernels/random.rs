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
        let (seed, stream) = (1, 2);
        let params = InitializeUniformParams { rows, cols, seed, stream, low: -1.0, high: 1.0 };
        family.moves_its_buffers(shape, &InitializeUniform { params, w: y.clone() });
        let params =
            InitializeNormalParams { rows, cols, seed, stream, mean: 0.0, deviation: 0.02 };
        family.moves_its_buffers(shape, &InitializeNormal { params, w: y });
    }
}
