//! Values of JavaScript, to and fro.

use evenkeel::Error;
use evenkeel::train::Telemetry;
use js_sys::{Array, Float64Array, Object, Reflect};
use wasm_bindgen::prelude::*;

/// What bindings give: what is thrown is an `Error` of JavaScript.
pub type Result<T> = std::result::Result<T, JsValue>;

/// Columns of a step's telemetry.
const COLUMNS: [&str; 13] = [
    "step",
    "loss",
    "gradient_norm",
    "max_norm",
    "clip_coefficient",
    "loss_scale",
    "learning_rate",
    "applied",
    "reason",
    "events",
    "skipped_total",
    "nonfinite_count",
    "gave_up",
];

/// Names of the columns of [`rows`].
pub fn columns() -> Array {
    COLUMNS.iter().map(|&name| JsValue::from_str(name)).collect()
}

/// Telemetry as one row of [`columns`] after the other.
pub fn rows(steps: &[Telemetry]) -> Float64Array {
    let rows: Vec<f64> = steps.iter().flat_map(row).collect();
    Float64Array::from(&rows[..])
}

fn row(step: &Telemetry) -> [f64; COLUMNS.len()] {
    [
        step.step as f64,
        step.loss.into(),
        step.gradient_norm.into(),
        step.max_norm.into(),
        step.clip_coefficient.into(),
        step.loss_scale.into(),
        step.learning_rate.into(),
        u8::from(step.applied).into(),
        (step.reason as u32).into(),
        step.event_bits.into(),
        step.skipped_total.into(),
        step.nonfinite_count.into(),
        u8::from(step.gave_up.is_some()).into(),
    ]
}

/// An `Error` of JavaScript whose name says what kind it is.
pub fn to_js(error: Error) -> JsValue {
    let name = match error {
        Error::NoAdapter { .. } => "NoAdapter",
        Error::NoDevice { .. } => "NoDevice",
        Error::Limit { .. } => "Limit",
        Error::OutOfMemory { .. } => "OutOfMemory",
        Error::DeviceLost { .. } => "DeviceLost",
        Error::GaveUp { .. } => "GaveUp",
        Error::Checkpoint { .. } => "Checkpoint",
        Error::ModelFile { .. } => "ModelFile",
        Error::Unsupported { .. } => "Unsupported",
        Error::Setting { .. } => "Setting",
        Error::Data { .. } => "Data",
        Error::NonFinite { .. } => "NonFinite",
        _ => "Error",
    };
    let js = js_sys::Error::new(&error.to_string());
    js.set_name(name);
    js.into()
}

/// A plain object of these fields.
///
/// # Panics
/// Never: fields of a plain object can be set.
pub fn object(entries: &[(&str, JsValue)]) -> Object {
    let object = Object::new();
    for (key, value) in entries {
        Reflect::set(&object, &JsValue::from_str(key), value).expect("a plain object");
    }
    object
}

/// A field of an object; undefined where it has none.
///
/// # Errors
/// Where it is no object.
pub fn get(object: &JsValue, key: &str) -> Result<JsValue> {
    Reflect::get(object, &JsValue::from_str(key))
}

/// A field that is a number.
///
/// # Errors
/// [`Error::Setting`] for what is none.
pub fn number(settings: &JsValue, key: &'static str) -> Result<f64> {
    get(settings, key)?.as_f64().ok_or_else(|| {
        to_js(Error::Setting { setting: key, value: "missing".into(), range: "a number" })
    })
}

/// A field that is a text; empty where it is none.
///
/// # Errors
/// As [`get`].
pub fn string(settings: &JsValue, key: &str) -> Result<String> {
    Ok(get(settings, key)?.as_string().unwrap_or_default())
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
}

/// Shows panics on the console.
pub fn show_panics() {
    std::panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
}
