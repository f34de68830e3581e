//! Callbacks of which the engine knows that they need little. It knows no
//! instruction.

use super::SyscallProbe;

/// Like [`super::SyscallCallback`], for code that needs the record only, changes
/// no register but the general ones that a C function may change, and takes the
/// stack as it is aligned.
///
/// The record has eight words at enter: any, the number, six arguments; and
/// three at exit: any, the number (for [`LightCallback::is_raw`] the result),
/// the result. It is not to be changed. The second argument is null.
pub type LightFunction = unsafe extern "C" fn(record: *mut u8, nothing: *mut ()) -> u64;

/// What a light probe is.
#[derive(Clone, Copy, Debug)]
pub struct LightCallback {
    /// Called in the place of the probe's callback, where that may be.
    pub function: LightFunction,
    /// The record's second word at exit is the result.
    pub is_raw: bool,
}

impl PartialEq for LightCallback {
    fn eq(&self, other: &LightCallback) -> bool {
        self.is_raw == other.is_raw && core::ptr::fn_addr_eq(self.function, other.function)
    }
}

/// What trampolines read of a list: its only probe, if that is light.
#[repr(C)]
pub(crate) struct Light {
    /// Null if they are to do everything.
    pub(crate) code: Option<LightFunction>,
    /// Where in a thread's block hits are counted.
    pub(crate) hits: u32,
    pub(crate) is_raw: u32,
}

impl Light {
    pub(crate) fn of(probes: &[SyscallProbe]) -> Light {
        let none = Light {
            code: None,
            hits: 0,
            is_raw: 0,
        };
        let [probe] = probes else { return none };
        let (Some(light), Ok(hits)) = (probe.light, u32::try_from(probe.hits.offset())) else {
            return none;
        };
        Light {
            code: Some(light.function),
            hits,
            is_raw: u32::from(light.is_raw),
        }
    }
}
