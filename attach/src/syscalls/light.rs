//! Callbacks of which the engine knows that they need the record only. It knows
//! no instruction.

use super::SyscallProbe;

/// Like [`super::SyscallCallback`], for who needs the record only.
///
/// The record has eight words at enter: any, the number, six arguments; and
/// three at exit: any, the number (for [`LightCallback::is_raw`] the result),
/// the result. It is not to be changed. The second argument is
/// [`LightCallback::data`].
pub type LightFunction = unsafe extern "C" fn(record: *mut u8, data: *mut ()) -> u64;

/// What a light probe is.
#[derive(Clone, Copy, Debug)]
pub struct LightCallback {
    /// Called in the place of the probe's callback, where that may be.
    pub function: LightFunction,
    /// Passed to it as it is.
    pub data: *const (),
    /// It is compiled code, which may change vector registers, and expects an
    /// aligned stack and DF clear. Else it changes no register but the general
    /// ones that a C function may change, and takes DF and the stack as they are.
    pub needs_vectors: bool,
    /// The record's second word at exit is the result.
    pub is_raw: bool,
}

impl PartialEq for LightCallback {
    fn eq(&self, other: &LightCallback) -> bool {
        (self.data, self.needs_vectors, self.is_raw)
            == (other.data, other.needs_vectors, other.is_raw)
            && core::ptr::fn_addr_eq(self.function, other.function)
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
    pub(crate) needs_vectors: u32,
    pub(crate) data: *const (),
}

impl Light {
    pub(crate) fn of(probes: &[SyscallProbe]) -> Light {
        let none = Light {
            code: None,
            hits: 0,
            is_raw: 0,
            needs_vectors: 0,
            data: core::ptr::null(),
        };
        let [probe] = probes else { return none };
        let (Some(light), Ok(hits)) = (probe.light, u32::try_from(probe.hits.offset())) else {
            return none;
        };
        Light {
            code: Some(light.function),
            hits,
            is_raw: u32::from(light.is_raw),
            needs_vectors: u32::from(light.needs_vectors),
            data: light.data,
        }
    }
}
