//! The session as JavaScript sees it: promises, typed arrays, plain objects.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use evenkeel::hugging_face::ReadAt;
use evenkeel::{Error, Gpu};
use evenkeel_browser_shared::js::{self, Result, get, number, object, to_js};
use js_sys::{Array, Function, JSON, Object, Uint8Array};
use wasm_bindgen::prelude::*;

use crate::{ChatSettings, Disturbance, ModelFiles, Session, Settings};

/// `{size, read(start, end)}`: a file that is read piece by piece.
#[derive(Debug)]
struct JsFile {
    this: JsValue,
    read: Function,
    size: u64,
}

impl JsFile {
    fn new(this: JsValue) -> Result<Self> {
        let size = number(&this, "size")? as u64;
        let read = get(&this, "read")?.dyn_into()?;
        Ok(Self { this, read, size })
    }
}

impl ReadAt for JsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let [start, end] = [range.start, range.end].map(|at| JsValue::from_f64(at as f64));
        let bytes = self.read.call2(&self.this, &start, &end).map_err(|error| {
            let message = error.dyn_ref::<js_sys::Error>().map(|error| error.message());
            io::Error::other(message.map_or_else(|| format!("{error:?}"), String::from))
        })?;
        Ok(Uint8Array::new(&bytes).to_vec())
    }
}

/// Names and values of a plain object.
fn entries(object: &JsValue) -> Result<Vec<(String, JsValue)>> {
    let names = Object::keys(object.unchecked_ref::<Object>()).into_iter();
    let names = names.filter_map(|name| name.as_string());
    names.map(|name| get(object, &name).map(|value| (name, value))).collect()
}

fn model_files(model: &JsValue) -> Result<ModelFiles> {
    let file = |(name, value)| Ok((name, Box::new(JsFile::new(value)?) as Box<dyn ReadAt>));
    entries(model)?.into_iter().map(file).collect()
}

fn data_files(data: &JsValue) -> Result<BTreeMap<String, Vec<u8>>> {
    let file = |(name, value): (String, JsValue)| (name, Uint8Array::new(&value).to_vec());
    Ok(entries(data)?.into_iter().map(file).collect())
}

/// Settings as JSON; what is undefined is not there.
fn json(settings: &JsValue) -> Result<String> {
    if settings.is_undefined() {
        return Ok("{}".to_owned());
    }
    Ok(JSON::stringify(settings)?.into())
}

/// Panics are shown on the console.
#[wasm_bindgen(start)]
fn start() {
    js::show_panics();
}

/// A run that tunes a model; see [`Session`].
#[wasm_bindgen(js_name = Finetune)]
#[derive(Debug)]
pub struct WebSession(Session);

#[wasm_bindgen(js_class = Finetune)]
impl WebSession {
    /// Opens a model (`{name: {size, read(start, end)}}`) and data (`{name: Uint8Array}`), and builds
    /// a run on a device.
    pub async fn open(model: JsValue, data: JsValue, settings: JsValue) -> Result<WebSession> {
        let settings = Settings::from_json(&json(&settings)?).map_err(to_js)?;
        let (model, data) = (model_files(&model)?, data_files(&data)?);
        let gpu = Gpu::new().await.map_err(to_js)?;
        Ok(Self(Session::open(gpu, model, data, settings).await.map_err(to_js)?))
    }

    /// Names of the columns of `telemetry`.
    pub fn columns() -> Array {
        js::columns()
    }

    /// `{family, parameters, trained, bytes, examples, validationExamples, tokensPerStep, steps,
    /// notes, template, key}`.
    pub fn report(&self) -> Object {
        let report = self.0.report();
        let notes: Array = report.notes.iter().map(|note| JsValue::from_str(note)).collect();
        object(&[
            ("family", report.family.into()),
            ("parameters", (report.parameters as f64).into()),
            ("trained", (report.trained as f64).into()),
            ("bytes", (report.bytes as f64).into()),
            ("examples", (report.examples as f64).into()),
            ("validationExamples", (report.validation_examples as f64).into()),
            ("tokensPerStep", report.tokens_per_step.into()),
            ("steps", (report.steps as f64).into()),
            ("notes", notes.into()),
            ("template", report.has_template.into()),
            ("key", report.key.into()),
        ])
    }

    /// Submits a step.
    pub async fn step(&mut self) -> Result<()> {
        self.0.step().await.map_err(to_js)
    }

    /// Steps submitted so far.
    pub fn steps(&self) -> f64 {
        self.0.steps() as f64
    }

    /// `{steps}`: rows of `columns`.
    pub async fn telemetry(&mut self) -> Result<Object> {
        let steps = self.0.telemetry().await.map_err(to_js)?;
        Ok(object(&[("steps", js::rows(&steps).into())]))
    }

    /// How long the steps of the last `telemetry` took.
    pub fn set_seconds(&mut self, seconds: f64) {
        self.0.set_seconds(seconds);
    }

    /// The loss on what is never trained on.
    pub async fn validate(&mut self) -> Result<f64> {
        self.0.validate().await.map_err(to_js)
    }

    /// Disturbs the loss of the next step: `nan`, `inf` or `spike`; returns its number.
    pub fn disturb(&mut self, kind: &str) -> Result<f64> {
        let disturbance = match kind {
            "nan" => Disturbance::Nan,
            "inf" => Disturbance::Infinity,
            "spike" => Disturbance::Spike,
            _ => {
                let (value, range) = (kind.to_owned(), "nan, inf or spike");
                return Err(to_js(Error::Setting { setting: "disturbance", value, range }));
            }
        };
        self.0.disturb(disturbance).map(|step| step as f64).map_err(to_js)
    }

    /// All that the run takes to go on.
    pub async fn save(&self) -> Result<Vec<u8>> {
        self.0.save().await.map_err(to_js)
    }

    /// Goes on from that; returns `{step}`.
    pub async fn restore(&mut self, bytes: Vec<u8>) -> Result<Object> {
        let step = self.0.restore(&bytes).await.map_err(to_js)? as f64;
        Ok(object(&[("step", step.into())]))
    }

    /// The files of the adapter by their names, as PEFT has them.
    pub async fn adapter(&self) -> Result<Object> {
        let files = self.0.adapter().await.map_err(to_js)?;
        let file = |(name, contents): (&String, &Vec<u8>)| {
            (name.clone(), JsValue::from(Uint8Array::from(&contents[..])))
        };
        let files: Vec<_> = files.iter().map(file).collect();
        let files: Vec<_> = files.iter().map(|(name, file)| (&**name, file.clone())).collect();
        Ok(object(&files))
    }

    /// Begins an answer to messages in JSON; settings are `{temperature, topP, maxTokens, seed,
    /// adapted}`.
    pub async fn begin_chat(&mut self, messages: String, settings: JsValue) -> Result<()> {
        let settings = ChatSettings::from_json(&json(&settings)?).map_err(to_js)?;
        self.0.begin_chat(&messages, &settings).await.map_err(to_js)
    }

    /// Goes on with it by so many tokens: `{text, done}`.
    pub async fn next(&mut self, count: usize) -> Result<Object> {
        let written = self.0.next(count).await.map_err(to_js)?;
        Ok(object(&[("text", written.text.into()), ("done", written.is_done.into())]))
    }

    /// Destroys the device.
    pub fn lose_device(&self) {
        self.0.lose_device();
    }

    /// Takes a new device and goes on from the last snapshot; returns its step.
    pub async fn recover(&mut self) -> Result<f64> {
        let gpu = Gpu::new().await.map_err(to_js)?;
        Ok(self.0.recover(gpu).await.map_err(to_js)? as f64)
    }

    /// Steps taken at the last snapshot on the host.
    pub fn snapshot_steps(&self) -> f64 {
        self.0.snapshot_steps() as f64
    }

    /// Telemetry of the run as JSON lines.
    pub fn json_lines(&self) -> Result<Vec<u8>> {
        self.0.json_lines().map_err(to_js)
    }
}
