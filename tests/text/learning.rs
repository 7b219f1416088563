//! Which tokens count for the loss.

use evenkeel::text::{
    Completions, Conversation, Example, Examples, LossOn, Sample, Supervision, Tokenizer,
};
use evenkeel::train::IGNORE;

use super::expected::{expected, tokenizer, with_template};

const TURNS: &str = r#"[{"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a keel?"},
    {"role": "assistant", "content": "The spine of a ship."},
    {"role": "user", "content": " And a hull? "},
    {"role": "assistant", "content": "Its body."}]"#;

/// A template of the fixtures.
fn template(name: &str) -> String {
    let all = expected();
    let chats = all["chats"].as_array().expect("a list");
    let case = chats.iter().find(|case| case["name"] == name).expect("a case");
    case["template"].as_str().expect("a text").to_owned()
}

fn chat(json: &str) -> Example {
    Example::Conversation(Conversation::from_json(json).expect("a conversation"))
}

fn supervision(loss_on: LossOn) -> Supervision {
    Supervision { loss_on, ..Supervision::default() }
}

/// The runs of tokens that count, as texts.
fn counted(tokenizer: &Tokenizer, sample: &Sample) -> Vec<String> {
    let mut runs: Vec<Vec<u32>> = Vec::new();
    for at in 0..sample.tokens.len() {
        match (sample.counts[at], at > 0 && sample.counts[at - 1]) {
            (false, _) => {}
            (true, true) => runs.last_mut().expect("a run").push(sample.tokens[at]),
            (true, false) => runs.push(vec![sample.tokens[at]]),
        }
    }
    runs.iter().map(|run| tokenizer.decode(run, false).expect("a text")).collect()
}

fn check_targets(sample: &Sample) {
    let (inputs, targets) = (sample.inputs(), sample.targets());
    assert_eq!((inputs.len(), targets.len()), (sample.tokens.len() - 1, sample.tokens.len() - 1));
    assert_eq!(inputs, &sample.tokens[..inputs.len()]);
    for (at, &target) in targets.iter().enumerate() {
        let expected = if sample.counts[at + 1] { sample.tokens[at + 1] } else { IGNORE };
        assert_eq!(target, expected, "{at}");
    }
    assert_eq!(sample.counted(), targets.iter().filter(|&&target| target != IGNORE).count());
}

pub fn answers_count_and_nothing_else() {
    for (folder, name, end) in [
        ("gpt2", "chatml", "<|im_end|>\n"),
        ("qwen2", "chatml", "<|im_end|>\n"),
        ("llama3", "headers", "<|eot_id|>"),
        ("gemma", "taking turns", "<end_of_turn>\n"),
    ] {
        let tokenizer = with_template(folder, &template(name));
        let encode = |loss_on| {
            let sample = supervision(loss_on).encode(&tokenizer, &chat(TURNS)).expect("a sample");
            check_targets(&sample);
            let text = tokenizer.decode(&sample.tokens, false).expect("a text");
            let options = evenkeel::text::ChatOptions::default();
            let Example::Conversation(chat) = chat(TURNS) else { unreachable!() };
            assert_eq!(text, tokenizer.render_chat(&chat, &options).expect("a text"), "{folder}");
            sample
        };
        let answers = [format!("The spine of a ship.{end}"), format!("Its body.{end}")];
        assert_eq!(counted(&tokenizer, &encode(LossOn::Answers)), answers, "{folder}");
        assert_eq!(counted(&tokenizer, &encode(LossOn::LastAnswer)), answers[1..], "{folder}");
        let all = encode(LossOn::All);
        assert_eq!(all.counted(), all.tokens.len() - 1, "{folder}");
        assert!(!all.counts[0]);
    }
    // Where earlier answers are rendered otherwise, the last one still can be told.
    let tokenizer = with_template("qwen2", &template("thinking"));
    let last = supervision(LossOn::LastAnswer).encode(&tokenizer, &chat(TURNS)).expect("a sample");
    assert_eq!(counted(&tokenizer, &last), ["<think>\n\n</think>\n\nIts body.<|im_end|>\n"]);
}

pub fn marks_say_what_counts() {
    let tokenizer = with_template("qwen2", &template("marked"));
    let encode = |loss_on, json: &str| {
        let sample = supervision(loss_on).encode(&tokenizer, &chat(json)).expect("a sample");
        check_targets(&sample);
        counted(&tokenizer, &sample)
    };
    let answers = ["The spine of a ship.<|im_end|>", "Its body.<|im_end|>"];
    assert_eq!(encode(LossOn::Answers, TURNS), answers);
    assert_eq!(encode(LossOn::LastAnswer, TURNS), answers[1..]);
    let left_out = TURNS.replace("ship.\"", "ship.\", \"weight\": 0");
    assert_eq!(encode(LossOn::Answers, &left_out), answers[1..]);

    // Marks in a conversation that holds what marks are made of would be taken for others.
    let odd = chat(r#"[{"role": "assistant", "content": "a\ufdd0b"}]"#);
    let error = supervision(LossOn::Answers).encode(&tokenizer, &odd).expect_err("odd").to_string();
    assert!(error.contains("U+FDD0"), "{error}");
    supervision(LossOn::All).encode(&tokenizer, &odd).expect("a sample");
    let hidden = "{% set x %}{% generation %}{{ messages[0].content }}{% endgeneration %}{% endset %}\
                  {{ x[1:] }}";
    let hiding = with_template("qwen2", hidden);
    let error = supervision(LossOn::Answers).encode(&hiding, &chat(TURNS)).expect_err("hidden");
    assert!(error.to_string().contains("hides where that lies"), "{error}");
}

pub fn weights_leave_answers_out() {
    let tokenizer = with_template("gpt2", &template("chatml"));
    let weighted = |first: u32, last: u32| {
        let json = TURNS
            .replace("ship.\"", &format!("ship.\", \"weight\": {first}"))
            .replace("body.\"", &format!("body.\", \"weight\": {last}"));
        let sample = supervision(LossOn::Answers).encode(&tokenizer, &chat(&json));
        counted(&tokenizer, &sample.expect("a sample"))
    };
    let answers = ["The spine of a ship.<|im_end|>\n", "Its body.<|im_end|>\n"];
    assert_eq!(weighted(1, 1), answers);
    assert_eq!(weighted(0, 1), answers[1..]);
    assert_eq!(weighted(1, 0), answers[..1]);
    assert!(weighted(0, 0).is_empty());
}

fn pair(prompt: &str, completion: &str) -> Example {
    Example::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
}

pub fn completions_count_behind_their_prompts() {
    for (folder, begin, end) in [
        ("gpt2", "", "<|im_end|>"),
        ("llama3", "<|begin_of_text|>", "<|eot_id|>"),
        ("gemma", "<bos>", "<eos>"),
    ] {
        let tokenizer = tokenizer(folder);
        let sample =
            supervision(LossOn::Answers).encode(&tokenizer, &pair("A keel?\n", "The spine."));
        let sample = sample.expect("a sample");
        check_targets(&sample);
        assert_eq!(counted(&tokenizer, &sample), [format!("The spine.{end}")], "{folder}");
        let text = tokenizer.decode(&sample.tokens, false).expect("a text");
        assert_eq!(text, format!("{begin}A keel?\nThe spine.{end}"), "{folder}");
        let all = supervision(LossOn::All).encode(&tokenizer, &pair("A keel?\n", "The spine."));
        assert_eq!(all.expect("a sample").counted(), sample.tokens.len() - 1);
    }
    // This one puts the end behind texts itself, which is not doubled.
    let llama2 = tokenizer("llama2");
    let sample = supervision(LossOn::Answers).encode(&llama2, &pair("A keel?", " The spine."));
    let sample = sample.expect("a sample");
    assert_eq!(counted(&llama2, &sample), ["The spine.</s>"]);
    assert_eq!(
        (sample.tokens[0], &sample.tokens[sample.tokens.len() - 2..]),
        (1, &[sample.tokens[sample.tokens.len() - 2], 2][..])
    );
    assert_ne!(sample.tokens[sample.tokens.len() - 2], 2);

    let chats = with_template("gpt2", &template("chatml"));
    let settings = Supervision { completions: Completions::Chat, ..Supervision::default() };
    let sample = settings.encode(&chats, &pair("A keel?", "The spine.")).expect("a sample");
    let same = r#"[{"role": "user", "content": "A keel?"},
        {"role": "assistant", "content": "The spine."}]"#;
    assert_eq!(sample, settings.encode(&chats, &chat(same)).expect("a sample"));
}

pub fn texts_end() {
    let gpt2 = tokenizer("gpt2");
    let encode = |text: &str| {
        let example = Example::Text(text.to_owned());
        supervision(LossOn::Answers).encode(&gpt2, &example).expect("a sample")
    };
    let sample = encode("A keel.");
    check_targets(&sample);
    assert_eq!(gpt2.decode(&sample.tokens, false).expect("a text"), "A keel.<|im_end|>");
    assert_eq!(sample.counted(), sample.tokens.len() - 1);
    assert_eq!(encode("A keel.<|im_end|>"), sample);
}

pub fn long_lines_are_cut_and_reported() {
    let tokenizer = with_template("gpt2", &template("chatml"));
    let lines = [
        r#"{"text": "A keel keeps a boat even."}"#,
        r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}"#,
        r#"{"prompt": "a prompt that is longer than the context is", "completion": " answer"}"#,
        r#"{"text": "short"}"#,
    ];
    let examples = Examples::parse("few.jsonl", lines.join("\n").as_bytes()).expect("examples");
    let all = |context| Supervision { context, ..Supervision::default() };
    let (whole, summary) = all(None).encode_all(&tokenizer, &examples).expect("samples");
    assert_eq!((whole.len(), summary.samples), (4, 4));
    assert!(summary.truncated.is_empty() && summary.left_out.is_empty());
    assert_eq!(summary.counted, whole.iter().map(Sample::counted).sum::<usize>());
    assert_eq!(summary.tokens, whole.iter().map(|sample| sample.inputs().len()).sum::<usize>());

    let (cut, summary) = all(Some(8)).encode_all(&tokenizer, &examples).expect("samples");
    let lengths: Vec<_> = whole.iter().map(|sample| sample.tokens.len()).collect();
    assert!(lengths[0] > 9 && lengths[1] > 9 && lengths[2] > 9 && lengths[3] < 9, "{lengths:?}");
    // The first begins as it did; of the second and third nothing that counts is left.
    assert_eq!(cut.len(), 2);
    assert_eq!((cut[0].inputs(), cut[0].counted()), (&whole[0].tokens[..8], 8));
    assert_eq!(cut[1], whole[3]);
    assert_eq!(summary.left_out, [2, 3]);
    let truncated: Vec<_> =
        summary.truncated.iter().map(|cut| (cut.line, cut.tokens, cut.kept)).collect();
    assert_eq!(truncated, [(1, lengths[0], 9), (2, lengths[1], 9), (3, lengths[2], 9)]);
    let lost: usize = summary.truncated.iter().map(|cut| cut.counted).sum();
    assert_eq!(lost + summary.counted, whole.iter().map(Sample::counted).sum::<usize>());
    let shown = summary.to_string();
    assert!(shown.starts_with("2 samples of "), "{shown}");
    assert!(shown.contains("3 cut to the context (line 1, 2, 3)"), "{shown}");
    assert!(shown.contains("2 left out, since nothing of them counts (line 2, 3)"), "{shown}");

    let only = Examples::parse("one.jsonl", lines[2].as_bytes()).expect("examples");
    let error = all(Some(8)).encode_all(&tokenizer, &only).expect_err("nothing").to_string();
    assert!(error.starts_with("one.jsonl: nothing in it counts for the loss"), "{error}");
    assert!(all(Some(0)).encode_all(&tokenizer, &only).is_err());
}
