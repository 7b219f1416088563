//! Where two runs part is said to the bit.

use std::fs;

use serde_json::{Value, json};

use crate::programs::{Place, check_failure, run};
use crate::{Scene, alter_loss, said};

const DIFF: &str = "evenkeel diff";

fn copy(scene: &Scene, out: &str, name: &str) -> String {
    let copy = scene.place.path(name);
    fs::create_dir(&copy).expect("a folder");
    for file in ["metrics.jsonl", "settings.yaml"] {
        fs::copy(format!("{out}/{file}"), format!("{copy}/{file}")).expect("copied");
    }
    copy
}

#[test]
fn the_first_bit_that_parts_is_named() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let short = ["--iters", "9", "--batch-size", "2", "--save-every", "3"];
    let out = scene.tune("out", 0, &short);
    let twin = scene.tune("twin", 0, &short);
    let text = said(&run(DIFF, &[&out, &twin]), 0);
    assert!(text.contains("9 that both have") && text.contains("the same in all"), "{text}");

    let other = copy(&scene, &out, "other");
    alter_loss(&other, 4, 3);
    alter_loss(&other, 6, 40);
    let page = scene.place.path("a.html");
    let text = said(&run(DIFF, &[&out, &other, "--html", &page]), 1);
    for part in [
        "part in step 4: loss ",
        ", 3 units in the last place",
        "in 2 of 9 steps",
        "farthest  in step 6: loss ",
        ", 40 units in the last place",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(!text.contains("setting "), "{text}");
    let html = scene.place.read("a.html");
    assert!(
        html.contains("part in step 4: loss ") && html.trim_end().ends_with("</html>"),
        "{html}"
    );
    let line = html.split("<polyline points=\"").nth(1).and_then(|rest| rest.split('"').next());
    assert_eq!(line.expect("a line").split(' ').count(), 7);

    let settings = scene.place.read("other/settings.yaml");
    fs::write(format!("{other}/settings.yaml"), settings.replace("seed: 0", "seed: 7"))
        .expect("written");
    let found: Value =
        serde_json::from_str(&said(&run(DIFF, &[&out, &other, "--json"]), 1)).expect("an object");
    assert_eq!((&found["common_steps"], &found["different_steps"]), (&json!(9), &json!(2)));
    assert_eq!(found["settings"], json!([{ "name": "seed", "first": 0, "second": 7 }]));
    assert_eq!(found["differences"][0]["ulps"], json!(3));
    assert_eq!(found["farthest_loss"]["step"], json!(6));
}

#[test]
fn a_run_is_compared_with_this_adapter() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let out = scene.tune("out", 0, &["--iters", "9", "--batch-size", "2", "--save-every", "3"]);
    // The last save is behind the last step, and the one before it at step 6.
    let text = said(&run(DIFF, &[&out]), 0);
    assert!(text.contains("3 that both have; the first alone has 6 more"), "{text}");
    assert!(text.contains(&format!("second    {} (", scene.device)), "{text}");
    alter_loss(&out, 7, 1);
    let text = said(&run(DIFF, &[&out, "--quiet"]), 1);
    assert!(text.contains("part in step 7: loss "), "{text}");
    said(&run(DIFF, &[&out, "--step", "6"]), 0);
}

#[test]
fn what_cannot_be_compared_is_named() {
    let place = Place::new();
    let write = |name: &str, text: &str| place.write(name, text.as_bytes());
    let first = write("first.jsonl", "{\"step\":0,\"loss\":1}\n");
    let second = write("second.jsonl", "{\"step\":1,\"loss\":1}\n");
    let refuse = |arguments: &[&str], parts: &[&str]| {
        check_failure(&run(DIFF, arguments), 3, arguments, parts);
    };
    refuse(&[&first, &second], &["first.jsonl and ", "no step in common"]);
    let missing = place.path("missing");
    refuse(&[&first, &missing], &[&missing, "there is no folder"]);
    refuse(&[&first], &["neither the settings nor a save"]);
    let page = place.path("none/page.html");
    refuse(&[&first, &first, "--html", &page], &["none", "cannot be written"]);
    let output = run(DIFF, &[&first, &second, "--step", "3"]);
    assert_eq!(output.status.code(), Some(2));
}
