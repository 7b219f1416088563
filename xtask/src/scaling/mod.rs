//! How long steps of many ranks take: [`model`] computes it of what [`measured`] has, for the [`cases`]
//! of docs/scaling.md, whose tables and plots this writes.
//!
//! ```text
//! cargo xtask scaling --measure   # minutes, as root, on a machine that does nothing else
//! cargo xtask scaling
//! ```

mod cases;
mod measured;
#[cfg(target_os = "linux")]
mod measuring;
mod model;
mod plot;
mod tables;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use crate::steps;
use cases::{DELAYS, Kind, RATES};
use measured::{Link, Measured};
use model::Host;
use plot::{Dash, Line};

#[derive(Args)]
pub struct Options {
    /// Measure anew, on hosts that are network namespaces of this one; takes root
    #[cfg(target_os = "linux")]
    #[arg(long)]
    measure: bool,
    /// Networks to measure on whose names contain this, such as "5 ms"; all, where there is none
    #[cfg(target_os = "linux")]
    #[arg(long, requires = "measure")]
    only: Option<String>,
    /// What the bench is built with
    #[cfg(target_os = "linux")]
    #[arg(long, requires = "measure", default_value = "bench")]
    profile: String,
    /// What is to be said of the figures: the machine, and what else it did
    #[cfg(target_os = "linux")]
    #[arg(long, requires = "measure", default_value = "")]
    note: String,
}

/// The page that the tables are in.
const PAGE: &str = "docs/scaling.md";

/// What a host is taken to do where a rank has one to itself, and what messages take: as measured
/// with one rank, and with two without delay.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    pub host: Host,
    pub overhead: f64,
}

pub fn run(options: &Options) -> Result<()> {
    #[cfg(target_os = "linux")]
    if options.measure {
        measuring::run(options)?;
    }
    #[cfg(not(target_os = "linux"))]
    let Options {} = options;
    let measured = Measured::load()?;
    let constants = constants(&measured)?;
    let root = steps::root();
    let page = root.join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("no {}", page.display()))?;
    fs::write(&page, with_tables(&text, &measured)?)?;
    let images = root.join("docs/book/src/images");
    draw(&images, &constants)
}

/// The page with its tables as they are computed now.
fn with_tables(text: &str, measured: &Measured) -> Result<String> {
    let constants = constants(measured)?;
    let tables = [
        ("constants", tables::constants(&constants)),
        ("compared", tables::compared(measured)?),
        ("shared cores", tables::shared_cores(measured)?),
        ("bytes", tables::bytes()),
        ("networks", tables::networks(&constants)),
        ("models", tables::models(&constants)),
    ];
    let mut text = text.to_owned();
    for (name, table) in tables {
        text = replaced(&text, name, &table)?;
    }
    Ok(text)
}

/// A text with another table between the marks of this name.
fn replaced(text: &str, name: &str, table: &str) -> Result<String> {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let split = || {
        let (before, rest) = text.split_once(&start)?;
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    };
    let (before, after) = split().with_context(|| format!("{PAGE} has no place for {name}"))?;
    Ok(format!("{before}{start}\n{table}\n\n{end}{after}"))
}

fn constants(measured: &Measured) -> Result<Constants> {
    let free = Link { delay_us: 0, rate_mbit: None };
    let host = measured.host(free, 1)?;
    // The sum over two ranks: one rank adds nothing.
    let host = Host { fold: measured.host(free, 2)?.fold, ..host };
    Ok(Constants { host, overhead: measured.network(free, 2)?.overhead })
}

fn draw(folder: &Path, constants: &Constants) -> Result<()> {
    let kinds = [
        ("synchronous", "Synchronous, 124 M parameters", Kind::Synchronous),
        (
            "in-turn",
            "Synchronous, 124 M parameters, pieces in turn behind the backward pass",
            Kind::InTurn,
        ),
        (
            "diloco",
            "DiLoCo, 124 M parameters, a round every 500 steps, 8 bit",
            Kind::DiLoCo(1.0 + 4.0 / 256.0),
        ),
    ];
    for (name, title, kind) in kinds {
        let path = folder.join(format!("scaling-{name}.svg"));
        plot::efficiency(&path, title, &lines(kind, constants))?;
    }
    Ok(())
}

/// A line for each network, of 124 M parameters.
fn lines(kind: Kind, constants: &Constants) -> Vec<Line> {
    let dashes = [Dash::Solid, Dash::Long, Dash::Short];
    let job = cases::job(cases::MODELS[1].1);
    let mut lines = Vec::new();
    for ((place, delay), dash) in DELAYS.into_iter().zip(dashes) {
        for (color, (rate, bits)) in RATES.into_iter().enumerate() {
            let network = cases::network(delay, bits, constants.overhead);
            let at = |doublings: u32| {
                let ranks = f64::from(1u32 << doublings);
                (ranks, kind.step(&job, &network, &constants.host, ranks).efficiency())
            };
            let name = format!("{rate} Gbit/s, {place}");
            lines.push(Line { name, color, dash, points: (0..=10).map(at).collect() });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_tables_of_the_model() {
        let text = fs::read_to_string(steps::root().join(PAGE)).unwrap();
        let computed = with_tables(&text, &Measured::load().unwrap()).unwrap();
        assert_eq!(text, computed, "`cargo xtask scaling` writes them anew");
    }

    #[test]
    fn the_plots_are_those_of_the_model() {
        let folder = tempfile::tempdir().unwrap();
        draw(folder.path(), &constants(&Measured::load().unwrap()).unwrap()).unwrap();
        let mut plots = 0;
        for entry in fs::read_dir(folder.path()).unwrap() {
            let drawn = entry.unwrap();
            let kept = steps::root().join("docs/book/src/images").join(drawn.file_name());
            let (drawn, kept) = (fs::read(drawn.path()).unwrap(), fs::read(&kept).unwrap());
            assert!(drawn == kept, "`cargo xtask scaling` draws them anew");
            plots += 1;
        }
        assert_eq!(plots, 3);
    }

    #[test]
    fn tables_go_between_their_marks() {
        let text = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n";
        let new = replaced(text, "x", "| t |").unwrap();
        assert_eq!(new, "a\n<!-- x -->\n\n| t |\n\n<!-- end of x -->\nb\n");
        assert_eq!(replaced(&new, "x", "| t |").unwrap(), new);
        assert!(replaced(text, "y", "").is_err());
    }
}
