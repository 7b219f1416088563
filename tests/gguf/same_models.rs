//! A model in a GGUF file is the model in the folder that it was made of.

use evenkeel::gguf::File;
use evenkeel::graph::{Graph, HostData, Phase};
use evenkeel::hugging_face::{Export, Folder};
use evenkeel::nn::Gpt;
use evenkeel::plan::Parameters;
use evenkeel::{Gpu, Precision, Result};

use super::converted::{config_of, converted, moderate, open};
use super::folders::{self, all_bits, parameters, sorted, values};
use super::models;
use super::support::{self, block_on, tokens};
use super::tensors::{self, contents};

pub fn load(file: &File, parameters: &Parameters) -> Result<()> {
    block_on(parameters.load(&mut file.reader(|_| {})))
}

/// Loads a file that has nothing wrong with it.
pub fn loaded(gpu: &Gpu, file: &File) -> Parameters {
    let parameters = parameters(gpu, &file.config().gpt);
    load(file, &parameters).unwrap_or_else(|error| panic!("{error}"));
    parameters
}

/// Bits of the logits of a text that is longer than every window.
pub fn logits(gpt: &Gpt, parameters: &Parameters) -> Vec<u64> {
    let mut graph = Graph::new(Phase::Evaluate);
    let input = graph.tokens("tokens", [1, 9], 11);
    let logits = gpt.logits(&mut graph, input);
    let wide = |name: &str| values(parameters, name).into_iter().map(f64::from).collect::<Vec<_>>();
    let mut data = HostData::default();
    data.values.extend(parameters.names().map(|name| (name.to_owned(), wide(name))));
    let input = tokens(3, 9, 11).into_iter().map(f64::from).collect();
    data.values.insert("tokens".to_owned(), input);
    graph.evaluate(&data).get(logits).iter().map(|logit| logit.to_bits()).collect()
}

pub fn tensors_and_logits_are_those_of_the_folder() {
    let Some(gpu) = support::gpu() else { return };
    for model in models::ALL {
        let tensors = moderate(model);
        let folder = folders::open(tensors::folder(&config_of(model), &tensors));
        let file = open(&converted(model, &tensors));
        let [theirs, ours] = [folders::loaded(&gpu, &folder), loaded(&gpu, &file)];
        let family = file.config().family();
        for name in theirs.names() {
            assert!(values(&ours, name) == values(&theirs, name), "{family}: {name}");
        }
        assert!(all_bits(&ours) == all_bits(&theirs), "{family}");
        let [theirs, ours] =
            [(folder.config(), &theirs), (file.config(), &ours)].map(|(config, parameters)| {
                let gpt = Gpt::new(config.gpt.clone()).expect("a model");
                logits(&gpt, parameters)
            });
        assert!(ours == theirs && ours.iter().any(|logit| *logit != 0), "{family}");
    }
}

pub fn files_become_folders() {
    let Some(gpu) = support::gpu() else { return };
    for model in models::ALL {
        let tensors = moderate(model);
        let file = open(&converted(model, &tensors));
        let export = Export::new(file.config().clone(), Precision::F32);
        let files = block_on(export.to_files(&loaded(&gpu, &file))).expect("written");
        assert!(contents(&files) == sorted(tensors), "{}", file.config().family());
        let folder = Folder::from_files(files).expect("a folder");
        assert_eq!(folder.config().gpt, file.config().gpt);
    }
}
