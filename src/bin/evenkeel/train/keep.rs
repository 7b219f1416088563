//! The saves that stay: the last ones and those of milestones, each under a name with its step.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use evenkeel::run::warn;

/// Their folder, in that of the run.
const FOLDER: &str = "checkpoints";

/// Gives a save that has just been written a name of its own, and deletes the oldest of those
/// beyond `count`, but for those of milestones. It takes no room of its own where the file system
/// knows second names. What fails is said, since the save itself is there.
pub fn saved(out: &Path, save: &Path, step: u64, count: usize, milestones: &[u64]) {
    let folder = out.join(FOLDER);
    let name = folder.join(format!("step-{step:08}.safetensors"));
    let keep = || {
        fs::create_dir_all(&folder)?;
        match fs::remove_file(&name) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(save, &name).or_else(|_| fs::copy(save, &name).map(drop))
    };
    if let Err(error) = keep() {
        warn(format!("{}: this save is not kept: {error}; the run goes on", name.display()));
    }
    let there = steps_in(&folder);
    let older = there.iter().rev().skip(count);
    older.filter(|(step, _)| !milestones.contains(step)).for_each(|(_, path)| remove(path));
}

/// Deletes those of an earlier run, or of a later part of this one that is gone.
pub fn only_until(out: &Path, step: Option<u64>) {
    let there = steps_in(&out.join(FOLDER));
    let later = there.iter().filter(|(of, _)| step.is_none_or(|step| *of > step));
    later.for_each(|(_, path)| remove(path));
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn(format!("{}: an old save cannot be deleted: {error}", path.display()));
    }
}

/// The saves that a run has kept.
pub fn paths(out: &Path) -> Vec<PathBuf> {
    steps_in(&out.join(FOLDER)).into_iter().map(|(_, path)| path).collect()
}

/// The saves in a folder, in the order of their steps.
fn steps_in(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let step = |path: &Path| -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<_> = paths.filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (out, save) = (folder.path(), folder.path().join("save"));
        let there = || {
            let found = steps_in(&out.join(FOLDER));
            found.into_iter().map(|(step, path)| (step, fs::read(path).expect("a file")))
        };
        for step in [0, 4, 8, 100_000_000, 8] {
            // Written beside and renamed, as saves are.
            fs::write(out.join("new"), step.to_string()).expect("written");
            fs::rename(out.join("new"), &save).expect("renamed");
            saved(out, &save, step, 2, &[]);
        }
        assert_eq!(there().map(|(step, _)| step).collect::<Vec<_>>(), [8, 100_000_000]);
        assert!(there().all(|(step, contents)| contents == step.to_string().as_bytes()));
        only_until(out, Some(8));
        assert_eq!(there().map(|(step, _)| step).collect::<Vec<_>>(), [8]);
        [9, 10, 11, 12].iter().for_each(|&step| saved(out, &save, step, 2, &[8, 10]));
        assert_eq!(there().map(|(step, _)| step).collect::<Vec<_>>(), [8, 10, 11, 12]);
        only_until(out, None);
        assert_eq!(there().count(), 0);
    }
}
