//! What was measured on an adapter, kept for the next run on it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::monitor::draw_target;
use crate::error::Result;
use crate::gpu::{Gpu, ProductTiles};

/// Lets matrix products of what is built from here on go by the tiles that are fastest on this
/// adapter: those that an earlier run found there, with the same driver and version of this crate, or
/// else what [`Gpu::tune_products`] measures, once, in a few seconds. No result changes by it.
///
/// They are kept in `evenkeel/product-tiles.json` in the user's folder for caches (`$XDG_CACHE_HOME`
/// or `~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`), which may be deleted at any time; where that
/// cannot be read or written they are measured each time. Software adapters have no tiles.
///
/// # Errors
/// As [`Gpu::tune_products`].
pub async fn tune_products(gpu: &Gpu, quiet: bool) -> Result<()> {
    tune_products_in(gpu, dirs::cache_dir().as_deref(), quiet).await
}

/// The same with another folder for caches.
///
/// # Errors
/// As [`tune_products`].
pub async fn tune_products_in(gpu: &Gpu, caches: Option<&Path>, quiet: bool) -> Result<()> {
    if gpu.is_software() {
        return Ok(());
    }
    let path = caches.map(|caches| caches.join("evenkeel").join("product-tiles.json"));
    let name = name_of(gpu);
    let mut kept = path.as_ref().map_or_else(Map::new, |path| read(path));
    let known = kept.get(&name).and_then(Value::as_str).and_then(|text| text.parse().ok());
    if let Some::<ProductTiles>(tiles) = known {
        gpu.set_product_tiles(tiles);
        return Ok(());
    }
    let bar = ProgressBar::with_draw_target(None, draw_target(quiet));
    bar.set_style(ProgressStyle::with_template("{msg}").expect("a valid template"));
    bar.set_message("measuring matrix products on this adapter, once");
    bar.tick();
    let found = gpu.tune_products().await;
    bar.finish_and_clear();
    kept.insert(name, Value::from(found?.tiles.to_string()));
    if let Some(path) = path {
        // Without it they are measured again.
        drop(write(&path, &kept));
    }
    Ok(())
}

/// What times depend on.
fn name_of(gpu: &Gpu) -> String {
    let info = &gpu.info;
    let version = env!("CARGO_PKG_VERSION");
    format!("{}, {:?}, {} {}, {version}", info.name, info.backend, info.driver, info.driver_info)
}

/// Nothing where there is no such file, or it is damaged.
fn read(path: &Path) -> Map<String, Value> {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// In one piece: other runs may read it.
fn write(path: &Path, kept: &Map<String, Value>) -> io::Result<()> {
    let folder = path.parent().expect("a folder and a name");
    fs::create_dir_all(folder)?;
    let beside = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    let written = fs::write(&beside, serde_json::to_vec_pretty(kept).expect("strings"));
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| drop(fs::remove_file(&beside)))
}
