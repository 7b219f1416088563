//! Which variants of kernels a device gets.

use super::{Gpu, is_software};
use crate::kernel::Variant;

impl Gpu {
    /// A variant for this device: what is faster where shaders run on a CPU, and the cooperative
    /// matrices and conversions of f16 that were admitted.
    pub(crate) fn fitted(&self, variant: Variant) -> Variant {
        Variant {
            cooperative: variant.cooperative.or_else(|| self.matrix_of(variant.precision)),
            half_conversions: variant.half_conversions.or(self.half_conversions().admitted),
            ..on_processors(variant, &self.info, self.device.features())
        }
    }
}

/// What is faster where shaders run on a CPU, by what the adapter says of itself.
fn on_processors(variant: Variant, info: &wgpu::AdapterInfo, features: wgpu::Features) -> Variant {
    let is_software = is_software(info);
    let has_subgroups_of =
        |size| is_software && [info.subgroup_min_size, info.subgroup_max_size] == [size; 2];
    let is_vector = has_subgroups_of(8);
    Variant {
        few_lanes: is_software,
        subgroups_of_8: is_vector && features.contains(wgpu::Features::SUBGROUP),
        words_of_64: is_vector && features.contains(wgpu::Features::SHADER_INT64),
        // Asks for no feature: compilers of drivers with wider subgroups take minutes for them.
        large_register_tiles: variant.large_register_tiles && has_subgroups_of(4),
        ..variant
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::DeviceType::{Cpu, DiscreteGpu};

    const ALL: wgpu::Features = wgpu::Features::all();

    fn fitted(ty: wgpu::DeviceType, sizes: [u32; 2], features: wgpu::Features) -> Variant {
        let mut info = wgpu::AdapterInfo::new(ty, wgpu::Backend::Vulkan);
        [info.subgroup_min_size, info.subgroup_max_size] = sizes;
        let wanted = Variant { large_register_tiles: true, ..Variant::default() };
        on_processors(wanted, &info, features)
    }

    #[test]
    fn software_gets_what_its_subgroups_are_faster_with() {
        let few_lanes = Variant { few_lanes: true, ..Variant::default() };
        let large = Variant { large_register_tiles: true, ..few_lanes };
        let vectors = Variant { subgroups_of_8: true, words_of_64: true, ..few_lanes };
        // SwiftShader, whatever a browser lets through.
        assert_eq!(fitted(Cpu, [4, 4], ALL), large);
        assert_eq!(fitted(Cpu, [4, 4], wgpu::Features::empty()), large);
        // lavapipe, and in a browser.
        assert_eq!(fitted(Cpu, [8, 8], ALL), vectors);
        assert_eq!(fitted(Cpu, [8, 8], wgpu::Features::empty()), few_lanes);
        // What WebGPU says where it says nothing.
        assert_eq!(fitted(Cpu, [4, 128], ALL), few_lanes);
        for sizes in [[4, 4], [8, 8], [32, 32], [4, 128]] {
            assert_eq!(fitted(DiscreteGpu, sizes, ALL), Variant::default(), "{sizes:?}");
        }
    }
}
