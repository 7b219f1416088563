//! Low-rank adapters: how they train, how PEFT's folders come in and go out, and what they compute
//! beside PEFT.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod files;
mod models;
mod peft;
mod settings;
mod training;

use blocks::*;
use files::*;
use peft::*;
use settings::*;
use training::*;

tests! {
    targets_choose_modules,
    settings_that_make_no_sense_are_named,
    initial_values_follow_from_names,
    a_model_begins_as_its_base,
    gradients_are_those_of_the_graph_in_f64,
    gradients_are_finite_differences,
    the_base_keeps_its_bits_and_costs_nothing,
    dropout_is_in_training_alone,
    a_run_goes_on_from_a_checkpoint,
    half_precision_starts_at_a_low_loss_scale,
    magnitudes_start_as_the_norms_of_what_was_loaded,
    adapters_come_back_bit_by_bit,
    adapters_of_no_folder_are_opened_again,
    fields_that_ask_for_what_is_not_here_are_named,
    tensors_that_do_not_belong_are_named,
    weights_beside_an_adapted_embedding_are_taken,
    merged_models_compute_the_same,
    what_cannot_be_merged_is_named,
    lora_of_llama_is_that_of_peft,
    rank_stabilised_lora_of_llama_is_that_of_peft,
    dora_of_llama_is_that_of_peft,
    lora_of_gpt2_is_that_of_peft,
    dora_of_gpt2_is_that_of_peft,
    adapters_of_embedding_and_head_are_those_of_peft,
    training_beside_blocks_is_training_beside_their_numbers,
    blocks_take_the_bytes_of_their_format,
    blocks_come_back_from_a_checkpoint_bit_by_bit,
    models_are_quantized_as_they_are_read_and_written_as_numbers,
    adapters_are_merged_into_the_numbers_of_blocks,
    half_precision_reads_blocks,
    blocks_that_cannot_be_are_named,
}
