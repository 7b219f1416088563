//! The losses of all runs in one plot.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use evenkeel::train::Telemetry;
use evenkeel::{Error, Result};

use crate::Fault;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 48.0;
/// Of the clean run, the one without policies, the one with.
const COLORS: [&str; 3] = ["#4b8bbe", "#d1495b", "#3c9d4e"];

/// Draws loss over steps, one line per run, and a mark at each fault.
pub fn draw(
    path: &Path,
    runs: &[(&str, &[Telemetry])],
    faults: &BTreeMap<u64, Fault>,
) -> Result<()> {
    let all = || runs.iter().flat_map(|(_, records)| records.iter());
    let finite = || all().map(|record| f64::from(record.loss)).filter(|loss| loss.is_finite());
    let steps = all().map(|record| record.step).max().unwrap_or(1).max(1) as f64;
    let low = finite().fold(f64::MAX, f64::min);
    let first = runs[0].1.first().map_or(1.0, |record| f64::from(record.loss));
    // What lies above twice the first loss is cut off.
    let high = finite().fold(low, f64::max).min(2.0 * first);
    let x = |step: u64| MARGIN + (WIDTH - 2.0 * MARGIN) * step as f64 / steps;
    let y = |loss: f64| {
        let share = (loss.clamp(low, high) - low) / (high - low).max(1e-9);
        HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * share
    };

    let mut svg = String::new();
    let mut put = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("a string grows");
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    ));
    for tick in 0..=4 {
        let loss = low + (high - low) * f64::from(tick) / 4.0;
        let (left, right, at) = (MARGIN, WIDTH - MARGIN, y(loss));
        put(format_args!(
            "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.1}</text>\n",
            left - 6.0,
            at + 4.0
        ));
    }
    for (&step, fault) in faults {
        let (at, bottom) = (x(step), HEIGHT - MARGIN);
        // Two rows, so that neighbours do not overlap.
        let (name, below) = match fault {
            Fault::RandomBatch => ("random batch", 18.0),
            Fault::LearningRate => ("1,000 x rate", 34.0),
        };
        put(format_args!(
            "<path d=\"M{at:.1} {MARGIN}V{bottom}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{name}</text>\n",
            bottom + below
        ));
    }
    // The one without policies first, so that the others stay visible.
    for index in [1, 0, 2] {
        let (name, records) = runs[index];
        let points = records.iter().filter(|record| record.loss.is_finite());
        let points = points.map(|r| format!("{:.1},{:.1}", x(r.step), y(r.loss.into())));
        let (points, color) = (points.collect::<Vec<_>>().join(" "), COLORS[index]);
        put(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" \
             stroke-width=\"1.4\"/>\n\
             <text x=\"{:.1}\" y=\"30\" fill=\"{color}\">{name}</text>\n",
            MARGIN + 110.0 * index as f64
        ));
    }
    put(format_args!(
        "<text x=\"{:.1}\" y=\"30\" text-anchor=\"end\">loss over steps</text>\n</svg>\n",
        WIDTH - MARGIN
    ));
    evenkeel::file::replace(path, svg.as_bytes())
}

/// Makes the folder of the plot, and makes sure that the plot can be written.
pub fn prepare(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).map_err(|error| Error::File {
            path: folder.into(),
            reason: format!("this folder cannot be made: {error}"),
        })?;
    }
    evenkeel::file::check_writable(path)
}
