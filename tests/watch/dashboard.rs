//! What the dashboard draws, cell by cell.

use std::ops::ControlFlow;

use evenkeel::watch::{Dashboard, Record, Sink};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::noise;

fn dashboard(width: u16, height: u16) -> Dashboard<TestBackend> {
    let terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    Dashboard::with_backend(terminal).title("tiny GPT on llvmpipe")
}

fn rows(dashboard: &Dashboard<TestBackend>) -> Vec<String> {
    let buffer = dashboard.terminal().backend().buffer();
    let width = usize::from(buffer.area.width);
    let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect();
    buffer.content().chunks(width).map(row).collect()
}

/// Cells with braille dots of this colour, as (column, row).
fn dots(dashboard: &Dashboard<TestBackend>, colour: Color) -> Vec<(u16, u16)> {
    let buffer = dashboard.terminal().backend().buffer();
    let area = buffer.area;
    let cells = (0..area.height).flat_map(|y| (0..area.width).map(move |x| (x, y)));
    let is_dot = |symbol: &str| symbol.chars().all(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
    cells.filter(|&at| buffer[at].fg == colour && is_dot(buffer[at].symbol())).collect()
}

fn record(step: u64) -> Record {
    let norm = if step == 250 { 40.0 } else { 0.5 + noise(step) };
    let skipped = step == 123;
    let mut record = Record::new(step)
        .with("loss", 4.0 - step as f64 / 100.0)
        .with("gradient_norm", if skipped { f64::NAN } else { norm })
        .with("clip_coefficient", (1.0 / norm).min(1.0))
        .with("loss_scale", if step < 123 { 65536.0 } else { 32768.0 })
        .with("learning_rate", 1e-3 * step as f64 / 300.0)
        .with("tokens_per_second", 61_234.0)
        .with("applied", if skipped { 0.0 } else { 1.0 });
    if skipped {
        record.events.push("skipped: 3 gradient elements are NaN or Inf".into());
    }
    if step % 50 == 49 {
        record.set("validation_loss", 4.2 - step as f64 / 100.0);
    }
    record
}

#[test]
fn charts_counters_and_events_are_drawn() {
    let mut dashboard = dashboard(120, 40);
    for step in 0..300 {
        let flow = dashboard.update(&record(step)).expect("drawn");
        assert_eq!(flow, ControlFlow::Continue(()));
    }
    assert!(!dashboard.should_quit());
    let rows = rows(&dashboard);
    let screen = rows.join("\n");
    for text in [
        "tiny GPT on llvmpipe",
        "q or Ctrl-C stops",
        "step 299",
        "skipped 1",
        "validation 1.21",
        " loss 1.01 ",
        " gradient norm ",
        " loss scale 32,768 ",
        " learning rate 9.967e-4 ",
        " tokens/s 61,234 ",
        " validation ",
        " clipped to ",
        "      123  skipped: 3 gradient elements are NaN or Inf",
    ] {
        assert!(screen.contains(text), "{text:?} is missing in\n{screen}");
    }
    let clipped = (0..300).filter(|&step| record(step).clipped()).count();
    assert!(screen.contains(&format!("clipped {clipped} (")), "{clipped} in\n{screen}");

    // The loss falls from the upper left to the lower right of its chart.
    let loss = dots(&dashboard, Color::Blue);
    let first = loss.iter().min().expect("dots");
    let last = loss.iter().max().expect("dots");
    assert!(first.0 < 15 && last.0 > 50 && first.1 < 6 && last.1 > 14, "{first:?} {last:?}");
    // The spike of the norm rises above all other norms, at five sixths of the width.
    let norm = dots(&dashboard, Color::Green);
    let top = norm.iter().map(|&(_, row)| row).min().expect("dots");
    let spike: Vec<_> = norm.iter().filter(|&&(_, row)| row < top + 4).collect();
    assert!(!spike.is_empty() && spike.iter().all(|(x, _)| (105..113).contains(x)), "{spike:?}");
    // The scale steps down in the middle.
    let scale = dots(&dashboard, Color::Magenta);
    let row_at = |range: std::ops::Range<u16>| {
        let rows = scale.iter().filter(|(x, _)| range.contains(x)).map(|&(_, y)| y);
        rows.collect::<std::collections::BTreeSet<_>>()
    };
    let (before, after) = (row_at(10..18), row_at(28..38));
    assert!(before.len() == 1 && after.len() == 1 && before.first() < after.first(), "{scale:?}");
    assert!(!dots(&dashboard, Color::Yellow).is_empty(), "validation and clipped norms");
}

#[test]
fn any_size_and_any_values_can_be_drawn() {
    for (width, height) in [(1, 1), (20, 5), (40, 12), (300, 90)] {
        let mut dashboard = dashboard(width, height);
        dashboard.draw().expect("drawn empty");
        for value in [f64::NAN, f64::INFINITY, 0.0, -1.0, 1e300, f64::MIN_POSITIVE] {
            let names = ["loss", "gradient_norm", "loss_scale", "learning_rate", "validation_loss"];
            let record =
                names.iter().fold(Record::new(3), |record, name| record.with(*name, value));
            dashboard.record(&record).expect("drawn");
        }
        dashboard.finish().expect("drawn");
    }
}

#[test]
fn a_dashboard_needs_a_terminal() {
    use std::io::IsTerminal;
    // Test programs mostly write to a pipe or a file; a real terminal is not to be taken here.
    if std::io::stdout().is_terminal() {
        return;
    }
    let error = Dashboard::new().unwrap_err().to_string();
    assert!(error.contains("no terminal"), "{error}");
}
