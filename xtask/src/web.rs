//! The demo: static files that any web server can serve, and a server for this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;

use crate::browser;
use crate::drivers::{self, Kind};
use crate::npm::{self, Folder};
use crate::steps::{self, Step};
use crate::tests;
use crate::wasm::{Compiler, Profile};

#[derive(Args)]
pub struct Options {
    /// Port of this machine to serve the page on
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Only build the files, into target/web/site
    #[arg(long)]
    build_only: bool,
    /// Test the page in headless Chromium instead of serving it
    #[arg(long, conflicts_with = "build_only")]
    test: bool,
}

pub fn run(options: &Options) -> Result<()> {
    if options.test {
        return tests(&build()?)?.into_iter().try_for_each(|(_, step)| step.run());
    }
    let site = build()?;
    println!("==> the page is in {}", site.display());
    if options.build_only {
        return Ok(());
    }
    npm::xtask()?.script("serve.mjs").args([site]).args([options.port.to_string()]).run()
}

/// Trains the same models with evenkeel and its peers in the same Chromium, and natively unless only
/// pages are wanted; arguments go to benches/browser/run.mjs.
pub fn bench(pages_only: bool, arguments: &[String]) -> Result<()> {
    const PACKAGE: &str = "evenkeel-browser-bench";
    let folder = steps::target().join("browser-bench");
    Compiler::find_or_install()?.build(PACKAGE, Profile::Small, &folder)?;
    let script = Folder::install("benches/browser")?.script("run.mjs").args([folder]);
    if pages_only {
        return script.args(arguments).run();
    }
    let native = ["--release", "--package", PACKAGE, "--example", "native"];
    Step::cargo("build").args(native).run()?;
    let native = steps::target().join("release/examples/native");
    let drivers = drivers::find_or_install(&[Kind::SwiftShader])?;
    script.args(["--native".into(), native]).args(arguments).envs(drivers[0].environment()).run()
}

/// Builds the page and returns its folder.
pub fn build() -> Result<PathBuf> {
    let folder = steps::target().join("web");
    let [wasm, finetune, site] = ["wasm", "wasm-finetune", "site"].map(|name| folder.join(name));
    // What both need is installed before.
    let compiler = Compiler::find_or_install()?;
    npm::xtask()?;
    // Two programs, so that the second is fetched by those only who fine-tune. One is made small while
    // cargo compiles the other.
    thread::scope(|scope| {
        let larger =
            scope.spawn(|| compiler.build("evenkeel-browser-finetune", Profile::Small, &finetune));
        compiler.build("evenkeel-browser", Profile::Small, &wasm)?;
        larger.join().expect("no panic")
    })?;
    demo()?.script("build.mjs").args([&wasm, &finetune, &site]).run()?;
    Ok(site)
}

/// Tests of the page in a folder: headless Chromium drives it and leaves pictures in
/// target/web/screenshots; before and after, the same session natively, over Chromium's software
/// driver, exchanges runs with it.
pub fn tests(site: &Path) -> Result<Vec<(&'static str, Step)>> {
    let screenshots = steps::target().join("web/screenshots");
    fs::create_dir_all(&screenshots)
        .with_context(|| format!("cannot make {}", screenshots.display()))?;
    let exchange = browser::exchange_folder("page")?;
    let drivers = drivers::find_or_install(&[Kind::SwiftShader])?;
    let session = || {
        tests::test_step()
            .args(tests::DEMO)
            .args(["--", "runs_go_on", "an_adapter_comes"])
            .envs(drivers[0].environment())
            .envs([("EVENKEEL_EXCHANGE", &exchange)])
    };
    let page = demo()?.script("tests/all.mjs").args([site, &screenshots, &exchange]);
    Ok(vec![
        ("a session for the demo's page", session()),
        ("the demo's page", page),
        ("a session from the demo's page", session()),
    ])
}

fn demo() -> Result<Folder> {
    Folder::install("examples/browser")
}
