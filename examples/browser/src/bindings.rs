//! The session as JavaScript sees it: promises, typed arrays, plain objects.

use evenkeel::data::Corpus;
use evenkeel::gpu::Check;
use evenkeel::{Error, Gpu, Precision};
use evenkeel_browser_shared::js::{self, Result, get, number, object, string, to_js};
use js_sys::{Array, Float64Array, Function, Object};
use wasm_bindgen::prelude::*;

use crate::addition::Addition;
use crate::{Answer, Disturbance, Session, Settings, Task};

fn read_settings(js: &JsValue) -> Result<Settings> {
    let precision = match &*string(js, "precision")? {
        "f16" => Precision::F16,
        "bf16" => Precision::Bf16,
        _ => Precision::F32,
    };
    Ok(Settings {
        size: string(js, "size")?.parse().map_err(to_js)?,
        batch: number(js, "batch")? as usize,
        context: number(js, "context")? as usize,
        learning_rate: number(js, "learningRate")?,
        clip: number(js, "clip")? as f32,
        stability: get(js, "stability")?.is_truthy(),
        precision,
        seed: number(js, "seed")? as u32,
    })
}

/// `{digits}` for addition, `{name, bytes}` for a text.
fn read_task(js: &JsValue) -> Result<Task> {
    if let Some(digits) = get(js, "digits")?.as_f64() {
        return Ok(Task::Addition(Addition::new(digits as u32).map_err(to_js)?));
    }
    let bytes = js_sys::Uint8Array::new(&get(js, "bytes")?).to_vec();
    Ok(Task::Text(Corpus::new(string(js, "name")?, &bytes).map_err(to_js)?))
}

fn answer(answer: Answer) -> JsValue {
    object(&[
        ("question", answer.question.into()),
        ("answer", answer.answer.into()),
        ("right", answer.right.into()),
    ])
    .into()
}

fn check(check: Check) -> JsValue {
    object(&[
        ("name", check.name.into()),
        ("outcome", check.outcome.to_string().into()),
        ("found", check.found.into()),
        ("consequence", check.consequence.into()),
    ])
    .into()
}

/// Panics are shown on the console.
#[wasm_bindgen(start)]
fn start() {
    js::show_panics();
}

/// A training run; see [`Session`].
#[wasm_bindgen(js_name = Session)]
#[derive(Debug)]
pub struct WebSession(Session);

#[wasm_bindgen(js_class = Session)]
impl WebSession {
    /// Takes a device and builds a run on it. `compiled` is called with the number of kernels that
    /// the browser has compiled and the number that it was asked for, for this run and others on the
    /// same device.
    pub async fn create(
        task: JsValue,
        settings: JsValue,
        compiled: Function,
    ) -> Result<WebSession> {
        let (task, settings) = (read_task(&task)?, read_settings(&settings)?);
        let gpu = Gpu::new().await.map_err(to_js)?;
        gpu.on_compiled(move |kernel| {
            let [done, asked] =
                [kernel.done, kernel.asked].map(|count| JsValue::from(count as f64));
            // What the page does with it is no reason to end the run.
            compiled.call2(&JsValue::NULL, &done, &asked).unwrap_or_default();
        });
        Ok(Self(Session::new(gpu, task, settings).await.map_err(to_js)?))
    }

    /// Another run on the same device; this one ends.
    pub async fn restart(self, task: JsValue, settings: JsValue) -> Result<WebSession> {
        let (task, settings) = (read_task(&task)?, read_settings(&settings)?);
        let gpu = self.0.gpu().clone();
        drop(self);
        Ok(Self(Session::new(gpu, task, settings).await.map_err(to_js)?))
    }

    /// Submits a step.
    pub async fn step(&mut self) -> Result<()> {
        self.0.step().await.map_err(to_js)
    }

    /// Disturbs the next steps; returns the number of the first.
    pub fn disturb(&mut self, kind: &str) -> Result<f64> {
        let kinds = ["nan", "inf", "spike", "outlier", "rate"];
        let Some(index) = kinds.iter().position(|&known| known == kind) else {
            let value = kind.to_owned();
            let range = "nan, inf, spike, outlier or rate";
            return Err(to_js(Error::Setting { setting: "disturbance", value, range }));
        };
        Ok(self.0.disturb(Disturbance::ALL[index]) as f64)
    }

    /// Names of the columns of `telemetry`.
    pub fn columns() -> Array {
        js::columns()
    }

    /// `{steps, layers}`: rows of `columns`, and rows of a step and a norm per layer.
    pub async fn telemetry(&mut self) -> Result<Object> {
        let (telemetry, watched) = self.0.telemetry().await.map_err(to_js)?;
        let row = |layers: crate::LayerNorms| [layers.step as f64].into_iter().chain(layers.norms);
        let layers: Vec<f64> = watched.into_iter().flat_map(row).collect();
        Ok(object(&[
            ("steps", js::rows(&telemetry).into()),
            ("layers", Float64Array::from(&layers[..]).into()),
        ]))
    }

    /// How long the steps of the last `telemetry` took.
    pub fn set_seconds(&mut self, seconds: f64) {
        self.0.set_seconds(seconds);
    }

    /// The loss on what is never trained on.
    pub async fn validate(&mut self) -> Result<f64> {
        self.0.validate().await.map_err(to_js)
    }

    /// `[{question, answer, right}]`.
    pub async fn answers(&mut self) -> Result<Array> {
        Ok(self.0.answers().await.map_err(to_js)?.into_iter().map(answer).collect())
    }

    /// `{question, answer, right}`.
    pub async fn ask(&mut self, question: String) -> Result<JsValue> {
        let given = self.0.ask(&question).await.map_err(to_js)?;
        Ok(given.map_or(JsValue::UNDEFINED, answer))
    }

    /// Begins a text.
    pub async fn begin_text(&mut self, prompt: Option<String>, seed: u32) -> Result<String> {
        self.0.begin_text(prompt.as_deref(), seed).await.map_err(to_js)
    }

    /// Goes on with it.
    pub async fn write(&mut self, count: usize) -> Result<String> {
        self.0.write(count).await.map_err(to_js)
    }

    /// The learning rate from the next step on.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        self.0.set_learning_rate(rate).map_err(to_js)
    }

    /// Stability features on or off, and the clip threshold.
    pub async fn set_stability(&mut self, stability: bool, clip: f32) -> Result<()> {
        self.0.set_stability(stability, clip).await.map_err(to_js)
    }

    /// The run as a safetensors file.
    pub async fn checkpoint(&self) -> Result<Vec<u8>> {
        self.0.checkpoint().await.map_err(to_js)
    }

    /// Goes on from such a file; returns `{step, seed}`.
    pub async fn load(&mut self, bytes: Vec<u8>) -> Result<Object> {
        let step = self.0.load(&bytes).await.map_err(to_js)? as f64;
        Ok(object(&[("step", step.into()), ("seed", self.0.seed().into())]))
    }

    /// Steps taken at the last snapshot on the host, if there is one.
    pub fn snapshot_steps(&mut self) -> Option<f64> {
        self.0.snapshot_steps().map(|steps| steps as f64)
    }

    /// Takes a new device and goes on from the last snapshot; returns its step.
    pub async fn recover(&mut self) -> Result<f64> {
        let gpu = Gpu::new().await.map_err(to_js)?;
        Ok(self.0.recover(gpu).await.map_err(to_js)? as f64)
    }

    /// Destroys the device.
    pub fn lose_device(&self) {
        self.0.lose_device();
    }

    /// `[{name, outcome, found, consequence}]`.
    pub async fn numerics(&self) -> Result<Array> {
        let numerics = self.0.numerics().await.map_err(to_js)?;
        Ok(numerics.checks.into_iter().map(check).collect())
    }

    /// Telemetry of the run as JSON lines.
    pub fn json_lines(&self) -> Result<Vec<u8>> {
        self.0.json_lines().map_err(to_js)
    }

    /// Telemetry of the run as a table.
    pub fn csv(&self) -> Result<Vec<u8>> {
        self.0.csv().map_err(to_js)
    }

    /// `{parameters, bytes, dispatches, tokensPerStep, layers}`.
    pub fn report(&self) -> Object {
        let report = self.0.report();
        let dispatches = report.model_dispatches + report.update_dispatches;
        let layers: Array = self.0.layers().iter().map(|name| JsValue::from_str(name)).collect();
        object(&[
            ("parameters", (report.parameters as f64).into()),
            ("bytes", (report.total_bytes() as f64).into()),
            ("dispatches", (dispatches as f64).into()),
            ("tokensPerStep", (self.0.tokens_per_step() as f64).into()),
            ("layers", layers.into()),
        ])
    }

    /// Steps submitted so far.
    pub fn steps(&self) -> f64 {
        self.0.steps() as f64
    }
}
