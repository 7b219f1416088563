//! A piece of WGSL text and how it is embedded: `wgsl!`.

/// One piece of WGSL text, with the path it came from.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// The path as written in [`wgsl!`](crate::wgsl!).
    pub path: &'static str,
    /// The text.
    pub text: &'static str,
}

impl Fragment {
    /// The file name without directories and `.wgsl`: the kernel's name.
    pub const fn stem(&self) -> &'static str {
        let (mut start, mut i) = (0, 0);
        while i < self.path.len() {
            if self.path.as_bytes()[i] == b'/' {
                start = i + 1;
            }
            i += 1;
        }
        let name = self.path.split_at(start).1;
        name.split_at(name.len() - ".wgsl".len()).0
    }
}

/// A WGSL file as a [`Fragment`], its path relative to the Rust file that names it.
#[macro_export]
macro_rules! wgsl {
    ($path:literal) => {{
        const SOURCE: &str = include_str!($path);
        const SQUEEZED: &[u8] = &$crate::kernel::embed::squeezed::<
            {
                if $crate::kernel::embed::SQUEEZES {
                    $crate::kernel::embed::squeezed_length(SOURCE)
                } else {
                    0
                }
            },
        >(SOURCE);
        const TEXT: &str = match ::std::str::from_utf8(SQUEEZED) {
            Ok(squeezed) if $crate::kernel::embed::SQUEEZES => squeezed,
            _ => SOURCE,
        };
        $crate::kernel::Fragment { path: $path, text: TEXT }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stem_is_the_file_name() {
        assert_eq!(
            Fragment { path: "../../shaders/layer_norm.wgsl", text: "" }.stem(),
            "layer_norm"
        );
        assert_eq!(Fragment { path: "a.wgsl", text: "" }.stem(), "a");
    }
}
