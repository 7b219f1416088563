//! A tokenizer out of the files of a folder.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::special::{SpecialTokens, read as read_special};
use super::template::{ChatTemplate, DEFAULT};
use crate::error::{Error, Result};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
pub(super) const CONFIG: &str = "config.json";
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// The folder of the templates that have names.
pub(super) const CHAT_TEMPLATES: &str = "additional_chat_templates";
const JINJA: &str = ".jinja";

/// The files that a tokenizer is made of, if they are there.
pub(super) const FILES: [&str; 6] =
    [TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, GENERATION_CONFIG, CONFIG, CHAT_TEMPLATE];

/// What belongs to a tokenizer in a folder, for this and for other programs; `config.json` belongs to
/// the model.
#[cfg(not(target_arch = "wasm32"))]
pub(super) const OWN_FILES: [&str; 9] = [
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    GENERATION_CONFIG,
    CHAT_TEMPLATE,
    "added_tokens.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.json",
];

/// The contents of files, by their names in the folder.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Special tokens by the names of their settings, such as `bos_token`.
pub(super) type Named = BTreeMap<String, String>;

/// Names of settings for tokens that stand for what is no text.
const MEDIA: [&str; 3] = ["image_token", "audio_token", "video_token"];

/// What is in a folder.
pub(super) struct Loaded {
    pub inner: Inner,
    pub special: SpecialTokens,
    pub media: BTreeSet<u32>,
    pub templates: BTreeMap<String, ChatTemplate>,
}

pub(super) fn invalid(file: &str, reason: impl Into<String>) -> Error {
    Error::ModelFile { file: file.to_owned(), reason: reason.into() }
}

/// The files of a tokenizer that are in a folder.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn read_folder(folder: &std::path::Path) -> Result<Files> {
    read_named(folder, &FILES)
}

/// All of these files that are in a folder, and its chat templates.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn read_named(folder: &std::path::Path, names: &[&str]) -> Result<Files> {
    use std::io::ErrorKind::NotFound;

    let failed = |path: &std::path::Path, error: &std::io::Error| Error::File {
        path: path.to_owned(),
        reason: format!("cannot be read: {error}"),
    };
    let mut files = Files::new();
    let mut take = |name: String| {
        let path = folder.join(&name);
        match std::fs::read(&path) {
            Ok(contents) => drop(files.insert(name, contents)),
            Err(error) if error.kind() == NotFound => {}
            Err(error) => return Err(failed(&path, &error)),
        }
        Ok(())
    };
    names.iter().try_for_each(|&name| take(name.to_owned()))?;
    let templates = folder.join(CHAT_TEMPLATES);
    let entries = match std::fs::read_dir(&templates) {
        Ok(entries) => entries,
        Err(error) if error.kind() == NotFound => return Ok(files),
        Err(error) => return Err(failed(&templates, &error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| failed(&templates, &error))?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(JINJA)) {
            take(format!("{CHAT_TEMPLATES}/{name}"))?;
        }
    }
    Ok(files)
}

pub(super) fn load(files: &Files) -> Result<Loaded> {
    let Some(tokenizer) = files.get(TOKENIZER) else {
        let reason = "there is none in the folder; save_pretrained of transformers makes one of a \
                      tokenizer.model or a vocab.json";
        return Err(invalid(TOKENIZER, reason));
    };
    let mut inner = parse(tokenizer)?;
    let config = object(files, TOKENIZER_CONFIG)?.unwrap_or_default();
    let map = object(files, SPECIAL_TOKENS_MAP)?.unwrap_or_default();
    let named = named(&map, &config)?;
    add_listed(&mut inner, &config)?;
    mark_special(&mut inner, &named)?;
    let generation = object(files, GENERATION_CONFIG)?;
    let model = object(files, CONFIG)?;
    let special = read_special(
        named,
        generation.as_ref(),
        model.as_ref(),
        |token| inner.token_to_id(token),
        |id| inner.id_to_token(id).is_some(),
    )?;
    let media = MEDIA.iter().filter_map(|&name| special.named.get(name));
    let media = media.filter_map(|token| inner.token_to_id(token)).collect();
    let templates = templates(files, &config, &special)?;
    Ok(Loaded { inner, special, media, templates })
}

/// A `tokenizer.json`. Truncation and padding are no business of a tokenizer's here.
pub(super) fn parse(contents: &[u8]) -> Result<Inner> {
    let failed = |error: tokenizers::Error| {
        invalid(TOKENIZER, format!("it is no tokenizer that is known: {error}"))
    };
    let mut inner = Inner::from_bytes(contents).map_err(failed)?;
    inner.with_truncation(None).map_err(failed)?;
    inner.with_padding(None);
    Ok(inner)
}

/// The fields of a JSON file, if it is there.
fn object(files: &Files, name: &str) -> Result<Option<Map<String, Value>>> {
    let Some(contents) = files.get(name) else { return Ok(None) };
    match serde_json::from_slice(contents) {
        Ok(Value::Object(fields)) => Ok(Some(fields)),
        Ok(_) => Err(invalid(name, "it is no JSON object")),
        Err(error) => Err(invalid(name, error.to_string())),
    }
}

/// The text of a token, which may stand alone or among its properties.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The special tokens that have names. What the configuration says, null too, comes before the map.
fn named(map: &Map<String, Value>, config: &Map<String, Value>) -> Result<Named> {
    let mut named = Named::new();
    for (file, fields) in [(SPECIAL_TOKENS_MAP, map), (TOKENIZER_CONFIG, config)] {
        let direct = fields.iter().filter(|(name, value)| {
            // `add_bos_token` and the like are switches.
            name.ends_with("_token") && !value.is_boolean()
        });
        let extra = fields.get("extra_special_tokens").and_then(Value::as_object);
        for (name, value) in direct.chain(extra.into_iter().flatten()) {
            if value.is_null() {
                named.remove(name);
            } else if let Some(token) = content(value) {
                named.insert(name.clone(), token.to_owned());
            } else {
                return Err(invalid(file, format!("{name} is {value}, which is no token")));
            }
        }
    }
    Ok(named)
}

/// Adds what the configuration lists and `tokenizer.json` does not have, or has otherwise.
fn add_listed(inner: &mut Inner, config: &Map<String, Value>) -> Result<()> {
    let Some(listed) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
        return Ok(());
    };
    let mut tokens = Vec::new();
    for (id, value) in listed {
        let (Ok(id), Some(token)) = (id.parse::<u32>(), content(value)) else {
            let reason = format!("added_tokens_decoder has {value} for {id:?}, which is no token");
            return Err(invalid(TOKENIZER_CONFIG, reason));
        };
        let flag = |name, default| value.get(name).and_then(Value::as_bool).unwrap_or(default);
        let special = flag("special", false);
        let token = AddedToken::from(token, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special));
        tokens.push((id, token));
    }
    tokens.sort_by_key(|&(id, _)| id);
    let known = inner.get_added_tokens_decoder();
    let new = tokens.iter().filter(|(id, token)| known.get(id) != Some(token));
    let new: Vec<_> = new.map(|(_, token)| token.clone()).collect();
    inner.add_tokens(new).map_err(|error| invalid(TOKENIZER_CONFIG, error.to_string()))?;
    for (id, token) in &tokens {
        let found = inner.token_to_id(&token.content);
        if found != Some(*id) {
            let found = found.map_or("none".to_owned(), |found| found.to_string());
            let reason = format!(
                "added_tokens_decoder has the id {id} for {:?}, and with {TOKENIZER} it is {found}; \
                 the two files do not belong together",
                token.content
            );
            return Err(invalid(TOKENIZER_CONFIG, reason));
        }
    }
    Ok(())
}

/// Lets tokens that have names be special ones: found whole in any text, left out on request.
fn mark_special(inner: &mut Inner, named: &Named) -> Result<()> {
    let known = inner.get_added_tokens_decoder();
    let mark = |token: &String| {
        let id = inner.token_to_id(token)?;
        let new = AddedToken::from(token.clone(), true);
        Some(known.get(&id).map_or(new, |known| known.clone().special(true)))
    };
    let tokens: Vec<_> = named.values().filter_map(mark).collect();
    inner
        .add_special_tokens(tokens)
        .map(drop)
        .map_err(|error| invalid(TOKENIZER_CONFIG, error.to_string()))
}

/// All chat templates by name. Files of their own come before the configuration's.
fn templates(
    files: &Files,
    config: &Map<String, Value>,
    special: &SpecialTokens,
) -> Result<BTreeMap<String, ChatTemplate>> {
    let mut sources = BTreeMap::new();
    for (path, contents) in files {
        let additional = path.strip_prefix(CHAT_TEMPLATES).and_then(|name| name.strip_prefix('/'));
        let name = match additional.and_then(|name| name.strip_suffix(JINJA)) {
            Some(name) => name,
            None if path == CHAT_TEMPLATE => DEFAULT,
            None => continue,
        };
        let source = std::str::from_utf8(contents)
            .map_err(|error| invalid(path, format!("it is no UTF-8: {error}")))?;
        sources.insert(name, (path.as_str(), source));
    }
    if sources.is_empty() {
        match config.get("chat_template") {
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => {
                sources.insert(DEFAULT, (TOKENIZER_CONFIG, source.as_str()));
            }
            Some(Value::Array(list)) => {
                for entry in list {
                    let field = |name| entry.get(name).and_then(Value::as_str);
                    let (Some(name), Some(source)) = (field("name"), field("template")) else {
                        let reason = "an entry of chat_template has no name or no template";
                        return Err(invalid(TOKENIZER_CONFIG, reason));
                    };
                    sources.insert(name, (TOKENIZER_CONFIG, source));
                }
            }
            Some(_) => {
                let reason = "chat_template is neither a text nor a list of them";
                return Err(invalid(TOKENIZER_CONFIG, reason));
            }
        }
    }
    let template = |(name, (file, source)): (&str, (&str, &str))| -> Result<_> {
        Ok((name.to_owned(), ChatTemplate::in_file(file, source, special)?))
    };
    sources.into_iter().map(template).collect()
}
