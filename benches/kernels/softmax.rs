use evenkeel::kernels::*;

use crate::bench::{Family, SHAPES, bind};

pub fn run(family: &mut Family<'_>) {
    for shape in SHAPES {
        let (rows, cols) = (shape.rows, shape.cols);
        let [x, y, dy, dx] = family.tensors(shape);
        let [sums, upstream] = [(); 2].map(|()| family.vector(rows));
        let lengths = family.tokens(4, cols);
        let statistics = family.vector(2 * rows);
        let [x, y, dy, dx, sums, upstream, lengths, statistics] =
            [&x, &y, &dy, &dx, &sums, &upstream, &lengths, &statistics].map(bind);
        let (valid_cols, use_lengths) = (cols, 0);
        let forward = Softmax {
            params: SoftmaxParams { rows, cols, valid_cols, use_lengths },
            x: x.clone(),
            lengths: lengths.clone(),
            y: y.clone(),
        };
        family.gpu.run(&forward);
        family.moves_its_buffers(shape, &forward);
        let params = SoftmaxBackwardParams { rows, cols };
        family.moves_its_buffers(shape, &SoftmaxBackward { params, y, dy, x_gradient: dx.clone() });
        let log_sum = LogSumExp {
            params: LogSumExpParams { rows, cols, valid_cols, use_lengths },
            x: x.clone(),
            lengths: lengths.clone(),
            y: sums,
            statistics: statistics.clone(),
        };
        family.gpu.run(&log_sum);
        family.moves_its_buffers(shape, &log_sum);
        let params = LogSumExpBackwardParams { rows, cols, valid_cols, use_lengths };
        let backward =
            LogSumExpBackward { params, x, lengths, statistics, upstream, x_gradient: dx };
        family.moves_its_buffers(shape, &backward);
    }
}
