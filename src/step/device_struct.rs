//! Structs that the host and kernels share.

/// Declares a plain struct of scalars together with its field table, which the contract test
/// compares with the WGSL struct of the same name.
macro_rules! device_struct {
    ($(#[$doc:meta])* $Struct:ident { $($(#[$field_doc:meta])* $field:ident: $ty:tt),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
        pub struct $Struct { $($(#[$field_doc])* pub $field: $ty),* }

        impl $Struct {
            /// Name, offset in bytes and type of each field.
            pub const FIELDS: &[crate::kernel::Field] = &[$(crate::kernel::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($Struct, $field),
                ty: stringify!($ty),
            }),*];
        }
    };
}
pub(crate) use device_struct;
