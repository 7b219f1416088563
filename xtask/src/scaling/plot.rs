//! Plots of docs/scaling.md.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 380);
const COLORS: [RGBColor; 3] =
    [RGBColor(0x4b, 0x8b, 0xbe), RGBColor(0x3c, 0x9d, 0x4e), RGBColor(0xd1, 0x49, 0x5b)];

/// A line of a plot: its name, its color of [`COLORS`], how it is dashed, its points.
pub struct Line {
    pub name: String,
    pub color: usize,
    pub dash: Dash,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dash {
    Solid,
    Long,
    Short,
}

/// Efficiency over ranks, in a logarithmic scale. Names stand where the lines are not: above them where
/// efficiency falls at once, else below.
pub fn efficiency(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let at_two = lines.iter().filter_map(|line| line.points.get(1)).map(|point| point.1);
    let falls = at_two.fold(0.0, f64::max) < 0.5;
    let names =
        if falls { SeriesLabelPosition::UpperRight } else { SeriesLabelPosition::LowerLeft };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .right_y_label_area_size(0)
            .build_cartesian_2d((1f64..1024.0).log_scale().base(2.0), 0f64..1.0)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_labels(11)
            .x_label_formatter(&|ranks| format!("{ranks:.0}"))
            .y_labels(6)
            .x_desc("ranks")
            .y_desc("efficiency")
            .label_style(("sans-serif", 13))
            .draw()?;
        for line in lines {
            let style = COLORS[line.color].stroke_width(2);
            let points = line.points.iter().copied();
            let drawn = match line.dash {
                Dash::Solid => chart.draw_series(LineSeries::new(points, style))?,
                Dash::Long => chart.draw_series(DashedLineSeries::new(points, 16, 8, style))?,
                Dash::Short => chart.draw_series(DashedLineSeries::new(points, 3, 9, style))?,
            };
            let dash = line.dash;
            drawn.label(&line.name).legend(move |(x, y)| {
                let gaps = match dash {
                    Dash::Solid => 1,
                    Dash::Long => 2,
                    Dash::Short => 5,
                };
                let end = if dash == Dash::Solid { x + 18 } else { x + 18 / gaps };
                PathElement::new(vec![(x, y), (end, y)], style)
            });
        }
        chart
            .configure_series_labels()
            .position(names)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 12))
            .draw()?;
        root.present()
    };
    drawn().map_err(|error| anyhow!("{} cannot be drawn: {error}", path.display()))
}
