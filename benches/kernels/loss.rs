use evenkeel::kernels::*;

use crate::bench::{Family, SHAPES, Shape, bind};

const IGNORE: u32 = u32::MAX;

pub fn run(family: &mut Family<'_>) {
    for shape in SHAPES {
        cross_entropy(family, shape);
        mean_squared_error(family, shape);
    }
    loss_mean(family);
}

fn cross_entropy(family: &mut Family<'_>, shape: Shape) {
    let Shape { rows, cols: classes } = shape;
    let row_quads = classes / 4;
    let [logits, dlogits] = family.tensors(shape);
    let [loss, statistics, correct] = [rows, 2 * rows, rows].map(|count| family.vector(count));
    let targets = family.tokens(rows, classes);
    let (mean, upstream) = (family.vector(4), family.gpu.upload("upstream", &[1.0f32]));
    let [logits, dlogits, loss, statistics, correct, targets, mean, upstream] =
        [&logits, &dlogits, &loss, &statistics, &correct, &targets, &mean, &upstream].map(bind);
    let (ignore_index, label_smoothing, z_loss) = (IGNORE, 0.1, 1e-4);
    let forward = CrossEntropy {
        params: CrossEntropyParams {
            rows,
            row_quads,
            classes,
            ignore_index,
            label_smoothing,
            z_loss,
        },
        logits: logits.clone(),
        targets: targets.clone(),
        loss: loss.clone(),
        statistics: statistics.clone(),
    };
    family.gpu.run(&forward);
    family.moves_its_buffers(shape, &forward);
    let counts = family.gpu.buffer("counts", 8);
    let counted = CountTargets {
        params: CountTargetsParams { rows, ignore_index, accumulate: 0 },
        targets: targets.clone(),
        counts: bind(&counts),
    };
    family.gpu.run(&counted);
    family.moves_its_buffers(format_args!("{rows}"), &counted);
    let averaged = CrossEntropyMean {
        params: CrossEntropyMeanParams { rows },
        loss,
        counts: bind(&counts),
        mean: mean.clone(),
    };
    family.gpu.run(&averaged);
    family.moves_its_buffers(format_args!("{rows}"), &averaged);
    let backward = CrossEntropyBackward {
        params: CrossEntropyBackwardParams {
            rows,
            row_quads,
            classes,
            ignore_index,
            label_smoothing,
            z_loss,
        },
        logits: logits.clone(),
        targets: targets.clone(),
        statistics,
        mean,
        upstream,
        dlogits,
    };
    family.moves_its_buffers(shape, &backward);
    let params = CountCorrectParams { rows, row_quads, classes, ignore_index };
    family.moves_its_buffers(shape, &CountCorrect { params, logits, targets, correct });
}

/// Of two microbatches.
fn loss_mean(family: &mut Family<'_>) {
    let [loss, mean] = [family.vector(4), family.vector(4)];
    let params = LossMeanParams { factor: 0.5, accumulate: 1 };
    family.moves("1", 12, &LossMean { params, loss: bind(&loss), mean: bind(&mean) });
}

fn mean_squared_error(family: &mut Family<'_>, shape: Shape) {
    let Shape { rows, cols } = shape;
    let [prediction, expected, dprediction] = family.tensors(shape);
    let (loss, upstream) = (family.vector(rows), family.gpu.upload("upstream", &[1.0f32]));
    let [prediction, expected, dprediction, loss, upstream] =
        [&prediction, &expected, &dprediction, &loss, &upstream].map(bind);
    let forward = MeanSquaredError {
        params: MeanSquaredErrorParams { rows, cols },
        prediction: prediction.clone(),
        expected: expected.clone(),
        loss,
    };
    family.moves_its_buffers(shape, &forward);
    let params = MeanSquaredErrorBackwardParams { rows, cols };
    let backward = MeanSquaredErrorBackward { params, prediction, expected, upstream, dprediction };
    family.moves_its_buffers(shape, &backward);
}
