//! The model in the form of a Hugging Face folder, written of the file's weights and read again.

use evenkeel::Precision;
use evenkeel::hugging_face::{Export, Folder};

use super::Real;
use super::predictions::loaded;
use super::support::{self, block_on};

/// A shard holds a part of the tensors.
const SHARD_BYTES: u64 = 200 << 20;

#[test]
fn a_folder_has_each_weight_of_the_file() {
    let Some(real) = Real::open() else { return };
    let Some(gpu) = support::exclusive_gpu() else { return };
    let config = real.file.config();
    let (_, of_file) = loaded(config.gpt.clone(), &gpu, &mut real.file.reader(|_| {}));
    let place = tempfile::tempdir().expect("a folder");
    let export = Export::new(config.clone(), Precision::F32).shard_bytes(SHARD_BYTES);
    block_on(export.save(&of_file, place.path())).unwrap_or_else(|error| panic!("{error}"));

    let folder = Folder::open(place.path()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(folder.config(), config);
    // The head is the table, which is written once.
    assert_eq!(folder.bytes(), 4 * of_file.count() as u64);
    let (_, of_folder) = loaded(folder.config().gpt.clone(), &gpu, &mut folder.reader(|_| {}));
    for name in of_file.names() {
        let bits = |weights: Vec<f32>| weights.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let [one, other] =
            [&of_file, &of_folder].map(|p| bits(block_on(p.read(name)).expect("read")));
        assert!(one == other, "{name}");
    }
}
