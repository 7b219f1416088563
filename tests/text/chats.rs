//! Chats as transformers renders them.

use std::collections::BTreeMap;

use evenkeel::text::{ChatOptions, Conversation, LossOn, Supervision, Tokenizer};
use serde_json::Value;

use super::expected::{assert_same, expected, files, ids, tokenizer, with_template};

fn options(case: &Value) -> ChatOptions {
    let variables = case["variables"].as_object().expect("an object").clone();
    ChatOptions {
        add_generation_prompt: case["add_generation_prompt"].as_bool().expect("a switch"),
        variables: variables.into_iter().collect(),
        now: case["now"].as_i64(),
    }
}

pub fn chats_are_rendered_as_transformers_does() {
    let all = expected();
    let (mut masks, mut refused) = (0, 0);
    for case in all["chats"].as_array().expect("a list") {
        let text = |field: &str| case[field].as_str().expect("a text");
        let name = text("name");
        let tokenizer = with_template(text("tokenizer"), text("template"));
        let chat = Conversation::from_json(text("conversation")).expect("a conversation");
        let rendered = tokenizer.render_chat(&chat, &options(case));
        if let Some(reason) = case["error"].as_str() {
            let error = rendered.expect_err("refused").to_string();
            let is_named = error.contains(reason) || error.contains("undefined value");
            assert!(is_named, "{name}: {error:?} and not {reason:?}");
            refused += 1;
            continue;
        }
        assert_same(name, &rendered.expect("a text"), text("text"));
        let found = tokenizer.encode_chat(&chat, &options(case)).expect("ids");
        assert_eq!(found, ids(&case["ids"]), "{name}");
        if let Some(mask) = case.get("mask").filter(|_| !options(case).add_generation_prompt) {
            let mut mask: Vec<_> = ids(mask).into_iter().map(|counts| counts == 1).collect();
            mask[0] = false;
            assert_eq!(counts(&tokenizer, &chat), mask, "{name}");
            masks += 1;
        }
    }
    assert_eq!((masks, refused), (4, 4));
}

fn counts(tokenizer: &Tokenizer, chat: &Conversation) -> Vec<bool> {
    let supervision = Supervision { loss_on: LossOn::Answers, ..Supervision::default() };
    let example = evenkeel::text::Example::Conversation(chat.clone());
    supervision.encode(tokenizer, &example).expect("a sample").counts
}

pub fn times_are_written_as_python_does() {
    let all = expected();
    let chat = Conversation::new().with("user", "x");
    let tokenizer = with_template("gpt2", "{{ strftime_now(format) }}");
    for moment in all["moments"].as_array().expect("a list") {
        let format = moment["format"].clone();
        let options = ChatOptions {
            variables: BTreeMap::from([("format".to_owned(), format.clone())]),
            now: moment["seconds"].as_i64(),
            ..ChatOptions::default()
        };
        let found = tokenizer.render_chat(&chat, &options).expect("a text");
        let what = format!("{} at {:?}", format, options.now);
        assert_same(&what, &found, moment["text"].as_str().expect("a text"));
    }
    let today = with_template("gpt2", "{{ strftime_now('%Y') | int > 2024 }}");
    assert_eq!(today.render_chat(&chat, &ChatOptions::default()).expect("a text"), "True");
    let unknown = with_template("gpt2", "{{ strftime_now('%Q') }}");
    let error = unknown.render_chat(&chat, &ChatOptions::default()).expect_err("unknown");
    assert!(error.to_string().contains("strftime has no %Q"), "{error}");
}

pub fn templates_are_chosen_by_name() {
    let chat = Conversation::new().with("user", "x");
    let with_tools = Conversation::from_json(
        r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}"#,
    );
    let with_tools = with_tools.expect("a conversation");
    let render = |tokenizer: &Tokenizer, chat: &Conversation| {
        tokenizer.render_chat(chat, &ChatOptions::default()).expect("a text")
    };
    let with = |name: &str, contents: &str| {
        let mut files = files("gpt2");
        files.insert(name.to_owned(), contents.as_bytes().to_vec());
        files
    };

    let plain = with("tokenizer_config.json", r#"{"chat_template": "one {{ tools is none }}"}"#);
    let plain = Tokenizer::from_files(&plain).expect("a tokenizer");
    assert_eq!(render(&plain, &chat), "one True");
    assert_eq!(render(&plain, &with_tools), "one False");

    let config = r#"{"chat_template": [{"name": "default", "template": "a {{ bos_token }}"},
        {"name": "tool_use", "template": "b"}], "bos_token": "<|im_start|>"}"#;
    let mut several = with("tokenizer_config.json", config);
    let named = Tokenizer::from_files(&several).expect("a tokenizer");
    assert_eq!(render(&named, &chat), "a <|im_start|>");
    assert_eq!(render(&named, &with_tools), "b");
    let of_name = named.chat_template("tool_use").expect("a template");
    assert_eq!(of_name.render(&chat, &ChatOptions::default()).expect("a text"), "b");

    // Files come before the configuration.
    several.insert("chat_template.jinja".to_owned(), b"file {{ bos_token }}\n".to_vec());
    several.insert("additional_chat_templates/rag.jinja".to_owned(), b"rag".to_vec());
    let from_files = Tokenizer::from_files(&several).expect("a tokenizer");
    assert_eq!(render(&from_files, &with_tools), "file <|im_start|>");
    assert!(from_files.chat_template("rag").is_some());
    assert!(from_files.chat_template("tool_use").is_none());

    let none = tokenizer("gpt2").render_chat(&chat, &ChatOptions::default()).expect_err("none");
    assert!(none.to_string().contains("has no default chat template"), "{none}");
}

pub fn refusals_are_the_templates_own_words() {
    let chat = Conversation::new().with("user", "x");
    let refusal = |template: &str| {
        let tokenizer = with_template("gpt2", template);
        tokenizer.render_chat(&chat, &ChatOptions::default()).expect_err("refused").to_string()
    };
    let error = refusal("{{ raise_exception('Only robots may speak') }}");
    assert_eq!(error, "the chat template: it refuses the conversation: Only robots may speak");
    let error = refusal("{% macro m() %}{{ raise_exception('within') }}{% endmacro %}{{ m() }}");
    assert!(error.ends_with("it refuses the conversation: within"), "{error}");
    let error = refusal("one\n{{ messages[0].nothing.at_all }}");
    assert!(error.contains("chat_template:2"), "{error}");
    assert!(refusal("{{ messages | nope }}").contains("unknown filter"));

    let mut tokenizer = tokenizer("gpt2");
    let error = tokenizer.set_chat_template("a\nb {% if %}").expect_err("no template").to_string();
    assert!(error.starts_with("chat_template.jinja: ") && error.contains(":2"), "{error}");
}
