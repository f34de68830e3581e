//! Kfuncs on dynptrs.

use vm::Run;

use super::super::dynptr::DynPtr;
use super::int;

/// The dynptr in a register.
///
/// # Safety
/// The verifier accepted the register as an initialised dynptr.
unsafe fn load(register: u64) -> DynPtr {
    // SAFETY: the caller's promise.
    unsafe { DynPtr::load(register as *const u8) }
}

/// `int bpf_dynptr_adjust(p, u32 start, u32 end)`: keeps `start..end`.
/// EINVAL for a null dynptr or an end before the start, ERANGE beyond the end.
pub(super) unsafe extern "C" fn adjust(
    p: u64,
    start: u64,
    end: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    // SAFETY: the verifier proved `p`.
    let mut dynptr = unsafe { load(p) };
    let result = dynptr.adjust(start as u32, end as u32);
    // SAFETY: as above.
    unsafe { dynptr.store(p as *mut u8) };
    int(result)
}

/// `bool bpf_dynptr_is_null(p)`.
pub(super) unsafe extern "C" fn is_null(
    p: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    // SAFETY: the verifier proved `p`.
    unsafe { load(p) }.is_null().into()
}

/// `bool bpf_dynptr_is_rdonly(p)`: false for a null dynptr.
pub(super) unsafe extern "C" fn is_rdonly(
    p: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    // SAFETY: the verifier proved `p`.
    let dynptr = unsafe { load(p) };
    (!dynptr.is_null() && dynptr.is_read_only()).into()
}

/// `u32 bpf_dynptr_size(p)`: -EINVAL for a null dynptr.
pub(super) unsafe extern "C" fn size(p: u64, _: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    // SAFETY: the verifier proved `p`.
    let dynptr = unsafe { load(p) };
    if dynptr.is_null() {
        return int(Err(uapi::Errno::EINVAL));
    }
    dynptr.len().into()
}

/// `int bpf_dynptr_clone(p, clone)`: EINVAL for a null dynptr, of which the
/// copy is null, too.
pub(super) unsafe extern "C" fn clone(
    p: u64,
    clone: u64,
    _: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    // SAFETY: the verifier proved both.
    let dynptr = unsafe {
        let dynptr = load(p);
        dynptr.store(clone as *mut u8);
        dynptr
    };
    int(if dynptr.is_null() {
        Err(uapi::Errno::EINVAL)
    } else {
        Ok(())
    })
}

/// `void *bpf_dynptr_slice(p, u32 offset, buffer, u32 len)`: the address of
/// `len` bytes, or NULL. Only packets may need the buffer.
pub(super) unsafe extern "C" fn slice(
    p: u64,
    offset: u64,
    _buffer: u64,
    len: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    // SAFETY: the verifier proved `p`.
    let dynptr = unsafe { load(p) };
    dynptr
        .bytes(offset as u32, len as u32)
        .map_or(0, |data| data as u64)
}

/// `void *bpf_dynptr_slice_rdwr(p, u32 offset, buffer, u32 len)`: as
/// `bpf_dynptr_slice`, NULL if it may not be written.
pub(super) unsafe extern "C" fn slice_rdwr(
    p: u64,
    offset: u64,
    buffer: u64,
    len: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    // SAFETY: the verifier proved `p`.
    let dynptr = unsafe { load(p) };
    if dynptr.is_read_only() {
        return 0;
    }
    // SAFETY: the same arguments.
    unsafe { slice(p, offset, buffer, len, 0, run) }
}
