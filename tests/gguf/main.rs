//! Models in GGUF files: containers, blocks, configurations, names.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

#[path = "../hugging_face/folders.rs"]
#[allow(dead_code, reason = "the functions of its tests")]
mod folders;
#[path = "../hugging_face/models.rs"]
#[allow(dead_code, reason = "the models of its tests")]
mod models;
#[path = "../hugging_face/tensors.rs"]
#[allow(dead_code, reason = "the tensors of its tests")]
mod tensors;

mod blocks;
mod containers;
mod converted;
#[cfg(not(target_arch = "wasm32"))]
mod damaged;
mod faults;
mod kept;
mod same_models;
mod settings;
mod writer;
mod written;

use blocks::*;
use containers::*;
use faults::*;
use kept::*;
use same_models::*;
use settings::*;
use written::*;

tests! {
    blocks_are_the_numbers_of_ggml,
    what_another_writer_wrote_is_read,
    tokenizers_that_do_not_fit_are_named,
    both_versions_and_all_alignments_are_read,
    what_no_container_has_is_named,
    lists_in_lists_are_read,
    configurations_are_those_of_the_folder,
    windows_and_scalings_are_read,
    what_is_not_here_is_named_with_its_value,
    tensors_and_logits_are_those_of_the_folder,
    files_become_folders,
    files_are_those_of_the_converter,
    all_bits_come_back,
    models_of_transformers_come_back,
    matrices_are_written_in_blocks,
    tokenizers_are_written,
    what_llama_cpp_does_not_have_is_named,
    blocks_are_loaded_row_by_row,
    numbers_become_the_blocks_of_ggml,
    blocks_of_the_format_stay_and_others_are_made_of_their_numbers,
    all_that_is_wrong_is_named_and_nothing_changes,
}
