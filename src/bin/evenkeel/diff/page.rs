//! A comparison as one page, which needs nothing else.

use std::fmt::Write;

use evenkeel::watch::scalar;

use super::{Compared, in_words};

/// Size of the chart, and of the room for its axes.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 48.0;
const BOTTOM: f64 = 24.0;
/// Points of the line, at most: of steps that share one the farthest is drawn.
const POINTS: u64 = 800;
/// Steps in the table, at most.
const ROWS: usize = 100;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
                     padding:0 1rem;color:#1f2328;background:#fff}\
                     table{border-collapse:collapse}\
                     td,th{text-align:left;padding:.2rem .8rem .2rem 0;\
                     vertical-align:top;border-bottom:1px solid #d0d7de}\
                     svg{width:100%;height:auto}svg text{font-size:12px;fill:currentColor}\
                     polyline{fill:none;stroke:#0969da;stroke-width:1.5}line{stroke:#d0d7de}\
                     @media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}\
                     td,th{border-color:#30363d}line{stroke:#30363d}polyline{stroke:#58a6ff}}";

/// The page.
pub fn of(compared: &Compared) -> String {
    let Compared { names, settings, parted, .. } = compared;
    let mut facts =
        vec![("first", names[0].clone()), ("second", names[1].clone()), ("steps", parted.extent())];
    facts.extend(settings.iter().map(|changed| ("setting", changed.to_string())));
    facts.push(match parted.first() {
        None => ("bits", "the same in all steps".to_owned()),
        Some(step) => {
            let (differ, common) = (parted.steps.len(), parted.common);
            let first = in_words(&step.differences[0]);
            let text = format!("part in step {}: {first}; in {differ} of {common}", step.step);
            ("bits", text)
        }
    });
    facts.extend(compared.operation().map(|words| ("first operation", words)));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Where two runs part</title><style>{STYLE}</style>\
         </head><body>\n<h1>Where two runs part</h1>\n<table>"
    );
    for (name, value) in facts {
        put(&mut page, format_args!("<tr><th>{name}</th><td>{}</td></tr>\n", escaped(&value)));
    }
    page.push_str("</table>\n");
    if !parted.steps.is_empty() {
        page.push_str("<h2>Distance of the losses</h2>\n");
        page.push_str(&chart(compared));
        page.push_str(&table(compared));
    }
    page.push_str("</body></html>\n");
    page
}

/// Units in the last place between the losses of each step, on a logarithmic axis. Steps with the
/// same loss lie at 0.
fn chart(compared: &Compared) -> String {
    let steps = &compared.parted.steps;
    let last = steps.last().map_or(1, |step| step.step).max(1);
    let width = last / POINTS + 1;
    let mut points = vec![0_u64; (last / width + 1) as usize];
    for step in steps {
        let loss = step.differences.iter().find(|difference| difference.field == scalar::LOSS);
        let ulps = loss.and_then(|loss| loss.ulps).unwrap_or(0);
        let point = &mut points[(step.step / width) as usize];
        *point = (*point).max(ulps);
    }
    let height = |ulps: u64| ((ulps + 1) as f64).log2();
    let highest = points.iter().map(|&ulps| height(ulps)).fold(1.0, f64::max).ceil();
    let x = |index: usize| LEFT + (WIDTH - LEFT) * index as f64 / (points.len() - 1).max(1) as f64;
    let y = |value: f64| (HEIGHT - BOTTOM) * (1.0 - value / highest) + 8.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", HEIGHT + 16.0);
    let ticks = (0..=highest as u32).step_by((highest as usize / 6).max(1));
    for tick in ticks {
        let (y, ulps) = (y(f64::from(tick)), (1_u64 << tick) - 1);
        put(
            &mut svg,
            format_args!(
                "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"0\" \
                 y=\"{:.1}\">{ulps}</text>",
                y + 4.0
            ),
        );
    }
    let line: Vec<_> = points
        .iter()
        .enumerate()
        .map(|(index, &ulps)| format!("{:.1},{:.1}", x(index), y(height(ulps))))
        .collect();
    put(
        &mut svg,
        format_args!(
            "<polyline points=\"{}\"/><text x=\"{LEFT}\" y=\"{bottom}\">0</text><text \
             x=\"{WIDTH}\" y=\"{bottom}\" text-anchor=\"end\">step {last}</text></svg>\n",
            line.join(" "),
            bottom = HEIGHT + 8.0
        ),
    );
    svg + "<p>Units in the last place of f32; of several steps in a point the farthest.</p>\n"
}

fn table(compared: &Compared) -> String {
    let steps = &compared.parted.steps;
    let mut text = "<h2>Steps that part</h2>\n<table><tr><th>step</th><th>first number</th>\
                    <th>and others</th></tr>\n"
        .to_owned();
    for step in steps.iter().take(ROWS) {
        let others: Vec<_> =
            step.differences.iter().skip(1).map(|difference| difference.field.as_str()).collect();
        put(
            &mut text,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                step.step,
                escaped(&in_words(&step.differences[0])),
                escaped(&others.join(", "))
            ),
        );
    }
    text.push_str("</table>\n");
    if steps.len() > ROWS {
        put(&mut text, format_args!("<p>and {} more</p>\n", steps.len() - ROWS));
    }
    text
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes everything");
}

fn escaped(text: &str) -> String {
    let replaced = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    replaced.replace('"', "&quot;")
}
