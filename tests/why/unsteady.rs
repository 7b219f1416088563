//! A device that does not give the same bits twice, and two adapters that do not give the same ones.

use evenkeel::Gpu;
use serde_json::{Value, json};

use crate::programs::run;
use crate::support::block_on;
use crate::{Scene, WHY, said, why};

const DIFF: &str = "evenkeel diff";

/// A bit of a weight is another one each time that the step is taken, as faulty memory has it.
#[test]
fn bits_that_change_each_time_are_laid_on_the_device() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let more =
        ["--iters", "6", "--batch-size", "2", "--save-every", "4", "--learning-rate", "1e-3"];
    let out = scene.tune("out", 0, &more);
    assert_eq!(why(0, &[&out, "--step", "5"])["same_bits"], json!(true));
    let flipped = [&*out, "--step", "5", "--flip-bits-at", "5"];
    let found = why(1, &flipped);
    assert_eq!(found["same_bits"], json!(false), "{found}");
    assert_eq!(found["cause"], json!("hardware or driver"), "{found}");
    for difference in [&found["difference"], &found["second_difference"]] {
        assert_eq!(difference["step"], json!(5), "{found}");
        assert_ne!(difference["then"], difference["now"], "{found}");
    }
    assert_ne!(found["difference"]["now"], found["second_difference"]["now"], "{found}");
    // The first value that is not the same is the weight itself.
    let operation = found["unsteady_operation"].as_str().unwrap_or_else(|| panic!("{found}"));
    assert!(operation.starts_with("blocks.0.") && operation.contains("lora"), "{operation}");
    let text = said(&run(WHY, &flipped), 1);
    for part in ["and others again the next time", operation, "does not give the same bits twice"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    // Before the fault nothing is wrong.
    let sound = [&*out, "--step", "4", "--flip-bits-at", "5"];
    assert_eq!(why(0, &sound)["same_bits"], json!(true));
}

#[test]
fn a_run_is_taken_again_on_adapters_by_name() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let more =
        ["--iters", "6", "--batch-size", "2", "--save-every", "4", "--learning-rate", "1e-3"];
    let out = scene.tune("out", 0, &more);
    let name = &*scene.device;
    // The run's own adapter, against its records and against itself.
    let text = said(&run(DIFF, &[&out, "--on", name]), 0);
    assert!(text.contains(&format!("second    {name} (")), "{text}");
    let text = said(&run(DIFF, &[&out, "--on", name, "--on", name]), 0);
    assert!(text.contains(&format!("first     {name} (")), "{text}");
    assert!(text.contains("2 that both have") && text.contains("the same in all"), "{text}");

    let refuse = |code, more: &[&str], parts: &[&str]| {
        let arguments = [&[&*out][..], more].concat();
        crate::check_failure(&run(DIFF, &arguments), code, &arguments, parts);
    };
    refuse(6, &["--on", "no such adapter"], &["no such adapter", name]);
    refuse(3, &["--on", name, "--on", name, "--on", name], &["--on 3 times"]);
    let output = run(DIFF, &[&out, &out, "--on", name]);
    assert_eq!(output.status.code(), Some(2));

    // Another adapter of this machine, where there is one.
    let Some(other) = another_adapter(name) else { return };
    let page = scene.place.path("page.html");
    let arguments = [&*out, "--on", name, "--on", &other, "--html", &page, "--json"];
    let output = run(DIFF, &arguments);
    let code = output.status.code().expect("an exit code");
    let found: Value = serde_json::from_str(&said(&output, code)).expect("an object");
    let operation = &found["first_operation"];
    assert_eq!(code == 0, found["first_step"] == Value::Null, "{found}");
    if code == 1 {
        let label = operation["label"].as_str().unwrap_or("none: from the same bits");
        assert!(operation.is_null() || operation["step"] == found["first_step"], "{found}");
        assert!(scene.place.read("page.html").contains(label), "{label}");
        let text = said(&run(DIFF, &arguments[..5]), 1);
        assert!(text.contains(&format!("operation {label}")), "{text}");
    }
}

/// The name of an adapter of another driver, if there is one that gives a device.
fn another_adapter(name: &str) -> Option<String> {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let all = block_on(instance.enumerate_adapters(wgpu::Backends::all())).into_iter();
    let mut others = all.map(|adapter| adapter.get_info().name).filter(|other| other != name);
    others.find(|other| block_on(Gpu::named(other)).is_ok_and(|gpu| gpu.info.name == *other))
}
