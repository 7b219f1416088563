//! How time and memory of a training step grow with what is trained.
//!
//! `cargo bench --bench scaling`, or `-- SERIES..` for some of them; `--full` has the sizes for
//! GPUs on a software driver, too. In each series one size grows and all others stay. Printed are
//! medians, and for each column by which power of the size it grows: fitted by least squares to the
//! logarithms of all points, and between the last two alone, where fixed costs count least.
//!
//! Update is scan, norm, verdict and optimizer; host is the time in which `Trainer::step` returns
//! while the device is idle; bytes are those of `Trainer::report`.

mod fit;
mod measure;
mod series;

use clap::Parser;
use evenkeel::Gpu;
use measure::{COLUMNS, measure};
use pollster::block_on;
use series::{SERIES, Series};

#[derive(Parser)]
struct Options {
    /// Series to run; all, if none is named
    #[arg(value_parser = SERIES.map(|series| series.name))]
    series: Vec<String>,
    /// All sizes, whatever the adapter
    #[arg(long)]
    full: bool,
    /// Seconds for each of the times of a point, of which each takes three runs at least
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let gpu = block_on(Gpu::new()).expect("an adapter");
    let kind = if gpu.is_software() { "software" } else { "hardware" };
    println!("adapter: {} ({kind}), {}", gpu.info.name, gpu.info.driver_info);
    for series in SERIES {
        if options.series.is_empty() || options.series.iter().any(|name| name == series.name) {
            run(&gpu, &series, &options);
        }
    }
}

fn run(gpu: &Gpu, series: &Series, options: &Options) {
    println!("\n{}: {}", series.name, series.about);
    let titles: Vec<_> = COLUMNS.iter().map(|column| format!("{:>13}", column.title)).collect();
    println!("{:>13}{}", series.name, titles.concat());
    let largest = if gpu.is_software() && !options.full { series.software } else { usize::MAX };
    let mut points = Vec::new();
    for &size in series.sizes.iter().filter(|&&size| size <= largest) {
        match measure(gpu, (series.subject)(size), options.seconds) {
            Ok(point) => {
                let cells = COLUMNS.iter().map(|column| format!("{:>13}", column.cell(&point)));
                println!("{size:>13}{}", cells.collect::<String>());
                points.push((size as f64, point));
            }
            // A larger one would not fit either.
            Err(error) => {
                println!("{size:>13} {error}");
                break;
            }
        }
    }
    for (name, from) in [("power", 0), ("last two", points.len().saturating_sub(2))] {
        let powers = COLUMNS.iter().map(|column| {
            let values = points[from..].iter().map(|(size, point)| (*size, (column.value)(point)));
            format!("{:>13}", fit::power(values).map_or("".into(), |power| format!("{power:.2}")))
        });
        println!("{name:>13}{}", powers.collect::<String>());
    }
}
