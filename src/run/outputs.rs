//! The files of a run: which they are, and that each can be written and is named once.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::{self, Folder};
use super::{OutputOptions, say};
use crate::error::{Error, Result};
use crate::file;

/// The last save, in the folder.
const WEIGHTS: &str = "checkpoint.safetensors";
/// The one before.
const PREVIOUS: &str = "previous.safetensors";

/// Where the results of a run go.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// A line of JSON for every step.
    pub metrics: PathBuf,
    /// The same as a table.
    pub csv: Option<PathBuf>,
    /// Folder of TensorBoard's event files.
    pub tensorboard: Option<PathBuf>,
    /// The run as a page.
    pub report: Option<PathBuf>,
    /// The trace of a profiled step.
    pub trace: Option<PathBuf>,
    /// The charts alone.
    pub plot: PathBuf,
    /// Generated text.
    pub sample: PathBuf,
    /// The last [save](super::Saved).
    pub weights: PathBuf,
    /// The one before.
    pub previous: PathBuf,
}

/// A file, and the option that names it.
type Named = (String, PathBuf);

impl Outputs {
    /// Makes the folders that are missing and checks everything before anything is computed: each
    /// file can be written, and no two options name one file, whatever way they take to it.
    /// `read` are the files that the run reads. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::File`] names the option.
    pub fn prepare(options: &OutputOptions, folder: &Folder, read: &[Named]) -> Result<Self> {
        let metrics = options.metrics.clone();
        let outputs = Self {
            metrics: metrics.unwrap_or_else(|| folder.file("metrics.jsonl")),
            csv: options.csv.clone(),
            tensorboard: options.tensorboard.clone(),
            report: options.report.clone(),
            trace: options.profile.clone().flatten(),
            plot: folder.file("training.svg"),
            sample: folder.file("sample.txt"),
            weights: folder.file(WEIGHTS),
            previous: folder.file(PREVIOUS),
        };
        let named = outputs.named(options);
        for (option, path) in &named {
            check_file(path, option)?;
        }
        check_distinct(&named, read)?;
        if let Some(path) = &outputs.tensorboard {
            folder::prepare(path, "--tensorboard")?;
        }
        Ok(outputs)
    }

    /// All files that are written over.
    fn named(&self, options: &OutputOptions) -> Vec<Named> {
        // Where its file was not named, the metrics lie in the folder.
        let metrics = if options.metrics.is_some() { "--metrics" } else { "--out" };
        let one = |option: &str, path: &Path| (option.to_owned(), path.to_owned());
        let mut named = vec![one(metrics, &self.metrics)];
        let optional =
            [("--csv", &self.csv), ("--report", &self.report), ("--profile", &self.trace)];
        let given = |(option, path): (&str, &Option<PathBuf>)| Some(one(option, path.as_ref()?));
        named.extend(optional.into_iter().filter_map(given));
        let own = [&self.plot, &self.sample, &self.weights, &self.previous];
        named.extend(own.map(|path| one("--out", path)));
        named
    }

    /// Says what lies where now.
    pub fn print(&self, sampled: bool) {
        say!("\nmetrics  {}", self.metrics.display());
        let print = |name: &str, path: &Path| say!("{name:<8} {}", path.display());
        for (name, path) in [
            ("table", &self.csv),
            ("events", &self.tensorboard),
            ("report", &self.report),
            ("trace", &self.trace),
        ] {
            path.iter().for_each(|path| print(name, path));
        }
        print("plot", &self.plot);
        print("weights", &self.weights);
        if sampled {
            print("sample", &self.sample);
        }
    }
}

fn check_file(path: &Path, option: &str) -> Result<()> {
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    if let Some(folder) = path.parent().filter(|folder| !special && *folder != Path::new("")) {
        folder::prepare(folder, option)?;
    }
    file::check_writable(path).map_err(|error| match error {
        Error::File { path, reason } => {
            let reason = reason.trim_start_matches("cannot be written: ");
            let reason =
                format!("this file cannot be written ({reason}); choose another with {option}");
            Error::File { path, reason }
        }
        other => other,
    })
}

/// No file is written twice, or read and written, or where the program's own output goes.
fn check_distinct(written: &[Named], read: &[Named]) -> Result<()> {
    for (at, (option, path)) in written.iter().enumerate() {
        // The run's own files have names of their own; a kill may leave the last save as the
        // previous one too, under both names.
        let own = |other: &Named| option == "--out" && other.0 == "--out";
        let others = written[..at].iter().chain(read).filter(|other| !own(other));
        if let Some((other, _)) = others.into_iter().find(|(_, other)| is_same(path, other)) {
            let reason = format!(
                "{other} and {option} both name this file; choose another with {}",
                if option == "--out" { other } else { option },
            );
            return Err(Error::File { path: path.clone(), reason });
        }
        if path.is_file() && is_own_output(path) {
            let reason = format!(
                "{option} names the file that this program's own output goes to; choose another"
            );
            return Err(Error::File { path: path.clone(), reason });
        }
    }
    Ok(())
}

/// Whether two names stand for one file, which need not be there yet.
fn is_same(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (file::resolve(one), file::resolve(other)) else { return false };
    // What is written there is gone anyway.
    if one == Path::new("/dev/null") {
        return false;
    }
    let text = |path: &Path| path.to_string_lossy().to_lowercase();
    let folds = cfg!(any(target_os = "macos", windows));
    one == other
        || (folds && text(&one) == text(&other))
        // To look into a pipe would be to wait for who writes it.
        || (one.is_file()
            && other.is_file()
            && same_file::is_same_file(&one, &other).unwrap_or(false))
}

fn is_own_output(path: &Path) -> bool {
    let Ok(file) = same_file::Handle::from_path(path) else { return false };
    [same_file::Handle::stdout(), same_file::Handle::stderr()]
        .into_iter()
        .any(|output| output.is_ok_and(|output| output == file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_under_two_names_is_found() {
        let place = tempfile::tempdir().expect("a folder");
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("deep")).expect("made");
        fs::write(path("a.txt"), b"text").expect("written");
        assert!(is_same(&path("a.txt"), &path("deep/../a.txt")));
        assert!(is_same(&path("new.csv"), &path("deep/../new.csv")));
        assert!(!is_same(&path("new.csv"), &path("deep/new.csv")));
        assert!(!is_same(&path("a.txt"), &path("none/a.txt")));
        fs::hard_link(path("a.txt"), path("hard")).expect("linked");
        assert!(is_same(&path("a.txt"), &path("hard")));

        let named = |option: &str, name: &str| (option.to_owned(), path(name));
        let written = [named("--csv", "x"), named("--report", "y"), named("--out", "z")];
        check_distinct(&written, &[named("--text", "a.txt")]).expect("distinct");
        let saves = [named("--out", "a.txt"), named("--out", "hard")];
        check_distinct(&saves, &[]).expect("as a kill in the middle of a save leaves them");
        let error = check_distinct(&written, &[named("--text", "y")]).expect_err("one file");
        let error = error.to_string();
        assert!(error.contains("--text and --report both name"), "{error}");
        assert!(error.contains("choose another with --report"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().expect("a folder");
        let path = |name: &str| place.path().join(name);
        symlink("later", path("one")).expect("linked");
        symlink("one", path("two")).expect("linked");
        assert!(is_same(&path("one"), &path("two")) && is_same(&path("two"), &path("later")));
        symlink(place.path(), path("folder")).expect("linked");
        assert!(is_same(&path("folder/new"), &path("new")));
        assert!(!is_same(Path::new("/dev/null"), Path::new("/dev/null")));
    }
}
