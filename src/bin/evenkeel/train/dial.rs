//! One dial: the depth of a model, from which all else of a run follows.
//!
//! | | rule | from |
//! |---|---|---|
//! | width | 64 x depth | the aspect ratio of models that work well over a wide range: Kaplan et al. 2020, <https://arxiv.org/abs/2001.08361>, find the loss nearly the same between 50 and 200 |
//! | heads | width / 64 | GPT-2's columns of a head: Radford et al. 2019 |
//! | context | the width, up to a power of two, in \[64, 2048\] | none: what fits beside such a model |
//! | tokens | 20 per parameter of blocks and head | Hoffmann et al. 2022, <https://arxiv.org/abs/2203.15556> |
//! | tokens in a step | 0.292 C^0.3271, with C = 6 x parameters x tokens | DeepSeek-AI 2024, <https://arxiv.org/abs/2401.02954> |
//! | microbatch | 16,384 tokens on a GPU, 2,048 on a software adapter, at most | none: enough to keep the device busy |
//! | learning rate | 6e-4 sqrt(768 / width) | Brown et al. 2020, <https://arxiv.org/abs/2005.14165>, have 6e-4 at a width of 768; the root follows Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762> |
//! | weight decay | 0.1 | Brown et al. 2020 |
//! | dropout | 0 | hardly a text is seen twice |

use super::budget::Budget;
use super::options::{Form, Options};
use super::presets::Sizes;

/// Why a setting is what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    pub setting: &'static str,
    pub value: String,
    pub why: String,
}

/// Notes why each setting is what it is.
struct Reasons(Vec<Reason>);

impl Reasons {
    /// What was given, or else what follows, and why.
    fn choose<T: Copy + std::fmt::Display>(
        &mut self,
        setting: &'static str,
        given: Option<T>,
        (follows, why): (T, String),
    ) -> T {
        let why = if given.is_some() { "given".to_owned() } else { why };
        let chosen = given.unwrap_or(follows);
        self.0.push(Reason { setting, value: chosen.to_string(), why });
        chosen
    }
}

/// The sizes of a model of so many layers, and why. What `options` give stays, and the rest follows
/// from it.
pub fn sizes(
    depth: usize,
    options: &Options,
    vocabulary: usize,
    is_software: bool,
) -> (Sizes, Vec<Reason>) {
    let mut reasons = Reasons(Vec::new());
    let layers = reasons.choose("layers", options.layers, (depth, "the depth".to_owned()));
    let width = (64 * layers, format!("64 x {layers} layers"));
    let width = reasons.choose("width", options.width, width);
    let heads = ((width / 64).max(1), "64 columns each".to_owned());
    let heads = reasons.choose("heads", options.heads, heads);
    let context = (
        width.next_power_of_two().clamp(64, 2048),
        "the width, up to a power of two, between 64 and 2048".to_owned(),
    );
    let context = reasons.choose("context", options.context, context);

    let parameters = active_parameters(layers, width, vocabulary);
    let tokens = match options.budget {
        Some(Budget::Tokens(tokens)) => tokens as f64,
        _ => 20.0 * parameters,
    };
    let work = 6.0 * parameters * tokens;
    let step = 0.292 * work.powf(0.3271);
    let sequences = ((step / context as f64).round() as usize).max(1);
    let most = (if is_software { 2048 } else { 16_384 } / context).clamp(1, sequences);
    let device = if is_software { "a software adapter" } else { "a GPU" };
    let accumulation = sequences.div_ceil(most);
    let batch = sequences.div_ceil(accumulation);
    let (step, tokens_in_step) = (step.round(), batch * accumulation * context);
    let why = format!(
        "0.292 C^0.3271 = {step} tokens in a step, of C = 6 x {} parameters x {} tokens \
         (DeepSeek-AI 2024), in microbatches that fit {device}",
        short(parameters),
        short(tokens)
    );
    let batch = reasons.choose("batch", options.batch, (batch, why));
    let why = format!("microbatches to those {tokens_in_step} tokens");
    let accumulation = reasons.choose("accumulation", options.accumulation, (accumulation, why));

    let learning_rate = 6e-4 * (768.0 / width as f64).sqrt();
    // Three digits are what the rule is worth.
    let learning_rate = format!("{learning_rate:.2e}").parse().expect("a number");
    let why = "6e-4 sqrt(768 / width) (Brown et al. 2020)".to_owned();
    let learning_rate = reasons.choose("lr", options.lr, (learning_rate, why));
    let why = "as GPT-3 and Llama have it (Brown et al. 2020)".to_owned();
    let weight_decay = reasons.choose("weight_decay", options.weight_decay, (0.1, why));

    let in_step = batch * accumulation * context;
    let steps = ((tokens / in_step as f64).ceil() as usize).max(1);
    match (options.steps, options.budget) {
        // How long a step takes is not known yet.
        (None, Some(Budget::Time(_))) => {}
        (steps_given, budget) => {
            let of = match budget {
                Some(_) => "of the budget",
                None => "20 per parameter of blocks and head (Hoffmann et al. 2022)",
            };
            let why = format!("{} tokens, {of}, {in_step} in a step", short(tokens));
            reasons.choose("steps", steps_given, (steps, why));
        }
    }
    let sizes = Sizes {
        name: format!("depth {depth}"),
        form: Form::Llama,
        steps,
        batch,
        accumulation,
        context,
        layers,
        heads,
        kv_heads: Some(heads),
        width,
        dropout: 0.0,
        learning_rate,
        weight_decay,
    };
    (sizes, reasons.0)
}

/// Parameters that take part in arithmetic for every token, of a Llama's form: those of the blocks'
/// matrices and of the head.
fn active_parameters(layers: usize, width: usize, vocabulary: usize) -> f64 {
    let width = width as f64;
    // Four matrices for attention, three of 8/3 of the width for the feed-forward part.
    layers as f64 * 12.0 * width * width + width * vocabulary as f64
}

/// A number as people read it.
pub fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_follows_from_the_depth() {
        let (sizes, reasons) = sizes(12, &Options::default(), 50_257, false);
        assert_eq!((sizes.layers, sizes.width, sizes.heads, sizes.context), (12, 768, 12, 1024));
        assert_eq!((sizes.learning_rate, sizes.weight_decay), (6e-4, 0.1));
        // 12 x 12 x 768² + 768 x 50,257 parameters, 20 tokens for each.
        let parameters: f64 = 84_934_656.0 + 38_597_376.0;
        assert_eq!(active_parameters(12, 768, 50_257), parameters);
        let in_step = sizes.batch * sizes.accumulation * sizes.context;
        assert_eq!(sizes.steps, (20.0 * parameters / in_step as f64).ceil() as usize);
        let formula = 0.292 * (120.0 * parameters * parameters).powf(0.3271);
        assert!((in_step as f64 / formula - 1.0).abs() < 0.1, "{in_step} {formula}");
        assert!(sizes.batch * sizes.context <= 16_384, "{}", sizes.batch);
        let named: Vec<_> = reasons.iter().map(|reason| reason.setting).collect();
        let all = ["layers", "width", "heads", "context", "batch", "accumulation", "lr"];
        assert_eq!(named, [&all[..], &["weight_decay", "steps"]].concat());
        let why = |setting| reasons.iter().find(|reason| reason.setting == setting).expect("one");
        assert_eq!((&*why("width").value, &*why("width").why), ("768", "64 x 12 layers"));
    }

    #[test]
    fn what_is_given_stays_and_the_rest_follows_from_it() {
        let options = Options {
            width: Some(192),
            context: Some(32),
            batch: Some(3),
            budget: Some(Budget::Tokens(96_000)),
            ..Options::default()
        };
        let (sizes, reasons) = sizes(2, &options, 100, true);
        assert_eq!((sizes.layers, sizes.heads, sizes.learning_rate), (2, 3, 1.2e-3));
        let in_step = 3 * 32 * sizes.accumulation;
        assert_eq!(sizes.steps, 96_000_usize.div_ceil(in_step));
        let given = reasons.iter().filter(|reason| reason.why == "given");
        assert_eq!(given.map(|one| one.setting).collect::<Vec<_>>(), ["width", "context", "batch"]);
    }
}
