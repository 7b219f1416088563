//! What is at a path, and what it says of itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::hugging_face::{Config, SafetensorsFile};
use evenkeel::nn::GptConfig;
use evenkeel::run::history::read_records;
use evenkeel::text::Tokenizer;
use evenkeel::watch::scalar;
use evenkeel::{Error, Result, gguf};
use serde_json::{Value, json};

use super::Found;
use super::tensors::Files;
use crate::report::METRICS;

type Facts = Vec<(&'static str, Value)>;

/// Looks at a path, and reads what is in its files but no numbers.
pub fn open(path: &Path) -> Result<Found> {
    let refuse = |reason: &str| Error::File { path: path.to_owned(), reason: reason.to_owned() };
    if path.is_dir() {
        let has = |name: &str| path.join(name).is_file();
        return if has("adapter_config.json") {
            adapter(path)
        } else if has("config.json") {
            model(path)
        } else if has(METRICS) || has("checkpoint.safetensors") {
            run(path)
        } else if !safetensors(path)?.is_empty() {
            let facts = vec![("note", json!("no config.json, no records: files of tensors alone"))];
            Ok(Found { kind: "tensors", facts, files: opened(path, safetensors(path)?)? })
        } else {
            Err(refuse(
                "this folder has none of config.json (a model), adapter_config.json (an adapter), \
                 metrics.jsonl (a run) and .safetensors files",
            ))
        };
    }
    if !path.is_file() {
        return Err(refuse("there is no file and no folder with this name"));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => gguf_file(path),
        Some("safetensors") => tensors_alone(path),
        _ => Err(refuse("files with names that end with .gguf or .safetensors are looked into")),
    }
}

/// The safetensors files of a folder, in the order of their names.
fn safetensors(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| Error::File {
        path: folder.to_owned(),
        reason: format!("cannot be read: {error}"),
    })?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    Ok(files)
}

fn opened(folder: &Path, files: Vec<PathBuf>) -> Result<Files> {
    let open = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        Ok((name, SafetensorsFile::open(path)?))
    };
    Ok(Files::Safetensors(files.into_iter().map(open).collect::<Result<_>>()?))
}

/// The JSON of a file as it is.
fn fields(path: &Path) -> Result<Value> {
    let failed = |reason: String| Error::File { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    serde_json::from_str(&text).map_err(|error| failed(format!("it is no JSON: {error}")))
}

fn of_gpt(gpt: &GptConfig) -> Facts {
    vec![
        ("layers", gpt.layers.into()),
        ("width", gpt.width.into()),
        ("hidden", gpt.hidden.into()),
        ("heads", gpt.heads.into()),
        ("kv_heads", gpt.kv_heads.into()),
        ("head_dim", gpt.head_dim().into()),
        ("vocabulary", gpt.vocabulary.into()),
        ("context", gpt.context.into()),
        ("tied_head", gpt.tied_head.into()),
    ]
}

fn of_tokenizer(tokenizer: Result<Tokenizer>, gpt: Option<&GptConfig>) -> Facts {
    let fits = tokenizer.and_then(|tokenizer| {
        gpt.map_or(Ok(()), |gpt| tokenizer.check(gpt))?;
        Ok(tokenizer)
    });
    match fits {
        Ok(tokenizer) => vec![
            ("tokenizer", tokenizer.size().into()),
            ("chat_template", tokenizer.chat_template("default").is_some().into()),
        ],
        Err(error) => vec![("tokenizer", format!("cannot be used: {error}").into())],
    }
}

fn model(path: &Path) -> Result<Found> {
    let file = path.join("config.json");
    let raw = fields(&file)?;
    let config = Config::from_json(&raw.to_string());
    let mut facts = match &config {
        Ok(config) => {
            let family = ("family", config.family().to_string().into());
            [vec![family], of_gpt(&config.gpt)].concat()
        }
        // What is not known here has tensors too.
        Err(error) => vec![
            ("family", raw.get("model_type").cloned().unwrap_or(Value::Null)),
            ("note", format!("not a model that runs here: {error}").into()),
        ],
    };
    let gpt = config.as_ref().ok().map(|config| &config.gpt);
    facts.extend(of_tokenizer(Tokenizer::open(path), gpt));
    Ok(Found { kind: "model", facts, files: opened(path, safetensors(path)?)? })
}

fn adapter(path: &Path) -> Result<Found> {
    let raw = fields(&path.join("adapter_config.json"))?;
    let names: [(&'static str, &str); 8] = [
        ("method", "peft_type"),
        ("rank", "r"),
        ("alpha", "lora_alpha"),
        ("dropout", "lora_dropout"),
        ("dora", "use_dora"),
        ("rs_lora", "use_rslora"),
        ("targets", "target_modules"),
        ("base_model", "base_model_name_or_path"),
    ];
    let fact = |(name, field): (&'static str, &str)| Some((name, raw.get(field)?.clone()));
    let facts = names.into_iter().filter_map(fact).collect();
    Ok(Found { kind: "adapter", facts, files: opened(path, safetensors(path)?)? })
}

fn gguf_file(path: &Path) -> Result<Found> {
    let file = gguf::File::open(path)?;
    let mut facts = vec![("family", file.config().family().to_string().into())];
    if let Some(gguf::Value::String(name)) = file.metadata().get("general.name") {
        facts.push(("name", name.clone().into()));
    }
    facts.extend(of_gpt(&file.config().gpt));
    let mut formats = BTreeMap::<_, usize>::new();
    for info in file.tensors().values() {
        *formats.entry(info.format().name()).or_default() += 1;
    }
    facts.push(("formats", json!(formats)));
    facts.extend(match file.tokenizer()? {
        Some(tokenizer) => of_tokenizer(Tokenizer::from_gguf(&tokenizer), Some(&file.config().gpt)),
        None => vec![("tokenizer", Value::Null)],
    });
    Ok(Found { kind: "GGUF file", facts, files: Files::Gguf(Box::new(file)) })
}

fn tensors_alone(path: &Path) -> Result<Found> {
    let file = SafetensorsFile::open(path)?;
    let checkpoint = of_checkpoint(&file);
    let kind = if checkpoint.is_some() { "checkpoint" } else { "safetensors file" };
    let plain = || {
        let said: Vec<_> = file.metadata().iter().collect();
        if said.is_empty() { Vec::new() } else { vec![("metadata", json!(file.metadata()))] }
    };
    let facts = checkpoint.unwrap_or_else(plain);
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Found { kind, facts, files: Files::Safetensors(vec![(name, file)]) })
}

/// What a checkpoint of a trainer says of itself, if the file is one.
fn of_checkpoint(file: &SafetensorsFile) -> Option<Facts> {
    let said = file.metadata();
    said.get("format").filter(|format| format.starts_with("evenkeel checkpoint"))?;
    let named = |name: &'static str, key: &str| Some((name, said.get(key)?.clone()));
    let all = [
        named("format", "format"),
        named("steps", "steps"),
        named("seed", "seed"),
        named("optimizer", "optimizer"),
        named("weights", "weights"),
        named("model", "model"),
    ];
    let filled = all.into_iter().flatten().filter(|(_, value)| !value.is_empty());
    let number = |value: String| value.parse::<u64>().map_or(json!(value), Value::from);
    Some(filled.map(|(name, value)| (name, number(value))).collect())
}

fn run(path: &Path) -> Result<Found> {
    let metrics = path.join(METRICS);
    let mut facts = Facts::new();
    if metrics.is_file() {
        let (mut steps, mut skipped, mut last) = (0u64, 0u64, None);
        let damaged = read_records(&metrics, |record| {
            steps += 1;
            skipped += u64::from(record.get(scalar::APPLIED) == Some(0.0));
            last = Some((record.step, record.get(scalar::LOSS)));
        });
        let damaged = damaged.map_err(|error| Error::File {
            path: metrics.clone(),
            reason: format!("cannot be read: {error}"),
        })?;
        facts.extend([("records", steps.into()), ("skipped_steps", skipped.into())]);
        if let Some((step, loss)) = last {
            facts.extend([("last_step", step.into()), ("last_loss", json!(loss))]);
        }
        if !damaged.is_empty() {
            facts.push(("damaged_lines", json!(damaged)));
        }
    }
    let files = opened(path, safetensors(path)?)?;
    if let Files::Safetensors(list) = &files {
        let checkpoint = |(name, file): &(String, SafetensorsFile)| {
            let facts = of_checkpoint(file)?.into_iter().filter(|(fact, _)| *fact != "model");
            let facts: BTreeMap<_, _> = facts.collect();
            Some((name.clone(), json!(facts)))
        };
        let all: BTreeMap<_, _> = list.iter().filter_map(checkpoint).collect();
        if !all.is_empty() {
            facts.push(("checkpoints", json!(all)));
        }
    }
    Ok(Found { kind: "run", facts, files })
}
