//! All tests: those that need no GPU once, the others on every driver.

use std::fs;
use std::iter;
use std::num::NonZero;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::backends;
use crate::browser;
use crate::chromium::Chromium;
use crate::drivers::{self, Driver, Kind};
#[cfg(target_os = "linux")]
use crate::hosts;
use crate::mesa26::Mesa26;
use crate::mpi::{self, Mpich};
use crate::npm;
use crate::real_model;
use crate::steps::{self, Step};
use crate::wasm::Compiler;
use crate::web;

/// Files in tests/ that use no GPU. All others run on each driver.
const CPU_TESTS: [&str; 7] =
    ["backends", "book", "gradients", "loader", "shader_contract", "text", "watch"];

/// The test program that takes longest.
const LONGEST: &str = "kernels";

/// Leaves the tests that pages cannot run: `tests!` and the kernel table put all others into modules
/// of these names.
const NOT_IN_PAGES: [&str; 4] = ["--skip", "test::", "--skip", "::row::"];

/// The tests of the program `evenkeel`, which are about files, options and ends, and those of several
/// ranks, which are about what goes between devices: not about drivers, so they run on the faster one.
const ON_ONE_DRIVER: [&str; 9] =
    ["commands", "diloco", "lora_program", "mpi", "mpirun", "ranks", "run", "train_program", "why"];

/// The tests that start processes by MPI.
const MPI: [&str; 2] = ["mpi", "mpirun"];

/// Parts of the names of the tests that Dawn runs on a software driver: kernels, half precision, whole
/// steps and runs that go from place to place, since that driver is not Chromium's and may have
/// `shader-f16`. What the others test of the host is the same program in Chromium.
const IN_DAWN: [&str; 7] =
    ["exchange::", "f16", "half", "halves", "kernels::", "step::", "training::"];

/// Parts of the names of tests whose kernels lavapipe's LLVM takes minutes for in the form that Dawn
/// gives them: attention, draws of tokens, the largest tiles in registers, weights in blocks and what
/// hardware gets. Lavapipe runs them natively, and Chromium on SwiftShader.
const NOT_IN_PAGES_ON_LAVAPIPE: [&str; 7] = [
    "blocks",
    "kernels::attention",
    "kernels::generation",
    "large_tiles",
    "hardware",
    "every_kind_of_model_goes_on",
    "devices_agree",
];

/// The tests of the demo's sessions, natively: that of a run, and that of fine-tuning.
pub const DEMO: [&str; 2] = ["--test", "session"];

/// The library's own tests and the program's.
const MODULES: [&str; 3] = ["--lib", "--bin", "evenkeel"];

#[derive(Args)]
pub struct Options {
    /// Build with optimizations
    #[arg(long)]
    release: bool,
    /// Run on this driver only; may be given several times
    #[arg(long)]
    driver: Vec<Kind>,
    /// Run on both software drivers, lavapipe and SwiftShader, and the tests with MPI; install what is
    /// missing
    #[arg(long, conflicts_with = "driver")]
    require_both: bool,
    /// Run the GPU tests in Chromium and in Dawn too, and install what is missing
    #[arg(long)]
    browser: bool,
    /// Run nothing but the tests in Chromium and in Dawn
    #[arg(long)]
    browser_only: bool,
    /// With the tests in pages, run them once more in Chromium on lavapipe, where Dawn alone runs
    /// them otherwise
    #[arg(long)]
    chromium_on_lavapipe: bool,
    /// Translate every kernel for every backend and have the compilers check it; install what is
    /// missing
    #[arg(long)]
    all_backends: bool,
    /// Run nothing but the tests of cooperative matrices, on the lavapipe of Mesa 26, which is unpacked
    /// under target/drivers where it is not here
    #[arg(long, conflicts_with_all = ["browser", "browser_only", "all_backends", "real_model"])]
    mesa26: bool,
    /// Run nothing but the comparison with a real model, which is downloaded where it is not here
    #[arg(long, conflicts_with_all = ["browser", "browser_only", "all_backends"])]
    real_model: bool,
    /// Run nothing but the tests with MPI, built with MPICH in the place of OpenMPI; install it where it
    /// is missing
    #[arg(long, conflicts_with_all = ["browser", "browser_only", "all_backends", "real_model"])]
    mpich: bool,
    /// Run nothing but ranks on several hosts, which are network namespaces of this one; takes root
    #[cfg(target_os = "linux")]
    #[arg(long, conflicts_with_all = ["browser", "browser_only", "all_backends", "real_model"])]
    hosts: bool,
    /// Arguments of the test programs, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What the test programs of one command reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
}

pub fn run(options: &Options) -> Result<()> {
    if options.mesa26 {
        return cooperative(options);
    }
    let wanted = if options.require_both {
        vec![Kind::Lavapipe, Kind::SwiftShader]
    } else {
        options.driver.clone()
    };
    let drivers = drivers::find_or_install(&wanted)?;
    if options.all_backends {
        backends::prepare()?;
    }
    for driver in &drivers {
        println!("==> found {driver}");
    }
    #[cfg(target_os = "linux")]
    if options.hosts {
        return hosts::check::run(&drivers[0]);
    }
    let mut report = Vec::new();
    if options.real_model {
        with_real_model(options, &drivers, &mut report)?;
        return summarize(&report);
    }
    if options.mpich {
        with_mpich(options, &drivers[0], &mut report)?;
        return summarize(&report);
    }
    if !options.browser_only {
        native(options, &drivers, &mut report)?;
    }
    in_pages(options, &drivers, &mut report)?;
    summarize(&report)
}

/// Tests of native programs.
fn native(options: &Options, drivers: &[Driver], report: &mut Vec<Outcome>) -> Result<()> {
    if options.require_both {
        mpi::find_or_install()?;
    }
    let mut gpu_tests = gpu_tests(&steps::root().join("tests"))?;
    if !mpi::is_here() {
        println!("==> skipped: the tests with MPI, which is not here; --require-both installs it");
        gpu_tests.retain(|name| !MPI.contains(&&**name));
    }
    let cpu: Vec<_> = CPU_TESTS.iter().flat_map(|name| ["--test", name]).collect();
    let gpu: Vec<_> = gpu_tests.iter().flat_map(|name| ["--test", name]).collect();

    // One build for all that follows.
    let all = cargo_test(options).args(MODULES).args(&cpu).args(&gpu).args(DEMO);
    all.args(["--no-run"]).run()?;

    // Tests of the crate's own modules and its documentation may use a GPU in passing.
    let first = &drivers[0];
    let xtask = Step::cargo("test").args(["--package", "xtask"]);
    report.push(watch("xtask".to_owned(), xtask, options)?);
    let library = cargo_test(options).args(MODULES).args(&cpu).envs(environment(first));
    let library = library.envs(options.all_backends.then_some(backends::REQUIRE));
    report.push(watch("library".to_owned(), library, options)?);
    let documentation = cargo_test(options).args(["--doc"]).envs(environment(first));
    report.push(watch("documentation".to_owned(), documentation, options)?);
    let demo = cargo_test(options).args(DEMO).envs(environment(first));
    report.push(watch("the demo's sessions".to_owned(), demo, options)?);
    for driver in drivers {
        if !(options.browser && driver.kind == Kind::SwiftShader) {
            let all: Vec<_> = gpu_tests.iter().collect();
            report.push(side_by_side(&all, driver, options)?);
            continue;
        }
        // Once on SwiftShader, the slowest driver, is enough.
        let in_pages = browser::test_programs()?;
        println!("==> on {driver} these run in Chromium, below: {}", in_pages.join(", "));
        println!("==> on {driver} these do not run: {}", ON_ONE_DRIVER.join(", "));
        let rest = gpu_tests.iter().filter(|name| !ON_ONE_DRIVER.contains(&name.as_str()));
        let (shared, native): (Vec<_>, Vec<_>) = rest.partition(|name| in_pages.contains(name));
        report.push(side_by_side(&native, driver, options)?);
        let rest = cargo_test(options).args(shared.iter().flat_map(|name| ["--test", name]));
        let rest = rest.envs(environment(driver)).args(["--no-fail-fast", "--"]).args(NOT_IN_PAGES);
        let name = format!("GPU tests on {driver} that no page can run");
        report.push(watch_step(name, rest.args(&options.arguments), options)?);
    }
    Ok(())
}

/// Test programs on a driver; on one of software as many at once as the machine has cores, since it
/// compiles the kernels of a program in one thread, which most of the time goes into.
fn side_by_side(names: &[&String], driver: &Driver, options: &Options) -> Result<Outcome> {
    let start = Instant::now();
    let mut queue: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    // Taken from the end: the longest first, so that no core waits for it when the others are done.
    queue.sort_by_key(|&name| name == LONGEST);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let count = if driver.kind == Kind::Hardware { 1 } else { cores.min(queue.len()) };
    let queue = Mutex::new(queue);
    let next = || queue.lock().expect("no panic").pop();
    let work = || {
        let test = |name| {
            let step = cargo_test(options).args(["--test", name]).envs(environment(driver));
            watch(name.to_owned(), step.prefix(&format!("{name}: ")), options)
        };
        iter::from_fn(next).map(test).collect::<Result<Vec<_>>>()
    };
    let outcomes = thread::scope(|scope| {
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        let outcomes = workers.into_iter().map(|worker| worker.join().expect("no panic"));
        outcomes.collect::<Result<Vec<_>>>()
    })?;
    let mut tally = Tally::default();
    let mut success = true;
    for (_, succeeded, counted, _) in outcomes.concat() {
        tally += counted;
        success &= succeeded;
    }
    Ok((format!("GPU tests on {driver}"), success, tally, start.elapsed()))
}

/// The tests that other software drivers skip: they have no cooperative matrices.
fn cooperative(options: &Options) -> Result<()> {
    let mesa = Mesa26::find_or_unpack()?;
    let step = cargo_test(options)
        .args(["--test", "kernels"])
        .envs(mesa.environment())
        .args(["--", "cooperative::"])
        .args(&options.arguments);
    summarize(&[watch_step("cooperative matrices on Mesa 26".to_owned(), step, options)?])
}

/// The test program that is skipped elsewhere.
fn with_real_model(options: &Options, drivers: &[Driver], report: &mut Vec<Outcome>) -> Result<()> {
    let file = real_model::find_or_download()?;
    for driver in drivers {
        let step = cargo_test(options)
            .args(["--test", "real_model"])
            .envs(environment(driver))
            .envs([(real_model::VARIABLE, &file)]);
        report.push(watch(format!("a real model on {driver}"), step, options)?);
    }
    Ok(())
}

/// The test programs that start processes, with the other MPI.
fn with_mpich(options: &Options, driver: &Driver, report: &mut Vec<Outcome>) -> Result<()> {
    let mpich = Mpich::find_or_install()?;
    let features = "evenkeel/contract,evenkeel/dashboard,evenkeel/cli,evenkeel/mpi";
    let step = Step::cargo("test").args(["--package", "evenkeel", "--features", features]);
    let step = step.args(MPI.iter().flat_map(|name| ["--test", name]));
    let step = step.args(options.release.then_some("--release"));
    let step = step.envs(environment(driver)).envs(mpich.environment());
    report.push(watch(format!("MPICH on {driver}"), step, options)?);
    Ok(())
}

/// The demo's page in Chromium; then the GPU tests in WebGPU, in Chromium and in Dawn at once: much
/// of their time each waits for one core.
fn in_pages(options: &Options, drivers: &[Driver], report: &mut Vec<Outcome>) -> Result<()> {
    if !options.browser && !options.browser_only {
        println!("==> skipped: the tests in Chromium and in Dawn; --browser runs them");
        return Ok(());
    }
    let chromium = Chromium::find_or_install()?;
    // Arguments name tests of the tables.
    let tests = if options.arguments.is_empty() {
        let (site, tests) = build_pages()?;
        for (name, step) in web::tests(&site)? {
            report.push(watch_step(name.to_owned(), step, options)?);
        }
        tests
    } else {
        browser::Tests::build()?
    };
    let named = |kind| drivers.iter().find(|driver| driver.kind == kind);
    let on_lavapipe = if options.chromium_on_lavapipe {
        let lavapipe = named(Kind::Lavapipe).context("lavapipe is not here")?;
        Some((lavapipe, Chromium::on_lavapipe(lavapipe)?))
    } else {
        None
    };
    let in_chromium = |folder: &Path| Ok(tests.in_chromium(&chromium, folder));
    let in_dawn = |folder: &Path| {
        let driver = drivers.first().context("a driver")?;
        let is_chosen = driver.kind != Kind::Hardware && options.arguments.is_empty();
        Ok(tests.in_dawn(driver, folder).args(IN_DAWN.iter().filter(|_| is_chosen)))
    };
    let swiftshader = named(Kind::SwiftShader);
    thread::scope(|scope| {
        let chromium = scope.spawn(|| in_page(options, "Chromium", swiftshader, in_chromium));
        let mut others = vec![in_page(options, "Dawn", drivers.first(), in_dawn)];
        if let Some((lavapipe, chromium)) = &on_lavapipe {
            let place = "Chromium on lavapipe through a shim";
            let tests = |folder: &Path| Ok(tests.in_chromium(chromium, folder));
            others.push(in_page(options, place, Some(lavapipe), tests));
        }
        report.extend(chromium.join().expect("no panic")?);
        for outcomes in others {
            report.extend(outcomes?);
        }
        Ok(())
    })
}

/// Builds the demo's page and the tests in one at once: the former is linked and made small by one
/// thread, which takes half its time.
fn build_pages() -> Result<(PathBuf, browser::Tests)> {
    // What both need is installed before.
    Compiler::find_or_install()?;
    npm::xtask()?;
    thread::scope(|scope| {
        let site = scope.spawn(web::build);
        let tests = browser::Tests::build();
        Ok((site.join().expect("no panic")?, tests?))
    })
}

/// The GPU tests in one place. Before and after, native programs exchange runs with them over the
/// same driver.
fn in_page(
    options: &Options,
    place: &str,
    driver: Option<&Driver>,
    tests: impl Fn(&Path) -> Result<Step>,
) -> Result<Vec<Outcome>> {
    let folder = browser::exchange_folder(place)?;
    let prefix = format!("{place}: ");
    let exchange = |way: &str| {
        let Some(driver) = driver else { return Ok(None) };
        let step = cargo_test(options)
            .args(["--test", "exchange"])
            .envs(environment(driver))
            .envs([("EVENKEEL_EXCHANGE", &folder)])
            .prefix(&prefix);
        watch_step(format!("a run {way} {place}, on {driver}"), step, options).map(Some)
    };
    let mut report = Vec::new();
    report.extend(exchange("for")?);
    let mut step = tests(&folder)?.args(&options.arguments).prefix(&prefix);
    let is_lavapipe = driver.is_some_and(|driver| driver.kind == Kind::Lavapipe);
    if is_lavapipe && options.arguments.is_empty() {
        println!("==> left out in {place}: {}", NOT_IN_PAGES_ON_LAVAPIPE.join(", "));
        step = step.args(NOT_IN_PAGES_ON_LAVAPIPE.map(|name| format!("-{name}")));
    }
    report.push(watch_step(format!("GPU tests in {place}"), step, options)?);
    report.extend(exchange("from")?);
    Ok(report)
}

/// Tests of the library and of the demo, the same packages and features each time, so that nothing
/// is built twice.
pub fn test_step() -> Step {
    Step::cargo("test")
        .args(["--package", "evenkeel", "--package", "evenkeel-browser"])
        .args(["--package", "evenkeel-browser-finetune"])
        .args(["--features", "evenkeel/contract,evenkeel/dashboard,evenkeel/cli"])
        .args(mpi::is_here().then_some(["--features", "evenkeel/mpi"]).into_iter().flatten())
}

fn cargo_test(options: &Options) -> Step {
    test_step().args(options.release.then_some("--release"))
}

fn environment(driver: &Driver) -> Vec<(&'static str, std::ffi::OsString)> {
    let mut variables = driver.environment();
    variables.push(("EVENKEEL_REQUIRE_GPU", "1".into()));
    variables
}

/// A command's name, whether it succeeded, what it reported, and how long it ran.
type Outcome = (String, bool, Tally, Duration);

/// Runs tests to the end, failures included, so that one driver's do not hide another's.
fn watch(name: String, step: Step, options: &Options) -> Result<Outcome> {
    watch_step(name, step.args(["--no-fail-fast", "--"]).args(&options.arguments), options)
}

fn watch_step(name: String, step: Step, options: &Options) -> Result<Outcome> {
    let mut tally = Tally::default();
    let start = Instant::now();
    let success = step.run_watching(|line| {
        if let Some(result) = parse(line) {
            tally += result;
        }
    })?;
    let ran = tally.passed > 0 || !options.arguments.is_empty();
    ensure!(ran || !success, "{name}: no test ran");
    Ok((name, success, tally, start.elapsed()))
}

fn summarize(report: &[Outcome]) -> Result<()> {
    println!();
    for (name, success, tally, time) in report {
        let Tally { programs, passed, failed, ignored } = tally;
        let verdict = if *success { "ok" } else { "FAILED" };
        println!(
            "==> {verdict}: {name}: {passed} passed, {failed} failed, {ignored} ignored, in \
             {programs} test programs, {} s",
            time.as_secs()
        );
    }
    let failed: Vec<_> = report.iter().filter(|(_, success, ..)| !success).collect();
    if !failed.is_empty() {
        let names: Vec<_> = failed.iter().map(|(name, ..)| name.as_str()).collect();
        bail!("tests failed: {}", names.join("; "));
    }
    Ok(())
}

/// The closing line of a test program.
fn parse(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |word: &str| {
        let parts = rest.split(['.', ';']).map(str::trim);
        parts.filter_map(|part| part.strip_suffix(word)).find_map(|n| n.trim().parse().ok())
    };
    Some(Tally {
        programs: 1,
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
    })
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.programs += other.programs;
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Names of the test programs that need a GPU: files in tests/, and folders with a main.rs.
fn gpu_tests(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).context("no tests folder")? {
        let path = entry?.path();
        let is_test = path.join("main.rs").exists() || path.extension().is_some_and(|e| e == "rs");
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if is_test && !CPU_TESTS.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "no GPU tests in {}", folder.display());
    Ok(names)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let line = "test result: FAILED. 41 passed; 2 failed; 1 ignored; 0 measured; 7 filtered \
                    out; finished in 1.25s";
        let mut tally = parse(line).unwrap();
        tally += parse(line).unwrap();
        assert_eq!(tally, Tally { programs: 2, passed: 82, failed: 4, ignored: 2 });
        assert_eq!(parse("test kernels::scale ... ok"), None);
    }

    #[test]
    fn every_test_program_is_found() {
        let found = gpu_tests(&steps::root().join("tests")).unwrap();
        assert!(found.contains(&"kernels".to_owned()), "{found:?}");
        assert!(!found.contains(&"shader_contract".to_owned()), "{found:?}");
        assert!(!found.contains(&"support".to_owned()), "{found:?}");

        let in_pages = browser::test_programs().unwrap();
        assert!(in_pages.contains(&"kernels".to_owned()), "{in_pages:?}");
        assert!(in_pages.contains(&"checkpoint".to_owned()), "{in_pages:?}");
        assert!(in_pages.iter().all(|name| found.contains(name)), "{in_pages:?}");
    }
}
