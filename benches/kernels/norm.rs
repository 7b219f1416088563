use evenkeel::kernels::*;

use crate::bench::{Family, bind};
use crate::update::{Layout, PARAMETERS};

/// Per-tensor norms; 5,000 tensors have one chunk each, 148 have 34.
pub fn run(family: &mut Family<'_>) {
    scans(family, &Layout::new(family, PARAMETERS, 148));
    for tensors in [1, 148, 5000] {
        folds(family, &Layout::new(family, PARAMETERS, tensors), tensors);
    }
}

fn scans(family: &mut Family<'_>, layout: &Layout) {
    let size = "10 M in 148 tensors";
    family.moves_its_buffers(size, &layout.exact(&layout.sums(family)));
    for power in [1.0, 1.5] {
        let kernel = layout.powers(power);
        family.moves_its_buffers(format_args!("{size}, p = {power}"), &kernel);
    }
}

fn folds(family: &mut Family<'_>, layout: &Layout, tensors: u32) {
    let gpu = family.gpu;
    let size = format!("{} M in {tensors} tensors", PARAMETERS / 1_000_000);
    let segments = tensor_segments(&layout.chunk_table, tensors);
    let segments = gpu.upload("segments", &segments);
    let norms = gpu.buffer("norms", u64::from(tensors) * size_of::<TensorNorm>() as u64);

    let parts = layout.sums(family);
    gpu.run(&layout.exact(&parts));
    let sums = gpu.buffer("sums", u64::from(tensors) * size_of::<ExactSum>() as u64);
    let bytes = parts.size() + sums.size() + segments.size() + norms.size();
    let params = ExactFoldParams { segment_count: tensors, indirect: 0 };
    let [segments, parts, sums, norms] = [&segments, &parts, &sums, &norms].map(bind);
    let members = segments.clone();
    let fold = ExactFold { params, segments, members, parts, sums, norms };
    family.moves(&size, bytes, &fold);

    gpu.run(&layout.scan());
    let sums = gpu.buffer("sums", 16 * u64::from(tensors));
    let bytes = layout.partials.size() + sums.size() + 28 * u64::from(tensors);
    let ExactFold { segments, members, norms, .. } = fold.clone();
    let params = NormFoldParams { segment_count: tensors, indirect: 0, largest: 0, power: 2.0 };
    let (partials, sums) = (bind(&layout.partials), bind(&sums));
    family.moves(&size, bytes, &NormFold { params, segments, members, partials, sums, norms });
    let kernel = GlobalNorm {
        params: GlobalNormParams { tensor_count: tensors, max_norm: 1.0 },
        norm: fold.norms,
        tensors: bind(&layout.tensors),
        state: bind(&layout.state),
    };
    family.moves(&size, 28 * u64::from(tensors), &kernel);
}
