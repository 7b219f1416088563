//! Powers in measured data.

/// p of y = c xᵖ, by least squares of the logarithms; `None` where the points do not say.
pub fn power(points: impl IntoIterator<Item = (f64, f64)>) -> Option<f64> {
    let is_positive = |&(x, y): &(f64, f64)| x > 0.0 && y > 0.0;
    let logs: Vec<_> =
        points.into_iter().filter(is_positive).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean_x = logs.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = logs.iter().map(|(_, y)| y).sum::<f64>() / count;
    let variance: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let covariance: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (logs.len() > 1 && variance > 0.0).then_some(covariance / variance)
}
