//! The session of the page, natively: it learns, survives what it should, and resumes bitwise.

use std::fs;
use std::path::PathBuf;

use evenkeel::data::Corpus;
use evenkeel::train::Telemetry;
use evenkeel::{Error, Gpu, block_on};
use evenkeel_browser::addition::Addition;
use evenkeel_browser::{Answer, Disturbance, Session, Settings, Task};

/// The adapter, or `None` where there is none and none is required.
fn gpu() -> Option<Gpu> {
    match block_on(Gpu::new()) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoAdapter { reason }) => {
            assert!(std::env::var_os("EVENKEEL_REQUIRE_GPU").is_none(), "no adapter: {reason}");
            println!("skipped: no adapter");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn addition(digits: u32) -> Task {
    Task::Addition(Addition::new(digits).unwrap())
}

async fn run(session: &mut Session, steps: usize) -> Vec<Telemetry> {
    let mut records = Vec::new();
    for step in 0..steps {
        session.step().await.unwrap();
        if step % 50 == 49 || step + 1 == steps {
            records.extend(session.telemetry().await.unwrap().0);
        }
    }
    records
}

fn losses(records: &[Telemetry]) -> Vec<u32> {
    records.iter().map(|record| record.loss.to_bits()).collect()
}

fn right(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.right).count()
}

#[test]
fn sums_are_learned() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let mut session = Session::new(gpu, addition(2), Settings::default()).await.unwrap();
        let before = session.validate().await.unwrap();
        assert!(right(&session.answers().await.unwrap()) <= 2);
        run(&mut session, 400).await;
        let (loss, right) =
            (session.validate().await.unwrap(), right(&session.answers().await.unwrap()));
        println!("validation loss {before:.3}, then {loss:.3}; {right} of 100 sums right");
        assert!(loss < 1.2 && right > 2, "validation loss {loss}, {right} of 100 sums right");
    });
}

/// A text of a few words, in short contexts.
fn text() -> (Task, Settings) {
    let text = "the keel holds the ship upright and the ship holds its course. ".repeat(20);
    let corpus = Corpus::new("words", text.as_bytes()).unwrap();
    (Task::Text(corpus), Settings { batch: 4, context: 16, ..Settings::default() })
}

#[test]
fn a_checkpoint_goes_on_with_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let (task, settings) = text();
        let mut session = Session::new(gpu.clone(), task.clone(), settings).await.unwrap();
        run(&mut session, 6).await;
        let checkpoint = session.checkpoint().await.unwrap();
        let expected = losses(&run(&mut session, 8).await);
        assert_eq!(session.load(&checkpoint).await.unwrap(), 6);
        assert_eq!(losses(&run(&mut session, 8).await), expected);
        // Also through a switch of the stability features.
        session.load(&checkpoint).await.unwrap();
        session.set_stability(false, 1.0).await.unwrap();
        session.set_stability(true, 1.0).await.unwrap();
        assert_eq!(losses(&run(&mut session, 8).await), expected);
        // Also where a run of another seed was.
        let another = Settings { seed: 9, ..settings };
        let mut session = Session::new(gpu.clone(), task, another).await.unwrap();
        run(&mut session, 2).await;
        session.load(&checkpoint).await.unwrap();
        assert_eq!(losses(&run(&mut session, 8).await), expected);
        let mut other = Session::new(gpu, addition(1), Settings::default()).await.unwrap();
        assert!(other.load(&checkpoint).await.unwrap_err().to_string().contains("checkpoint"));
    });
}

/// With the page that `tests/page.mjs` drives, through the folder of `EVENKEEL_EXCHANGE`: the losses
/// after a checkpoint are those of the other side.
#[test]
fn runs_go_on_in_the_page_and_come_from_there() {
    let Some(folder) = std::env::var_os("EVENKEEL_EXCHANGE").map(PathBuf::from) else {
        println!("skipped: no folder to meet the page in");
        return;
    };
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let (task, settings) = text();
        let settings = Settings { batch: 8, ..settings };
        let mut session = Session::new(gpu.clone(), task, settings).await.unwrap();
        run(&mut session, 6).await;
        fs::write(folder.join("native.safetensors"), session.checkpoint().await.unwrap()).unwrap();
        let followed = run(&mut session, 8).await;
        let lines: Vec<_> = followed.iter().map(|record| record.loss.to_string()).collect();
        fs::write(folder.join("native.losses"), lines.join("\n")).unwrap();

        let Ok(checkpoint) = fs::read(folder.join("page.safetensors")) else {
            println!("the page has left nothing yet");
            return;
        };
        session.load(&checkpoint).await.unwrap();
        let expected = fs::read_to_string(folder.join("page.losses")).unwrap();
        let expected: Vec<f32> = expected.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(expected.len(), 8);
        for (record, expected) in run(&mut session, 8).await.iter().zip(expected) {
            // A driver for hardware may contract what two compilers write differently.
            let allowed = if gpu.is_software() { 0.0 } else { 1e-5 };
            let off = (record.loss - expected).abs();
            assert!(
                off <= allowed,
                "step {}: {} natively, {expected} in the page",
                record.step,
                record.loss
            );
        }
    });
}

#[test]
fn disturbances_do_what_they_say() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let (task, settings) = text();
        let mut session = Session::new(gpu, task, settings).await.unwrap();
        run(&mut session, 40).await;
        for disturbance in [Disturbance::Nan, Disturbance::Infinity, Disturbance::Spike] {
            let step = session.disturb(disturbance);
            assert_eq!(step, session.steps());
            let records = run(&mut session, 12).await;
            assert!(!records[0].applied, "{disturbance:?}: {:?}", records[0]);
            assert!(records[11].applied && records[11].loss.is_finite());
        }
        let step = session.disturb(Disturbance::LearningRate);
        let records = run(&mut session, 6).await;
        assert_eq!(records[0].step, step);
        assert!((records[0].learning_rate - 0.5).abs() < 1e-3, "{}", records[0].learning_rate);
        assert!((records[5].learning_rate - 5e-3).abs() < 3e-3, "{}", records[5].learning_rate);

        session.set_stability(false, 1.0).await.unwrap();
        session.disturb(Disturbance::Spike);
        let records = run(&mut session, 2).await;
        assert!(records[0].applied && records[0].gradient_norm > 100.0, "{:?}", records[0]);
    });
}

#[test]
fn a_lost_device_is_replaced() {
    // A device of its own, since it is destroyed.
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let (task, settings) = text();
        let mut session = Session::new(gpu, task, settings).await.unwrap();
        run(&mut session, 22).await;
        let snapshot = session.snapshot_steps().expect("one after 20 steps");
        assert_eq!(snapshot, 20);
        let expected = losses(&run(&mut session, 6).await);
        session.lose_device();
        let error = loop {
            if let Err(error) = session.telemetry().await.and(session.step().await) {
                break error;
            }
        };
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        assert_eq!(session.recover(Gpu::new().await.unwrap()).await.unwrap(), snapshot);
        run(&mut session, 2).await;
        assert_eq!(losses(&run(&mut session, 6).await), expected);
    });
}
