//! What is refused, and what is said about it.

use evenkeel::text::{Conversation, Example, Examples, LossOn, Supervision, Tokenizer};

use super::expected::{expected, files, tokenizer, with_template};

pub fn lines_are_read_strictly() {
    let good = concat!(
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\", \"name\": \"n\"}]}\r\n",
        "{\"prompt\": \"p\", \"completion\": \"c\"}\n",
        "  {\"text\": \"t\"}  \n\n\n"
    );
    let examples = Examples::parse("good.jsonl", good.as_bytes()).expect("examples");
    assert_eq!(examples.name(), "good.jsonl");
    let [
        Example::Conversation(chat),
        Example::Completion { prompt, completion },
        Example::Text(text),
    ] = examples.examples()
    else {
        panic!("{examples:?}")
    };
    let [message] = chat.messages() else { panic!("{chat:?}") };
    assert_eq!((message.role(), message.content().as_deref()), ("user", Some("x")));
    assert_eq!((&**prompt, &**completion, &**text), ("p", "c", "t"));

    let refused = |line: &str, parts: &[&str]| {
        let text = format!("{{\"text\": \"first\"}}\n{line}\n{{\"text\": \"last\"}}\n");
        let error = Examples::parse("bad.jsonl", text.as_bytes()).expect_err(line).to_string();
        assert!(error.starts_with("bad.jsonl, line 2: "), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks one of {parts:?}");
    };
    refused("", &["it is empty"]);
    refused("{\"text\": \"a\"", &["it is no JSON", "column"]);
    refused("[]", &["no JSON object"]);
    refused("\"text\"", &["no JSON object"]);
    refused("{}", &["it has no \"prompt\"", "messages, prompt and completion, or text"]);
    refused(r#"{"text": "a", "source": "web"}"#, &["\"source\"", "not known here"]);
    refused(r#"{"text": "a", "prompt": "b"}"#, &["\"prompt\"", "not known here"]);
    refused(r#"{"text": ""}"#, &["its text is empty"]);
    refused(r#"{"text": 5}"#, &["its text is no text"]);
    refused(r#"{"prompt": "a"}"#, &["it has no \"completion\""]);
    refused(r#"{"prompt": [], "completion": "b"}"#, &["its prompt is no text", "messages"]);
    refused(r#"{"messages": [], "text": "a"}"#, &["\"text\"", "not known here"]);

    let message = |message: &str, parts: &[&str]| {
        let line =
            format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}, {message}]}}");
        refused(&line, &[&["message 2: "], parts].concat());
    };
    refused(r#"{"messages": []}"#, &["there are no messages"]);
    refused(r#"{"messages": {}}"#, &["messages is no list"]);
    refused(
        r#"{"messages": [{"role": "user", "content": "x"}], "tools": {}}"#,
        &["tools is no list"],
    );
    message("5", &["no JSON object"]);
    message(r#"{"content": "x"}"#, &["no role"]);
    message(r#"{"role": "", "content": "x"}"#, &["no role"]);
    message(r#"{"role": "user"}"#, &["no content"]);
    message(r#"{"role": "user", "content": null}"#, &["no content"]);
    message(r#"{"role": "user", "content": 5}"#, &["neither a text nor a list of parts"]);
    message(
        r#"{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}"#,
        &["\"image_url\"", "only text is read"],
    );
    message(r#"{"role": "user", "content": [{"type": "text"}]}"#, &["without a text"]);
    message(r#"{"role": "user", "content": "x", "colour": 1}"#, &["\"colour\"", "not known here"]);
    message(r#"{"role": "user", "content": "x", "weight": 1}"#, &["only answers have one"]);
    message(r#"{"role": "assistant", "content": "x", "weight": 2}"#, &["its weight is 2"]);

    let error = |contents: &[u8]| Examples::parse("x", contents).expect_err("bad").to_string();
    assert!(error(b"").contains("there are no lines"));
    assert!(error(b" \n\n").contains("there are no lines"));
    assert!(error(b"{\"text\": \"\xff\"}").contains("no UTF-8"));
    assert!(Conversation::from_json("{").is_err());
}

pub fn answers_that_cannot_be_told_are_refused() {
    let all = expected();
    let template = |name: &str| {
        let mut cases = all["chats"].as_array().expect("a list").iter();
        let case = cases.find(|case| case["name"] == name).expect("a case");
        case["template"].as_str().expect("a text").to_owned()
    };
    let encode = |tokenizer: &Tokenizer, lines: &str, loss_on| {
        let examples = Examples::parse("chats.jsonl", lines.as_bytes()).expect("examples");
        let supervision = Supervision { loss_on, ..Supervision::default() };
        supervision.encode_all(tokenizer, &examples)
    };
    let refused = |tokenizer: &Tokenizer, line: &str, loss_on, parts: &[&str]| {
        let lines = format!("{{\"text\": \"first\"}}\n{line}");
        let error = encode(tokenizer, &lines, loss_on).expect_err("refused").to_string();
        assert!(error.starts_with("chats.jsonl, line 2: "), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks one of {parts:?}");
    };
    let turns = |answer: &str, second: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "{answer}"}},
               {{"role": "user", "content": "b"}}, {{"role": "{second}", "content": "c"}}]}}"#
        )
        .replace('\n', "")
    };

    // The template puts reasoning before the last answer alone.
    let thinking = with_template("qwen2", &template("thinking"));
    let parts = ["with message 2", "otherwise when more follows", "the last answer alone"];
    refused(&thinking, &turns("x", "assistant"), LossOn::Answers, &parts);
    encode(&thinking, &turns("x", "assistant"), LossOn::LastAnswer).expect("samples");
    encode(&thinking, &turns("x", "assistant"), LossOn::All).expect("samples");

    // The end of the prompt and the beginning of the answer are one token.
    let lines = "{% for message in messages %}<start_of_turn>{{ message.role }}{{ '\\n' }}\
                 {{ message.content }}<end_of_turn>{% endfor %}\
                 {% if add_generation_prompt %}<start_of_turn>assistant{{ '\\n' }}{% endif %}";
    let joined = with_template("gemma", lines);
    assert_eq!(joined.encode("\n\n", false).expect("ids").len(), 1);
    let parts = ["before message 2", "in one token with it"];
    refused(&joined, &turns("\\nx", "assistant"), LossOn::Answers, &parts);
    encode(&joined, &turns("x", "assistant"), LossOn::Answers).expect("samples");
    let gpt2 = tokenizer("gpt2");
    assert_eq!(gpt2.encode(" assistant", false).expect("ids").len(), 1);
    let pair = r#"{"prompt": "The assist", "completion": "ant"}"#;
    refused(&gpt2, pair, LossOn::Answers, &["a prompt and its completion", "are one token"]);
    encode(&gpt2, pair, LossOn::All).expect("samples");

    let chatml = with_template("gpt2", &template("chatml"));
    let asked = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    refused(&chatml, asked, LossOn::Answers, &["no message of the assistant"]);
    encode(&chatml, asked, LossOn::All).expect("samples");
    let parts = ["its last message is not of the assistant"];
    refused(&chatml, &turns("x", "user"), LossOn::LastAnswer, &parts);
    refused(&gpt2, asked, LossOn::All, &["no default chat template", "set_chat_template"]);
    let strict = with_template("gemma", &template("taking turns"));
    let parts = ["it refuses the conversation: Conversation roles must alternate"];
    refused(
        &strict,
        &turns("x", "user")
            .replace("\"user\", \"content\": \"b\"", "\"assistant\", \"content\": \"b\""),
        LossOn::Answers,
        &parts,
    );
}

pub fn damaged_folders_are_named() {
    let refused = |change: &dyn Fn(&mut super::expected::Files), parts: &[&str]| {
        let mut files = files("qwen2");
        change(&mut files);
        let error = Tokenizer::from_files(&files).expect_err("damaged").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks one of {parts:?}");
    };
    let put = |name: &'static str, contents: &'static str| {
        move |files: &mut super::expected::Files| {
            drop(files.insert(name.to_owned(), contents.as_bytes().to_vec()));
        }
    };
    refused(&|files| drop(files.remove("tokenizer.json")), &["tokenizer.json: there is none"]);
    refused(&put("tokenizer.json", "{}"), &["tokenizer.json: it is no tokenizer"]);
    refused(&put("tokenizer_config.json", "{"), &["tokenizer_config.json: EOF"]);
    refused(&put("tokenizer_config.json", "[]"), &["tokenizer_config.json: it is no JSON object"]);
    let config = r#"{"eos_token": "<|nowhere|>"}"#;
    refused(
        &put("tokenizer_config.json", config),
        &["eos_token is \"<|nowhere|>\"", "does not have"],
    );
    refused(&put("special_tokens_map.json", r#"{"pad_token": 5}"#), &["pad_token is 5"]);
    let config = r#"{"added_tokens_decoder": {"3": {"content": "<|new|>"}}}"#;
    refused(&put("tokenizer_config.json", config), &["id 3 for \"<|new|>\"", "do not belong"]);
    let config = r#"{"added_tokens_decoder": {"x": {"content": "<|new|>"}}}"#;
    refused(&put("tokenizer_config.json", config), &["added_tokens_decoder has", "\"x\""]);
    refused(
        &put("tokenizer_config.json", r#"{"chat_template": 5}"#),
        &["chat_template is neither"],
    );
    refused(
        &put("tokenizer_config.json", r#"{"chat_template": [{"name": "default"}]}"#),
        &["an entry of chat_template has no name or no template"],
    );
    refused(&put("chat_template.jinja", "{% for %}"), &["chat_template.jinja: its chat template"]);
    let ids = r#"{"eos_token_id": [1, 100000]}"#;
    refused(&put("generation_config.json", ids), &["eos_token_id has 100000", "no token"]);

    // Names in the map are of use where the configuration has none; -1 is no token.
    let mut files = files("qwen2");
    let config = r#"{"eos_token": null}"#;
    files.insert("tokenizer_config.json".to_owned(), config.as_bytes().to_vec());
    let map = r#"{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}"#;
    files.insert("special_tokens_map.json".to_owned(), map.as_bytes().to_vec());
    files.remove("generation_config.json");
    let ids = r#"{"eos_token_id": 5, "pad_token_id": -1}"#;
    files.insert("config.json".to_owned(), ids.as_bytes().to_vec());
    let tokenizer = Tokenizer::from_files(&files).expect("a tokenizer");
    let special = tokenizer.special();
    assert_eq!(special.bos, tokenizer.id("<|im_start|>"));
    assert_eq!((special.eos, special.pad, &*special.stops), (Some(5), None, &[5][..]));
}
