//! What a chat template finds around it.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::{generation, json, methods, python, time};

pub(super) type Environment = minijinja::Environment<'static>;

/// A template's own word that it cannot make a text of a conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub String);

/// That of transformers, as far as minijinja's differs.
pub(super) fn environment() -> Environment {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("Jinja's own delimiters"));
    environment.set_formatter(|output, _, value| Ok(output.write_str(&python::text(value))?));
    environment.set_unknown_method_callback(methods::call);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", json::to_json);
    environment.add_filter("string", |value: Value| python::text(&value));
    environment.add_filter(generation::FILTER, |body: String| body);
    environment.add_test("sequence", is_sequence);
    environment
}

fn raise_exception(message: Value) -> Result<Value, Error> {
    let message = python::text(&message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refused(message)))
}

/// In Python also texts and objects have a length and items.
fn is_sequence(value: Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Map | Seq | String | Undefined)
}

/// The time of `strftime_now`: this, or that of the host's clock.
pub(super) fn set_clock(environment: &mut Environment, now: Option<i64>) {
    environment.add_function("strftime_now", move |format: String| {
        let now = now.unwrap_or_else(time::now);
        time::format(now, &format).map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
    });
}
