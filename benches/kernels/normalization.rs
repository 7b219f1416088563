use evenkeel::kernels::*;

use crate::bench::{Family, SHAPES, Shape, bind};

const EPS: f32 = 1e-5;

pub fn run(family: &mut Family<'_>) {
    for shape in SHAPES {
        layer_norm(family, shape);
        rms_norm(family, shape);
        row_norms(family, shape);
        batch_norm(family, shape);
    }
}

fn layer_norm(family: &mut Family<'_>, shape: Shape) {
    let Shape { rows, cols } = shape;
    let [x, residual, sum, y, dx] = family.tensors(shape);
    let [weight, bias] = [(); 2].map(|()| family.vector(cols));
    let statistics = family.vector(4 * rows);
    let [x, residual, sum, y, dx, weight, bias, statistics] =
        [&x, &residual, &sum, &y, &dx, &weight, &bias, &statistics].map(bind);
    let forward = LayerNorm {
        params: LayerNormParams { rows, cols, eps: EPS },
        x: x.clone(),
        weight: weight.clone(),
        bias: bias.clone(),
        y: y.clone(),
        statistics: statistics.clone(),
    };
    family.gpu.run(&forward);
    family.moves_its_buffers(shape, &forward);
    let backward = LayerNormBackward {
        params: LayerNormBackwardParams { rows, cols, add_residual: 1 },
        x: x.clone(),
        weight: weight.clone(),
        dy: y.clone(),
        statistics: statistics.clone(),
        residual_gradient: residual.clone(),
        x_gradient: dx,
    };
    family.moves_its_buffers(shape, &backward);
    let (rows_per_block, blocks) = row_blocks(rows);
    let [weight_partials, bias_partials] = family.tensors(Shape { rows: blocks, cols });
    let partials = LayerNormParameterPartials {
        params: LayerNormParameterPartialsParams { rows, cols, rows_per_block, blocks },
        x: x.clone(),
        dy: y.clone(),
        statistics: statistics.clone(),
        weight_partials: bind(&weight_partials),
        bias_partials: bind(&bias_partials),
    };
    family.moves_its_buffers(shape, &partials);
    let params = ResidualLayerNormParams { rows, cols, eps: EPS };
    let fused = ResidualLayerNorm { params, x, residual, weight, bias, sum, y, statistics };
    family.moves_its_buffers(shape, &fused);
}

fn row_norms(family: &mut Family<'_>, shape: Shape) {
    let Shape { rows, cols } = shape;
    let [w, delta] = family.tensors(shape);
    let norms = family.vector(rows);
    let params =
        RowNormsParams { rows, cols, first: 0, w_rows: rows, w_first_row: 0, has_delta: 1 };
    let [w, delta, norms] = [&w, &delta, &norms].map(bind);
    family.moves_its_buffers(shape, &RowNorms { params, w, delta, norms });
}

fn rms_norm(family: &mut Family<'_>, shape: Shape) {
    let Shape { rows, cols } = shape;
    let [x, residual, sum, y, dx] = family.tensors(shape);
    let (weight, statistics) = (family.vector(cols), family.vector(2 * rows));
    let [x, residual, sum, y, dx, weight, statistics] =
        [&x, &residual, &sum, &y, &dx, &weight, &statistics].map(bind);
    let forward = RmsNorm {
        params: RmsNormParams { rows, cols, eps: EPS, weight_offset: 0.0 },
        x: x.clone(),
        weight: weight.clone(),
        y: y.clone(),
        statistics: statistics.clone(),
    };
    family.gpu.run(&forward);
    family.moves_its_buffers(shape, &forward);
    let backward = RmsNormBackward {
        params: RmsNormBackwardParams { rows, cols, add_residual: 1, weight_offset: 0.0 },
        x: x.clone(),
        weight: weight.clone(),
        dy: y.clone(),
        statistics: statistics.clone(),
        residual_gradient: residual.clone(),
        x_gradient: dx,
    };
    family.moves_its_buffers(shape, &backward);
    let (rows_per_block, blocks) = row_blocks(rows);
    let [weight_partials] = family.tensors(Shape { rows: blocks, cols });
    let partials = RmsNormParameterPartials {
        params: RmsNormParameterPartialsParams { rows, cols, rows_per_block, blocks },
        x: x.clone(),
        dy: y.clone(),
        statistics: statistics.clone(),
        weight_partials: bind(&weight_partials),
    };
    family.moves_its_buffers(shape, &partials);
    let params = ResidualRmsNormParams { rows, cols, eps: EPS, weight_offset: 0.0 };
    let fused = ResidualRmsNorm { params, x, residual, weight, sum, y, statistics };
    family.moves_its_buffers(shape, &fused);
}

fn batch_norm(family: &mut Family<'_>, shape: Shape) {
    let Shape { rows, cols: features } = shape;
    let [x, y, dx] = family.tensors(shape);
    let [weight, bias, dweight, dbias] = [(); 4].map(|()| family.vector(features));
    let [base, staged] = family.tensors(Shape { rows: 2, cols: features });
    let [statistics] = family.tensors(Shape { rows: 4, cols: features });
    let [x, y, dx, weight, bias, dweight, dbias, statistics, base, staged] =
        [&x, &y, &dx, &weight, &bias, &dweight, &dbias, &statistics, &base, &staged].map(bind);
    let measured = BatchNormStatistics {
        params: BatchNormStatisticsParams { rows, features },
        x: x.clone(),
        statistics: statistics.clone(),
    };
    family.gpu.run(&measured);
    family.moves_its_buffers(shape, &measured);
    let forward = BatchNorm {
        params: BatchNormParams { rows, features, eps: EPS, given: 0 },
        x: x.clone(),
        statistics: statistics.clone(),
        weight: weight.clone(),
        bias,
        y: y.clone(),
    };
    family.moves_its_buffers(shape, &forward);
    let backward = BatchNormBackward {
        params: BatchNormBackwardParams { rows, features, eps: EPS, accumulate: 0 },
        x,
        dy: y,
        statistics: statistics.clone(),
        weight,
        x_gradient: dx,
        dweight,
        dbias,
    };
    family.moves_its_buffers(shape, &backward);
    let params = BatchNormRunningParams { features, rows, momentum: 0.1, from_staged: 0 };
    family.moves_its_buffers(shape, &BatchNormRunning { params, batch: statistics, base, staged });
}
