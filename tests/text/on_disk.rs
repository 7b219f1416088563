//! Files of the disk, which pages have not.

use std::fs;

use evenkeel::text::{ChatOptions, Conversation, Examples, Tokenizer};

use super::expected::files;

#[test]
fn folders_are_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Tokenizer::open(folder.path()).expect_err("empty").to_string();
    assert!(error.starts_with("tokenizer.json: there is none in the folder"), "{error}");
    for (name, contents) in files("llama3") {
        fs::write(folder.path().join(name), contents).expect("written");
    }
    let templates = folder.path().join("additional_chat_templates");
    fs::create_dir(&templates).expect("made");
    fs::write(templates.join("tool_use.jinja"), "tools").expect("written");
    fs::write(templates.join("notes.txt"), "{% no template").expect("written");
    fs::write(folder.path().join("chat_template.jinja"), "{{ bos_token }}").expect("written");

    let opened = Tokenizer::open(folder.path()).expect("a tokenizer");
    let in_memory = Tokenizer::from_files(&files("llama3")).expect("a tokenizer");
    assert_eq!(opened.special(), in_memory.special());
    let encode = |tokenizer: &Tokenizer| tokenizer.encode("a keel, even", true).expect("ids");
    assert_eq!(encode(&opened), encode(&in_memory));
    let chat = Conversation::new().with("user", "x");
    let text = opened.render_chat(&chat, &ChatOptions::default()).expect("a text");
    assert_eq!(text, "<|begin_of_text|>");
    assert!(opened.chat_template("tool_use").is_some());

    let alone = fs::read(folder.path().join("tokenizer.json")).expect("read");
    let alone = Tokenizer::from_bytes(&alone).expect("a tokenizer");
    assert_eq!(encode(&alone), encode(&opened));
    assert_eq!((alone.special().eos, alone.chat_template("default").is_none()), (None, true));
}

#[test]
fn lines_are_read_from_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines.jsonl");
    fs::write(&path, "\u{feff}{\"text\": \"one\"}\r\n{\"text\": 2}\r\n").expect("written");
    let error = Examples::read(&path).expect_err("no text").to_string();
    assert!(error.contains("lines.jsonl, line 2: its text is no text"), "{error}");
    fs::write(&path, "\u{feff}{\"text\": \"one\"}\r\n").expect("written");
    assert_eq!(Examples::read(&path).expect("examples").examples().len(), 1);
    assert!(Examples::read(folder.path()).is_err());
}
