//! `evenkeel doctor`

use serde_json::Value;

use crate::programs::{Place, check_failure, command, succeed};
use crate::{refuse_usage, support};

const NAME: &str = "evenkeel doctor";

#[test]
fn the_verdict_is_one_line() {
    let Some(gpu) = support::gpu() else { return };
    let text = succeed(NAME, &["--quiet"]);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with(&gpu.info.name) && text.contains(": fit to train"), "{text}");
    let table = succeed(NAME, &["--quick"]);
    assert_eq!(table.lines().last(), text.lines().next());
    assert!(table.contains("what the library does") && table.contains("NaN and Inf in bits"));

    let reports: Vec<Value> =
        serde_json::from_str(&succeed(NAME, &["--json", "--quick"])).expect("JSON");
    let [report] = reports.as_slice() else { panic!("{} reports", reports.len()) };
    assert_eq!(report["name"], *gpu.info.name);
    assert!(report["error"].is_null() && report["outcome"] != "fail", "{report}");
}

/// A row says what came of it, in words of the adapter or of the self-test; nobody sees it who did not
/// ask.
#[test]
fn cooperative_matrices_are_asked_for() {
    let Some(gpu) = support::gpu() else { return };
    let check = |arguments: &[&str]| {
        let reports: Vec<Value> = serde_json::from_str(&succeed(NAME, arguments)).expect("JSON");
        let checks = reports[0]["checks"].as_array().expect("rows").clone();
        checks.into_iter().find(|check| check["name"] == "cooperative matrices")
    };
    assert_eq!(check(&["--json", "--quick"]), None);
    let found = check(&["--json", "--quick", "--cooperative-matrices"]).expect("a row");
    let text = found["found"].as_str().expect("words");
    let matrices = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    let has = support::adapter().expect("that of the device").features().contains(matrices);
    let words = if has { "passed the self-test" } else { "no cooperative matrices" };
    assert!(text.contains(words), "{}: {text}", gpu.info.name);
    assert_eq!(found["outcome"], if has { "pass" } else { "degraded" });
}

/// What was found of the device's conversions, and that they are not used where integers are asked for.
#[test]
fn conversions_of_f16_are_told() {
    let Some(gpu) = support::gpu() else { return };
    let consequence = |arguments: &[&str]| {
        let reports: Vec<Value> = serde_json::from_str(&succeed(NAME, arguments)).expect("JSON");
        let checks = reports[0]["checks"].as_array().expect("rows").clone();
        let row = checks.into_iter().find(|check| check["name"] == "f16 by pack2x16float");
        row.expect("a row")["consequence"].as_str().expect("words").to_owned()
    };
    let found = consequence(&["--json", "--quick"]);
    if gpu.info.name.contains("llvmpipe") {
        assert!(found.starts_with("used: "), "{found}");
    }
    let turned_off = consequence(&["--json", "--quick", "--integer-halves"]);
    assert!(turned_off.starts_with("not used") && turned_off.contains("integer_halves"), "{found}");
}

#[test]
fn without_an_adapter_there_is_a_code_for_that() {
    let place = Place::new();
    let nowhere = place.path("no_driver.json");
    for arguments in [&["--quick"][..], &["--all", "--json"]] {
        let mut command = command(NAME, arguments);
        command.env("WGPU_BACKEND", "vulkan").env("VK_LOADER_DRIVERS_DISABLE", "*");
        command.env("VK_DRIVER_FILES", &nowhere).env("VK_ICD_FILENAMES", &nowhere);
        let output = command.env_remove("WGPU_ADAPTER_NAME").output().expect("it starts");
        check_failure(&output, 6, arguments, &["no GPU adapter found", "install a Vulkan"]);
        assert!(output.stdout.is_empty());
    }
    refuse_usage(NAME, &["--quiet", "--json"]);
}
