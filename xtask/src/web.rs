//! The demo: static files that any web server can serve, and a server for this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::drivers::{self, Kind};
use crate::npm::{self, Folder};
use crate::steps::{self, Step};
use crate::wasm::Compiler;

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
    let site = build()?;
    println!("==> the page is in {}", site.display());
    if options.build_only {
        return Ok(());
    }
    if options.test {
        return tests(&site)?.run();
    }
    npm::xtask()?.script("serve.mjs").args([site]).args([options.port.to_string()]).run()
}

/// Trains the same models with evenkeel and its peers in the same Chromium, and natively; arguments
/// go to benches/browser/run.mjs.
pub fn bench(arguments: &[String]) -> Result<()> {
    const PACKAGE: &str = "evenkeel-browser-bench";
    let folder = steps::target().join("browser-bench");
    Compiler::find_or_install()?.build(PACKAGE, &folder)?;
    let native = ["--release", "--package", PACKAGE, "--example", "native"];
    Step::cargo("build").args(native).run()?;
    let native = steps::target().join("release/examples/native");
    let drivers = drivers::find_or_install(&[Kind::SwiftShader])?;
    Folder::install("benches/browser")?
        .script("run.mjs")
        .args([folder, "--native".into(), native])
        .args(arguments)
        .envs(drivers[0].environment())
        .run()
}

/// Builds the page and returns its folder.
fn build() -> Result<PathBuf> {
    let folder = steps::target().join("web");
    let (wasm, site) = (folder.join("wasm"), folder.join("site"));
    Compiler::find_or_install()?.build("evenkeel-browser", &wasm)?;
    demo()?.script("build.mjs").args([&wasm, &site]).run()?;
    Ok(site)
}

/// The command that tests the built page in headless Chromium. Pictures of it go to
/// target/web/screenshots, and a checkpoint that native tests may go on with to target/web/exchange.
fn tests(site: &Path) -> Result<Step> {
    let folder = steps::target().join("web");
    let left = ["screenshots", "exchange"].map(|name| folder.join(name));
    for folder in &left {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(demo()?.script("tests/all.mjs").args([site]).args(left))
}

fn demo() -> Result<Folder> {
    Folder::install("examples/browser")
}
