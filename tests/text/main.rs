//! Tokenizers, chat templates and examples to learn from, against tokenizers and transformers.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod chats;
mod expected;
mod faults;
mod gguf;
mod learning;
#[cfg(not(target_arch = "wasm32"))]
mod on_disk;
mod tokenizers;

use chats::*;
use faults::*;
use gguf::*;
use learning::*;
use tokenizers::*;

tests! {
    ids_are_those_of_tokenizers,
    special_tokens_are_those_of_the_folder,
    texts_are_decoded_as_tokenizers_does,
    streams_give_the_text_of_all_tokens,
    streams_give_whole_characters_as_soon_as_they_are_there,
    streams_go_on_with_a_prompt,
    long_texts_are_split_in_time,
    whitespace_that_patterns_give_up_on_is_refused,
    vocabularies_must_fit_the_model,
    chats_are_rendered_as_transformers_does,
    times_are_written_as_python_does,
    templates_are_chosen_by_name,
    refusals_are_the_templates_own_words,
    answers_count_and_nothing_else,
    marks_say_what_counts,
    weights_leave_answers_out,
    completions_count_behind_their_prompts,
    texts_end,
    long_lines_are_cut_and_reported,
    lines_are_read_strictly,
    answers_that_cannot_be_told_are_refused,
    damaged_folders_are_named,
    tokenizers_of_gguf_are_those_of_their_folders,
    splitting_as_gpt2_does_is_read,
    tokenizers_of_gguf_that_are_not_known_are_named,
    tokenizers_of_folders_are_described,
    tokenizers_that_gguf_cannot_say_are_named,
}
