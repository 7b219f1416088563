//! A run on the disk: its state at one step, and what else it takes to go on.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::warn;
use crate::error::{Error, Result};
use crate::file;
use crate::hugging_face::SafetensorsFile;
use crate::train::Checkpoint;

/// The name, among the metadata of the file, of what is not in a checkpoint.
const KEY: &str = "evenkeel run";
/// Bytes of a safetensors file in front of its header, which are its length.
const LENGTH: usize = 8;

/// The last save of a run, and what it says of the run: whatever a program has to keep beside the
/// state, such as its options and a [`Fingerprint`](super::Fingerprint) of the data.
#[derive(Clone, Debug)]
pub struct Saved<A> {
    /// Weights, moments, states, counters. Where batches are drawn by seed and step, the step is
    /// also the position in the data.
    pub checkpoint: Checkpoint,
    /// What the run is.
    pub about: A,
}

impl<A: Serialize + DeserializeOwned> Saved<A> {
    /// Writes one file that any reader of safetensors reads. The save before is kept as `previous`.
    /// A crash at any moment leaves both whole.
    ///
    /// # Errors
    /// [`Error::File`]; the earlier saves are as they were.
    pub fn write(
        weights: &Path,
        previous: &Path,
        checkpoint: &Checkpoint,
        about: &A,
    ) -> Result<()> {
        let bytes = with_about(&checkpoint.to_bytes(), about)?;
        file::replace_and_keep(weights, &bytes, previous)
    }

    /// Writes such a file in another place than that of the last save.
    ///
    /// # Errors
    /// [`Error::File`]; what was there is as it was.
    pub fn write_copy(path: &Path, checkpoint: &Checkpoint, about: &A) -> Result<()> {
        file::replace(path, &with_about(&checkpoint.to_bytes(), about)?)
    }

    /// The last save, or the one before where the last cannot be read, which is said. `None` where
    /// there is neither.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::File`] where none of them can be read.
    pub fn read(weights: &Path, previous: &Path) -> Result<Option<Self>> {
        let last = Self::read_one(weights);
        if let Ok(Some(saved)) = last {
            return Ok(Some(saved));
        }
        match Self::read_one(previous) {
            Ok(Some(saved)) => {
                let reason = match last {
                    Err(error) => error.to_string(),
                    Ok(_) => format!("{} is not there", weights.display()),
                };
                let steps = saved.checkpoint.steps();
                warn(format!("{reason}; going on from the save before it, at step {steps}"));
                Ok(Some(saved))
            }
            _ => last,
        }
    }

    /// The save in one file; `None` where it is not there.
    ///
    /// # Errors
    /// [`Error::File`] for one that cannot be read, or is no save of such a run.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        Self::read_one(path)
    }

    /// The steps until a save, and what it says of its run, without reading its tensors.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::ModelFile`] for a file that cannot be read, or is no save of
    /// such a run.
    pub fn peek(path: &Path) -> Result<(u64, A)> {
        let file = SafetensorsFile::open(path)?;
        let metadata = file.metadata();
        let steps = metadata.get("steps").and_then(|steps| steps.parse().ok());
        let about = metadata.get(KEY).and_then(|about| serde_json::from_str(about).ok());
        steps.zip(about).ok_or_else(|| Error::File {
            path: path.to_owned(),
            reason: "it does not say which run it is a save of; it was not made by one".to_owned(),
        })
    }

    fn read_one(path: &Path) -> Result<Option<Self>> {
        let refuse = |reason: String| Error::File { path: path.to_owned(), reason };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(format!("the save cannot be read: {error}"))),
        };
        let checkpoint =
            Checkpoint::from_bytes(&bytes).map_err(|error| refuse(error.to_string()))?;
        let about = header(&bytes).and_then(|(header, _)| {
            let about = header.get("__metadata__")?.get(KEY)?.as_str()?;
            serde_json::from_str(about).ok()
        });
        let about = about.ok_or_else(|| {
            refuse("the checkpoint does not say which run it is of; it was not made by one".into())
        })?;
        Ok(Some(Self { checkpoint, about }))
    }
}

/// The header of a safetensors file, and where it ends.
fn header(bytes: &[u8]) -> Option<(Map<String, Value>, usize)> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<LENGTH>()?);
    let end = LENGTH.checked_add(usize::try_from(length).ok()?)?;
    let header = serde_json::from_slice(bytes.get(LENGTH..end)?).ok()?;
    Some((header, end))
}

/// Adds an entry to the metadata of a safetensors file.
fn with_about(bytes: &[u8], about: &impl Serialize) -> Result<Vec<u8>> {
    let unusable = |reason: &str| Error::Checkpoint { reason: reason.to_owned() };
    let (mut header, end) = header(bytes).ok_or_else(|| unusable("it has no header"))?;
    let metadata = header.entry("__metadata__").or_insert_with(|| Value::Object(Map::new()));
    let metadata = metadata.as_object_mut().ok_or_else(|| unusable("its metadata are none"))?;
    let about = serde_json::to_string(about).expect("options and text are JSON");
    metadata.insert(KEY.to_owned(), about.into());
    let mut text = serde_json::to_vec(&header).expect("JSON");
    // Data begin at a multiple of eight.
    text.resize(text.len().next_multiple_of(LENGTH), b' ');
    let length = (text.len() as u64).to_le_bytes();
    Ok([&length[..], &text, &bytes[end..]].concat())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use safetensors::{Dtype, SafeTensors, tensor::TensorView};
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct About {
        steps: usize,
        text: String,
    }

    fn about(steps: usize) -> About {
        About { steps, text: "ab\"".into() }
    }

    /// As a trainer's, with one tensor.
    fn checkpoint(steps: u64) -> Checkpoint {
        let data = bytemuck::cast_slice(&[1.5_f32, -2.0, 3.0]);
        let view = TensorView::new(Dtype::F32, vec![3], data).expect("a tensor");
        let steps = steps.to_string();
        let info = [
            ("format", "evenkeel checkpoint 2"),
            ("steps", &steps),
            ("seed", "1"),
            ("learning rate factor", "1"),
            ("loss scale", "static"),
            ("model", ""),
            ("optimizer", "SGD"),
            ("moments", ""),
            ("weights", "f32"),
            ("parameters", "weight"),
            ("frozen", ""),
        ];
        let info: HashMap<_, _> = info.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let bytes = safetensors::serialize([("weight", view)], Some(info)).expect("a file");
        Checkpoint::from_bytes(&bytes).expect("a checkpoint")
    }

    #[test]
    fn a_save_is_a_checkpoint_that_says_what_it_is_of() {
        let bytes = with_about(&checkpoint(7).to_bytes(), &about(9)).expect("a file");
        let read = SafeTensors::deserialize(&bytes).expect("safetensors");
        let weight = read.tensor("weight").expect("there");
        let expected: &[u8] = bytemuck::cast_slice(&[1.5_f32, -2.0, 3.0]);
        assert_eq!((weight.shape(), weight.data()), (&[3][..], expected));
        let checkpoint = Checkpoint::from_bytes(&bytes).expect("a checkpoint");
        assert_eq!(checkpoint.steps(), 7);
        // Another program's data begin where it may want them aligned.
        assert_eq!(u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes")) % 8, 0);
    }

    #[test]
    fn the_save_before_serves_where_the_last_is_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let [weights, previous] = ["last", "previous"].map(|name| folder.path().join(name));
        let read = || Saved::<About>::read(&weights, &previous);
        assert!(read().expect("nothing is wrong").is_none());
        for steps in [3, 6, 9] {
            let bytes = with_about(&checkpoint(steps).to_bytes(), &about(9)).expect("a file");
            file::replace_and_keep(&weights, &bytes, &previous).expect("written");
        }
        let saved = read().expect("readable").expect("there");
        assert_eq!((saved.checkpoint.steps(), &saved.about), (9, &about(9)));
        let (steps, said) = Saved::<About>::peek(&previous).expect("a save");
        assert_eq!((steps, said), (6, about(9)));
        assert!(Saved::<About>::open(&folder.path().join("none")).expect("no error").is_none());

        let whole = fs::read(&weights).expect("there");
        for length in [0, 7, 40, whole.len() - 1] {
            fs::write(&weights, &whole[..length]).expect("written");
            let saved = read().expect("the one before").expect("there");
            assert_eq!((saved.checkpoint.steps(), &saved.about), (6, &about(9)), "{length}");
        }
        fs::remove_file(&weights).expect("removed");
        assert_eq!(read().expect("readable").expect("there").checkpoint.steps(), 6);

        // A checkpoint by itself is not a run.
        fs::remove_file(&previous).expect("removed");
        fs::write(&weights, checkpoint(1).to_bytes()).expect("written");
        let error = read().expect_err("not a run").to_string();
        assert!(error.contains("does not say which run"), "{error}");
    }
}
