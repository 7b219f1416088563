//! Models of Hugging Face's transformers: configurations, names, folders in and out.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod configurations;
mod faults;
mod folders;
mod forward;
mod models;
#[cfg(not(target_arch = "wasm32"))]
mod on_disk;
mod tensors;
mod transformers;

use configurations::*;
use faults::*;
use folders::*;
use forward::*;
use transformers::*;

tests! {
    tensors_have_the_names_and_shapes_of_transformers,
    gpt2_is_read,
    llama_is_read,
    windows_are_read,
    qwen_and_gemma_are_read,
    what_is_not_here_is_named_with_its_value,
    only_what_differs_is_written,
    new_configurations_are_read_as_they_were_meant,
    what_is_loaded_comes_back_bit_by_bit,
    rows_are_where_the_model_has_them,
    every_storage_of_weights_is_loaded,
    all_that_is_wrong_is_named_and_nothing_changes,
    damaged_files_are_named,
    several_files_are_one_model,
    what_follows_from_the_configuration_is_passed_over,
    types_are_chosen,
    models_of_no_folder_are_written,
    a_run_begins_anew_with_what_was_loaded,
    loaded_models_compute_what_transformers_does,
    gpt2_is_that_of_transformers,
    llama_is_that_of_transformers,
    mistral_is_that_of_transformers,
    qwen2_is_that_of_transformers,
    qwen3_is_that_of_transformers,
    gemma2_is_that_of_transformers,
    gemma3_is_that_of_transformers,
    gemma2_is_with_the_kernels_of_hardware_adapters,
}
