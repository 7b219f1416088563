//! What is measured on an adapter is measured once.

use std::fs;

use evenkeel::run::tune_products_in;
use serde_json::Value;

use crate::programs::Place;
use crate::support;

#[test]
fn tiles_are_measured_once() {
    let Some(gpu) = support::own_gpu_with_hardware_kernels() else { return };
    let place = Place::new();
    let (caches, file) = (place.path("caches"), place.path("caches/evenkeel/product-tiles.json"));
    let tune = |caches: &str| {
        support::block_on(tune_products_in(&gpu, Some(caches.as_ref()), true)).expect("tuned");
        gpu.product_tiles().to_string()
    };
    let read = || serde_json::from_slice::<Value>(&fs::read(&file).expect("kept")).expect("JSON");

    let measured = tune(&caches);
    let kept = read();
    let (adapter, tiles) = kept.as_object().expect("adapters").iter().next().expect("one");
    assert!(adapter.contains(&gpu.info.name) && adapter.contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(tiles, &Value::from(measured));

    // Another adapter's are left alone, and nothing is measured that is known.
    let others = "64 64 64 64 64 64 64";
    let mine = if others == tiles { "32 32 32 32 32 32 32" } else { "128 128 128 128 128 128 128" };
    let edited = serde_json::json!({ "another": others, adapter: mine });
    fs::write(&file, edited.to_string()).expect("written");
    assert_eq!(tune(&caches), mine);
    assert_eq!(read(), edited);

    // Damaged, or not what it should be: measured again.
    for damaged in ["{", &serde_json::json!({ adapter: "64 64", "another": others }).to_string()] {
        fs::write(&file, damaged).expect("written");
        let again = tune(&caches);
        assert_eq!(read()[adapter], Value::from(again));
        let has_other = damaged.contains("another");
        assert_eq!(read().get("another").is_some(), has_other, "{damaged}");
    }

    // Where nothing can be kept, a run goes on.
    let no_folder = place.path("a-file");
    fs::write(&no_folder, "").expect("written");
    tune(&no_folder);
}
