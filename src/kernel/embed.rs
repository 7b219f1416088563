//! WGSL as it is embedded in programs: for browsers without comments and indentation, which would
//! otherwise be a third of what a page loads of it.

/// Whether to leave comments and indentation out: not where [`contract`](crate::kernel::contract) reads
/// them, nor natively, where messages of compilers point at lines.
pub const SQUEEZES: bool = cfg!(all(target_arch = "wasm32", not(feature = "contract")));

/// Length of [`squeezed`] text.
pub const fn squeezed_length(source: &str) -> usize {
    squeeze(source, &mut [])
}

/// The text without comments, indentation and empty lines; `N` is its [`squeezed_length`].
pub const fn squeezed<const N: usize>(source: &str) -> [u8; N] {
    let mut text = [0; N];
    squeeze(source, &mut text);
    text
}

/// Writes what fits into `text`, and returns how much there is.
const fn squeeze(source: &str, text: &mut [u8]) -> usize {
    let source = source.as_bytes();
    let (mut at, mut length) = (0, 0);
    let mut line_is_empty = true;
    while at < source.len() {
        let byte = source[at];
        at += 1;
        // WGSL has no strings that slashes could stand in.
        if byte == b'/' && at < source.len() && source[at] == b'/' {
            while at < source.len() && source[at] != b'\n' {
                at += 1;
            }
            continue;
        }
        if line_is_empty && (byte == b' ' || byte == b'\n') {
            continue;
        }
        line_is_empty = byte == b'\n';
        if length < text.len() {
            text[length] = byte;
        }
        length += 1;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_indentation_are_left_out() {
        const SOURCE: &str = "// y = x / 2.\n\n    fn half(x: f32) -> f32 { // exact\n        return x / 2.0;\n    }\n";
        const SQUEEZED: [u8; squeezed_length(SOURCE)] = squeezed(SOURCE);
        let text = std::str::from_utf8(&SQUEEZED).expect("UTF-8");
        assert_eq!(text, "fn half(x: f32) -> f32 { \nreturn x / 2.0;\n}\n");
    }

    /// A parsed program, without where in the text things are.
    fn module(text: &str) -> String {
        let module = format!("{:?}", naga::front::wgsl::parse_str(text).expect("valid WGSL"));
        let mut pieces = module.split("Span {");
        let before = pieces.next().expect("a first piece").to_owned();
        pieces.fold(before, |text, piece| text + piece.split_once('}').expect("closed").1)
    }

    /// What browsers get is the same program.
    #[test]
    fn every_kernel_squeezed_is_the_same_module() {
        for kernel in crate::kernels::all() {
            let source = kernel.source();
            let mut text = vec![0; squeezed_length(&source)];
            squeeze(&source, &mut text);
            let text = String::from_utf8(text).expect("UTF-8");
            assert!(text.len() < source.len() && !text.contains("//"), "{}", kernel.name);
            assert!(module(&source) == module(&text), "{}", kernel.name);
        }
    }
}
