//! Helpers whose work is part of the code: look-ups in arrays. Knows what the
//! linker says of maps, not what they are.

use super::Compiler;

impl Compiler<'_> {
    /// Calls a helper, or does its work.
    pub(super) fn helper(&mut self, _id: Option<u32>, address: u64) {
        self.call_helper(address);
    }
}
