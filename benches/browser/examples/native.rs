//! The same run natively: prints as JSON what a page reports.

use std::process::ExitCode;
use std::time::Instant;

use evenkeel_browser_bench::Run;

const USAGE: &str = "usage: native (mlp|gpt|gpt-0.8m) (plain|clip) WARMUP LEAST MILLISECONDS";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let Some(measurement) = Measurement::parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    match evenkeel::block_on(measurement.run()) {
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What `measure` of `page.js` takes.
struct Measurement {
    model: String,
    clip: bool,
    warmup: u32,
    least: u32,
    milliseconds: f64,
}

impl Measurement {
    fn parse(arguments: &[String]) -> Option<Self> {
        let [model, clip, warmup, least, milliseconds] = arguments else { return None };
        Some(Self {
            model: Some(model)
                .filter(|model| ["mlp", "gpt", "gpt-0.8m"].contains(&model.as_str()))?
                .clone(),
            clip: match clip.as_str() {
                "plain" => false,
                "clip" => true,
                _ => return None,
            },
            warmup: warmup.parse().ok().filter(|&steps| steps > 0)?,
            least: least.parse().ok().filter(|&steps| steps > 0)?,
            milliseconds: milliseconds.parse().ok()?,
        })
    }

    async fn run(&self) -> evenkeel::Result<String> {
        let begin = Instant::now();
        let gpu = evenkeel::Gpu::new().await?;
        let mut run = Run::new(&gpu, &self.model, self.clip).await?;
        let mut losses = Vec::new();
        timed(&mut run, 1, &mut losses).await?;
        let first = begin.elapsed().as_secs_f64() * 1000.0;
        let estimate = timed(&mut run, self.warmup, &mut losses).await?;
        let steps = ((self.milliseconds / estimate).round() as u32).max(self.least);
        let step = timed(&mut run, steps, &mut losses).await?;
        let adapter = &gpu.info.name;
        Ok(format!(
            r#"{{"adapter": {adapter:?}, "first": {first}, "step": {step}, "losses": {losses:?}}}"#
        ))
    }
}

/// Milliseconds of a step.
async fn timed(run: &mut Run, steps: u32, losses: &mut Vec<f32>) -> evenkeel::Result<f64> {
    let start = Instant::now();
    for _ in 0..steps {
        run.step().await?;
    }
    losses.extend(run.losses().await?);
    Ok(start.elapsed().as_secs_f64() * 1000.0 / f64::from(steps))
}
