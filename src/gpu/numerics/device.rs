//! Features and limits, against WebGPU's defaults and what the kernels need.

use super::{Check, Gpu, Outcome, list};
use crate::error::{Error, Result};
use crate::kernels;

/// One limit: its name as WebGPU spells it, its value, the least that kernels need, and what every
/// WebGPU implementation gives.
struct Limit {
    name: &'static str,
    value: u64,
    needed: u64,
    default: u64,
}

/// Workgroup memory that kernels may use, in bytes.
const WORKGROUP_BYTES: u64 = 16_384;

/// The largest workgroup and the most buffers of any kernel. The compiler looks through them, so
/// that a program does not carry the text of kernels that it never runs.
const LARGEST: (u32, usize) = {
    let (mut invocations, mut buffers, mut families) = (0, 0, kernels::FAMILIES);
    while let [(_, family), others @ ..] = families {
        let mut kernels = *family;
        while let [kernel, others @ ..] = kernels {
            let [x, y, z] = kernel.workgroup_size;
            if x * y * z > invocations {
                invocations = x * y * z;
            }
            if kernel.buffers.len() > buffers {
                buffers = kernel.buffers.len();
            }
            kernels = others;
        }
        families = others;
    }
    (invocations, buffers)
};

fn limits(limits: &wgpu::Limits) -> [Limit; 7] {
    let (invocations, buffers) = LARGEST;
    let default = wgpu::Limits::default();
    let limit = |name, get: &dyn Fn(&wgpu::Limits) -> u64, needed| Limit {
        name,
        value: get(limits),
        needed,
        default: get(&default),
    };
    [
        limit(
            "maxComputeInvocationsPerWorkgroup",
            &|l| l.max_compute_invocations_per_workgroup.into(),
            invocations.into(),
        ),
        limit(
            "maxComputeWorkgroupSizeX",
            &|l| l.max_compute_workgroup_size_x.into(),
            invocations.into(),
        ),
        limit(
            "maxComputeWorkgroupStorageSize",
            &|l| l.max_compute_workgroup_storage_size.into(),
            WORKGROUP_BYTES,
        ),
        limit(
            "maxComputeWorkgroupsPerDimension",
            &|l| l.max_compute_workgroups_per_dimension.into(),
            crate::kernel::MAX_GROUPS.into(),
        ),
        limit(
            "maxStorageBuffersPerShaderStage",
            &|l| l.max_storage_buffers_per_shader_stage.into(),
            buffers as u64,
        ),
        // Parameters are cut into segments that fit, single tensors are not.
        limit("maxStorageBufferBindingSize", &|l| l.max_storage_buffer_binding_size, 1 << 20),
        limit("maxBufferSize", &|l| l.max_buffer_size, 1 << 20),
    ]
}

/// Fails where not even the probes would run.
pub(super) fn can_probe(gpu: &Gpu) -> Result<()> {
    for limit in limits(&gpu.device.limits()) {
        if limit.value < limit.needed {
            return Err(Error::Limit {
                what: "running the kernels".to_owned(),
                limit: limit.name,
                needed: limit.needed,
                available: limit.value,
                advice: "use another adapter or backend".to_owned(),
            });
        }
    }
    Ok(())
}

pub(super) fn has_f16(gpu: &Gpu) -> bool {
    gpu.device.features().contains(wgpu::Features::SHADER_F16)
}

pub(super) fn has_subgroups(gpu: &Gpu) -> bool {
    gpu.device.features().contains(wgpu::Features::SUBGROUP)
}

pub(super) fn check_f16(has: bool) -> Check {
    let (outcome, found, consequence) = match has {
        true => (Outcome::Pass, "yes", "storage in f16 and bf16 needs no feature"),
        false => {
            (Outcome::Degraded, "no", "f16 and bf16 are stored all the same; arithmetic is in f32")
        }
    };
    let (found, consequence) = (found.to_owned(), consequence.to_owned());
    Check { name: "f16 arithmetic", outcome, found, consequence }
}

pub(super) fn check_subgroups(has: bool, info: &wgpu::AdapterInfo) -> Check {
    let (least, most) = (info.subgroup_min_size, info.subgroup_max_size);
    let (outcome, found) = match has {
        true if least == most => (Outcome::Pass, format!("yes, of {least}")),
        true => (Outcome::Pass, format!("yes, of {least} to {most}")),
        false => (Outcome::Degraded, "not enabled on this device".to_owned()),
    };
    let consequence = "no kernel needs them: reductions go through workgroup memory".to_owned();
    Check { name: "subgroups", outcome, found, consequence }
}

pub(super) fn check_limits(found: &wgpu::Limits) -> Check {
    let limits = limits(found);
    let describe = |limit: &Limit| format!("{} {}", limit.name, limit.value);
    let missing: Vec<_> = limits.iter().filter(|l| l.value < l.needed).map(describe).collect();
    let small: Vec<_> = limits.iter().filter(|l| l.value < l.default).map(describe).collect();
    let (outcome, found, consequence) = if !missing.is_empty() {
        let consequence = "kernels need more: no training here";
        (Outcome::Fail, list(&missing), consequence)
    } else if !small.is_empty() {
        let consequence = "below WebGPU's defaults, but enough; large tensors may not fit";
        (Outcome::Degraded, list(&small), consequence)
    } else {
        let found = format!(
            "{} MiB per binding, {} MiB per buffer, {} invocations and {} KiB per workgroup",
            limits[5].value >> 20,
            limits[6].value >> 20,
            limits[0].value,
            limits[2].value >> 10,
        );
        (Outcome::Pass, found, "tensors must fit a binding; parameter sets are cut to fit")
    };
    Check { name: "limits", outcome, found, consequence: consequence.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_enough() {
        assert_eq!(check_limits(&wgpu::Limits::default()).outcome, Outcome::Pass);
    }

    #[test]
    fn small_limits_are_named() {
        let limits = wgpu::Limits { max_buffer_size: 64 << 20, ..Default::default() };
        let check = check_limits(&limits);
        assert_eq!(check.outcome, Outcome::Degraded);
        assert_eq!(check.found, "maxBufferSize 67108864");
        let check = check_limits(&wgpu::Limits {
            max_storage_buffers_per_shader_stage: 4,
            ..Default::default()
        });
        assert_eq!(check.outcome, Outcome::Fail);
        assert_eq!(check.found, "maxStorageBuffersPerShaderStage 4");
    }
}
