//! Loss above, gradient norm below, over the steps.

use std::error::Error as StdError;
use std::fs;
use std::path::Path;

use evenkeel::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::metrics::{Record, write_failed};
use crate::options::Settings;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn StdError>>;

const SIZE: (u32, u32) = (960, 720);
const TRAINING: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(214, 96, 20);
const NORM: RGBColor = RGBColor(44, 140, 80);
const SKIPPED: RGBColor = RGBColor(200, 30, 40);
const GREY: RGBColor = RGBColor(110, 110, 110);

/// Writes the plot as SVG.
pub fn draw(path: &Path, title: &str, settings: &Settings, history: &[Record]) -> Result<()> {
    let mut svg = String::new();
    render(&mut svg, title, settings, history).map_err(|error| evenkeel::Error::File {
        path: path.to_owned(),
        reason: format!("the plot cannot be drawn: {error}"),
    })?;
    fs::write(path, svg).map_err(|error| write_failed(path, &error))
}

fn render(svg: &mut String, title: &str, settings: &Settings, history: &[Record]) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(SIZE.1 * 11 / 20);
    loss(&upper, title, settings, history)?;
    norm(&lower, settings, history)?;
    root.present()?;
    Ok(())
}

fn loss(area: &Area<'_>, title: &str, settings: &Settings, history: &[Record]) -> Drawn {
    let at = |record: &Record| (record.step + 1) as f64;
    let training: Vec<_> = finite(history.iter().map(|r| (at(r), r.loss)));
    let validation: Vec<_> =
        finite(history.iter().filter_map(|r| Some((at(r), r.validation_loss?))));
    let uniform = (settings.gpt.config().vocabulary as f64).ln();
    let all = training.iter().chain(&validation).map(|&(_, y)| y).chain([uniform]);
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(l, h), y| (l.min(y), h.max(y)));
    let margin = 0.05 * (high - low).max(0.1);

    let steps = settings.steps as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .margin_right(28)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..steps, (low - margin)..(high + margin))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc("step")
        .y_desc("loss (nats per token)")
        .y_label_formatter(&|y| number(*y))
        .draw()?;
    let dashed = [(0.0, uniform), (steps, uniform)];
    chart
        .draw_series(DashedLineSeries::new(dashed, 6, 4, GREY.into()))?
        .label("guessing at random")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], GREY));
    chart
        .draw_series(LineSeries::new(training.iter().copied(), TRAINING.mix(0.3)))?
        .label("training, each step")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], TRAINING.mix(0.3)));
    let width = (settings.steps / 50).max(1);
    chart
        .draw_series(LineSeries::new(moving_mean(&training, width), TRAINING.stroke_width(2)))?
        .label(format!("training, mean over {width} steps"))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], TRAINING.stroke_width(2)));
    chart
        .draw_series(LineSeries::new(validation, VALIDATION.stroke_width(2)).point_size(3))?
        .label("validation")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], VALIDATION.stroke_width(2)));
    legend(&mut chart)
}

fn norm(area: &Area<'_>, settings: &Settings, history: &[Record]) -> Drawn {
    let at = |record: &Record| (record.step + 1) as f64;
    let mut norms: Vec<_> = finite(history.iter().map(|r| (at(r), r.grad_norm)));
    norms.retain(|&(_, norm)| norm > 0.0);
    let clip = f64::from(settings.clip);
    let all = norms.iter().map(|&(_, y)| y).chain((clip > 0.0).then_some(clip));
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(l, h), y| (l.min(y), h.max(y)));
    // Nothing to show gives a decade around 1.
    let (low, high) = if low > high { (0.3, 3.0) } else { (low / 1.3, high * 1.3) };

    let steps = settings.steps as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(28)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..steps, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc("step")
        .y_desc("gradient norm (L2)")
        .y_label_formatter(&|y| number(*y))
        .draw()?;
    chart
        .draw_series(LineSeries::new(norms, NORM))?
        .label("before clipping")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], NORM));
    if clip > 0.0 {
        let dashed = [(0.0, clip), (steps, clip)];
        chart
            .draw_series(DashedLineSeries::new(dashed, 6, 4, GREY.into()))?
            .label(format!("clipped above {clip}"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], GREY));
    }
    let skipped: Vec<_> = history.iter().filter(|r| !r.applied).map(at).collect();
    if !skipped.is_empty() {
        let count = skipped.len();
        let mark = |x| PathElement::new([(x, low), (x, high)], SKIPPED.mix(0.6));
        chart
            .draw_series(skipped.into_iter().map(mark))?
            .label(format!("{count} steps skipped"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], SKIPPED));
    }
    legend(&mut chart)
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Drawn
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(GREY.mix(0.5))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(())
}

/// Few digits, whatever the size.
fn number(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e5).contains(&value.abs()) {
        return format!("{value:.1e}");
    }
    let digits = format!("{value:.3}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Points without NaN and Inf, as f64.
fn finite(points: impl Iterator<Item = (f64, f32)>) -> Vec<(f64, f64)> {
    points.filter(|(_, y)| y.is_finite()).map(|(x, y)| (x, f64::from(y))).collect()
}

/// The mean of the `width` points around each point.
fn moving_mean(points: &[(f64, f64)], width: usize) -> Vec<(f64, f64)> {
    let mean = |at: usize| {
        let end = (at + width.div_ceil(2)).min(points.len());
        let window = &points[at.saturating_sub(width / 2)..end];
        let sum: f64 = window.iter().map(|&(_, y)| y).sum();
        (points[at].0, sum / window.len() as f64)
    };
    (0..points.len()).map(mean).collect()
}
