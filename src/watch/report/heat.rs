//! One statistic of every tensor over the steps, as colours.

use std::collections::HashMap;

use super::chart::put;
use super::{Panel, escape};
use crate::watch::axis::{Axis, Spacing};
use crate::watch::number;
use crate::watch::series::Series;

const LEFT: f64 = 250.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 38.0;
const BOTTOM: f64 = 34.0;
/// Classes `c0` to `c11` of style.css.
const COLOURS: usize = 12;
/// Columns of the strip at most.
const COLUMNS: usize = 256;
/// Tensors that are shown at most: those with the largest values, if there are more.
const ROWS: usize = 200;

/// Values by tensor.
#[derive(Clone, Debug, Default)]
pub struct Heat {
    rows: Vec<(String, Series)>,
    index: HashMap<String, usize>,
}

impl Heat {
    pub fn push(&mut self, tensor: &str, step: u64, value: f64) {
        let row = match self.index.get(tensor) {
            Some(&row) => row,
            None => {
                self.index.insert(tensor.to_owned(), self.rows.len());
                self.rows.push((tensor.to_owned(), Series::new(COLUMNS)));
                self.rows.len() - 1
            }
        };
        self.rows[row].1.push(step, value);
    }

    /// `None` where there is nothing to show.
    pub fn panel(&self, title: &str, width: f64, steps: (f64, f64)) -> Option<Panel> {
        let rows = self.shown();
        // Colours go by the largest value in a bucket.
        let values = rows.iter().flat_map(|(_, series)| series.buckets());
        let positive = values.map(|(_, bucket)| bucket.max).filter(|&value| value > 0.0);
        let (low, high) =
            positive.fold((f64::MAX, 0.0), |(l, h): (f64, f64), v| (l.min(v), h.max(v)));
        if rows.is_empty() || high == 0.0 {
            return None;
        }
        // Values far below the largest share the first colour.
        let low = low.max(high * 1e-8).min(high / 1.5);
        let row_height = (900.0 / rows.len() as f64).floor().clamp(4.0, 15.0);
        let bottom = TOP + row_height * rows.len() as f64;
        let (start, end) = (LEFT, width - RIGHT);
        let last = steps.1.max(steps.0 + 1.0);
        let x = Axis { spacing: Spacing::Linear, low: steps.0, high: last, start, end };
        let colours = COLOURS as f64;
        let colour = Axis { spacing: Spacing::Decimal, low, high, start: 0.0, end: colours };

        let mut body = String::new();
        let left_out = self.rows.len() - rows.len();
        let more =
            if left_out > 0 { format!(" (without {left_out} smaller ones)") } else { "".into() };
        put(&mut body, format_args!("<text class='title' x='12' y='22'>{title}{more}</text>"));
        legend(&mut body, width, &colour);
        // One path for each colour, and one for what is not finite.
        let mut paths = vec![String::new(); COLOURS + 1];
        let every = (10.0 / row_height).ceil() as usize;
        for (row, (name, series)) in rows.iter().enumerate() {
            let top = TOP + row_height * row as f64;
            draw(&mut paths, series, &x, &colour, (top, row_height));
            if row % every == 0 {
                let (at, middle) = (LEFT - 8.0, top + row_height / 2.0 + 3.5);
                let name = escape(&shorten(name));
                put(
                    &mut body,
                    format_args!("<text class='end small' x='{at}' y='{middle:.1}'>{name}</text>"),
                );
            }
        }
        for (index, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let class = if index < COLOURS { format!("c{index}") } else { "nonfinite".into() };
            put(&mut body, format_args!("<path class='{class}' d='{path}'/>"));
        }
        for (row, (name, series)) in rows.iter().enumerate() {
            tooltip(&mut body, name, series, (TOP + row_height * row as f64, row_height, end));
        }
        for (step, _) in x.ticks(6).into_iter().filter(|(step, _)| step.fract() == 0.0) {
            let Some(at) = x.at(step) else { continue };
            let (y, label) = (bottom + 20.0, number::grouped(step));
            put(
                &mut body,
                format_args!("<text class='middle' x='{at:.1}' y='{y:.1}'>{label}</text>"),
            );
        }
        put(
            &mut body,
            format_args!("<text class='end' x='{}' y='{}'>step</text>", LEFT - 8.0, bottom + 20.0),
        );
        Some(Panel { title: title.into(), width, height: bottom + BOTTOM, body })
    }

    /// The rows to show, in the order in which they came.
    fn shown(&self) -> Vec<&(String, Series)> {
        let largest = |row: &(String, Series)| row.1.range().map_or(0.0, |(_, max)| max);
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if order.len() > ROWS {
            order.sort_by(|&a, &b| largest(&self.rows[b]).total_cmp(&largest(&self.rows[a])));
            order.truncate(ROWS);
            order.sort_unstable();
        }
        order.into_iter().map(|row| &self.rows[row]).collect()
    }
}

/// Neighbours of one colour become one rectangle.
fn draw(paths: &mut [String], series: &Series, x: &Axis, colour: &Axis, rows: (f64, f64)) {
    let half = series.width() as f64 / 2.0;
    let mut runs: Vec<(f64, f64, usize)> = Vec::new();
    for (step, bucket) in series.buckets() {
        let index = if bucket.nonfinite > 0 {
            COLOURS
        } else {
            let at = colour.at(bucket.max).unwrap_or(0.0).clamp(0.0, COLOURS as f64 - 1.0);
            at as usize
        };
        // The middle of a bucket of one step is that step, which owns half a step to each side.
        let edge = |step: f64| x.at(step.clamp(x.low, x.high)).expect("a finite step");
        let (from, to) = (edge(step - half), edge(step + half));
        match runs.last_mut() {
            Some((_, end, same)) if *same == index && from - *end < 0.2 => *end = to,
            _ => runs.push((from, to, index)),
        }
    }
    let (top, height) = rows;
    // A hair between rows.
    let height = height - if height > 6.0 { 1.0 } else { 0.0 };
    for (from, to, index) in runs {
        let width = (to - from).max(0.8);
        put(
            &mut paths[index],
            format_args!("M{from:.1} {top:.1}h{width:.1}v{height:.1}h-{width:.1}z"),
        );
    }
}

fn tooltip(body: &mut String, name: &str, series: &Series, (top, height, end): (f64, f64, f64)) {
    let Some((min, max)) = series.range() else { return };
    let (name, min, max) = (escape(name), number::brief(min), number::brief(max));
    let width = end - LEFT;
    put(
        body,
        format_args!(
            "<rect class='clear' x='{LEFT}' y='{top:.1}' width='{width:.1}' height='{height:.1}'>\
         <title>{name}: {min} to {max}</title></rect>"
        ),
    );
}

/// The colours from the smallest to the largest value.
fn legend(body: &mut String, width: f64, colour: &Axis) {
    let (high, low) = (number::brief(colour.high), number::brief(colour.low));
    let right = width - RIGHT - 6.3 * high.len() as f64;
    put(body, format_args!("<text x='{right:.1}' y='22'>{high}</text>"));
    let left = right - 8.0 - 10.0 * COLOURS as f64;
    for index in 0..COLOURS {
        let x = left + 10.0 * index as f64;
        put(
            body,
            format_args!("<rect class='c{index}' x='{x:.1}' y='12' width='10' height='12'/>"),
        );
    }
    put(body, format_args!("<text class='end' x='{:.1}' y='22'>{low}</text>", left - 8.0));
}

/// The end of a long name says more than its beginning.
fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= 38 {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(length - 37).collect();
    format!("…{tail}")
}
