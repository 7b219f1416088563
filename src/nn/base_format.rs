//! What a model must be like for its weights to lie in blocks.

use super::gpt_config::check;
use crate::error::Result;
use crate::kernel::BlockFormat;
use crate::nn::GptConfig;

impl GptConfig {
    /// Fails where rows of weights in [`base_format`](Self::base_format) are not made of blocks.
    pub(super) fn validate_blocks(&self) -> Result<()> {
        if self.base_format.is_none() {
            return Ok(());
        }
        let whole = |size: usize| size.is_multiple_of(BlockFormat::ELEMENTS);
        let range = "a multiple of 32 with base_format, whose blocks are rows of 32 weights";
        let columns = [
            ("width", self.width),
            ("hidden", self.hidden),
            ("heads * head_dim", self.heads * self.head_dim()),
        ];
        check(columns.map(|(name, size)| (name, size.to_string(), whole(size), range)))?;
        let range = "None with base_format, which holds what the clip changes";
        check([("qk_clip", "Some".into(), self.qk_clip.is_none(), range)])
    }
}
