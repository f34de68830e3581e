//! Dynptrs: memory of a size that only the run knows, named by 16 bytes of
//! the program's stack (kernel: `struct bpf_dynptr_kern`). The verifier keeps
//! every other access away from those bytes. It knows map values and ring
//! buffer records; packets are the kernel's.

use core::ptr;

use uapi::Errno;

use super::row::{
    AllocLen, Any, Bytes, LenOrZero, MadeDynPtr, MadeRingbufDynPtr, Record, ReleasedDynPtr, Room,
    SliceOrNull, SomeDynPtr, helper,
};
use crate::maps::{Map, bytes};

/// Largest size (kernel: `DYNPTR_MAX_SIZE`).
const MAX_SIZE: u32 = (1 << 24) - 1;
/// Bits of `size` that are the size.
const SIZE_MASK: u32 = MAX_SIZE;
/// Where the type stands in `size`.
const TYPE_SHIFT: u32 = 28;
/// The bit of `size` that forbids writes.
const READ_ONLY: u32 = 1 << 31;

/// `BPF_DYNPTR_TYPE_LOCAL`.
const LOCAL: u32 = 1;
/// `BPF_DYNPTR_TYPE_RINGBUF`.
const RINGBUF: u32 = 2;

/// What the 16 bytes hold.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct DynPtr {
    /// Where the memory begins; null for a dynptr of nothing.
    data: *mut u8,
    /// Size, type and the read-only bit.
    size: u32,
    /// Bytes at the start that were cut off.
    offset: u32,
}

impl DynPtr {
    const NULL: DynPtr = DynPtr {
        data: ptr::null_mut(),
        size: 0,
        offset: 0,
    };

    fn new(data: *mut u8, kind: u32, size: u32) -> DynPtr {
        DynPtr {
            data,
            size: size | kind << TYPE_SHIFT,
            offset: 0,
        }
    }

    /// Of `len` bytes that may be read and written, at most [`MAX_SIZE`].
    pub(super) fn local(data: *mut u8, len: u32) -> DynPtr {
        DynPtr::new(data, LOCAL, len)
    }

    /// The dynptr at an address that the verifier took for one.
    ///
    /// # Safety
    /// `at` is an initialised dynptr.
    #[inline]
    pub(super) unsafe fn load(at: *const u8) -> DynPtr {
        // SAFETY: the caller's promise; the verifier wants it on a multiple
        // of 8, but nothing here does.
        unsafe { at.cast::<DynPtr>().read_unaligned() }
    }

    /// # Safety
    /// `at` is 16 bytes of the program's stack that become a dynptr, or are one.
    #[inline]
    pub(super) unsafe fn store(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<DynPtr>().write_unaligned(self) }
    }

    pub(super) fn is_null(&self) -> bool {
        self.data.is_null()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.size & READ_ONLY != 0
    }

    pub(super) fn len(&self) -> u32 {
        self.size & SIZE_MASK
    }

    /// The address of `len` bytes at `offset`.
    pub(super) fn bytes(&self, offset: u32, len: u32) -> Result<*mut u8, Errno> {
        if self.is_null() {
            return Err(Errno::EINVAL);
        }
        if len > self.len() || offset > self.len() - len {
            return Err(Errno::E2BIG);
        }
        let start = self.offset as usize + offset as usize;
        Ok(self.data.wrapping_add(start))
    }

    /// Cuts off what is not in `start..end`.
    pub(super) fn adjust(&mut self, start: u32, end: u32) -> Result<(), Errno> {
        if self.is_null() || start > end {
            return Err(Errno::EINVAL);
        }
        if end > self.len() {
            return Err(Errno::ERANGE);
        }
        self.offset += start;
        self.size = (self.size & !SIZE_MASK) | (end - start);
        Ok(())
    }
}

/// Copies `len` bytes that may overlap.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes.
unsafe fn move_bytes(to: *mut u8, from: *const u8, len: usize) {
    if to.addr() <= from.addr() || to.addr() - from.addr() >= len {
        // SAFETY: the caller's promise; front to back, no byte is
        // overwritten before it was read.
        unsafe { bytes::copy(to, from, len) };
        return;
    }
    for at in (0..len).rev() {
        // SAFETY: the caller's promise.
        unsafe { bytes::copy(to.wrapping_add(at), from.wrapping_add(at), 1) };
    }
}

/// Stores what a call made, or a null dynptr and the reason.
///
/// # Safety
/// As [`DynPtr::store`].
unsafe fn made(at: *mut u8, result: Result<DynPtr, Errno>) -> i64 {
    let (dynptr, ret) = match result {
        Ok(dynptr) => (dynptr, 0),
        Err(errno) => (DynPtr::NULL, errno.ret()),
    };
    // SAFETY: the caller's promise.
    unsafe { dynptr.store(at) };
    ret
}

helper! {
    /// bpf_dynptr_from_mem: a dynptr of `len` bytes of a map value. Errors:
    /// EINVAL for flags, E2BIG above 16 MiB; the dynptr is null then.
    fn dynptr_from_mem(run, data: Room, len: LenOrZero, flags: Any, to: MadeDynPtr) -> i64 = BPF_FUNC_DYNPTR_FROM_MEM {
        let result = match u32::try_from(len.0) {
            _ if flags.0 != 0 => Err(Errno::EINVAL),
            Ok(size) if size <= MAX_SIZE => Ok(DynPtr::new(data.0, LOCAL, size)),
            _ => Err(Errno::E2BIG),
        };
        // SAFETY: the verifier proved `to`.
        unsafe { made(to.0, result) }
    }
}

helper! {
    /// bpf_ringbuf_reserve_dynptr: a dynptr of a record of `size` bytes, which
    /// must be submitted or discarded even if it is null. Errors: EINVAL for
    /// flags or when full, E2BIG above 16 MiB.
    fn ringbuf_reserve_dynptr(run, map: &'static Map, size: Any, flags: Any, to: MadeRingbufDynPtr) -> i64 = BPF_FUNC_RINGBUF_RESERVE_DYNPTR {
        let size = size.0 as u32;
        let ring = map.ring().filter(|ring| run.uses_ring(ring));
        let result = if flags.0 != 0 {
            Err(Errno::EINVAL)
        } else if size > MAX_SIZE {
            Err(Errno::E2BIG)
        } else {
            match ring.map(|ring| ring.reserve(size.into())) {
                Some(record) if !record.is_null() => Ok(DynPtr::new(record, RINGBUF, size)),
                _ => Err(Errno::EINVAL),
            }
        };
        // SAFETY: the verifier proved `to`.
        unsafe { made(to.0, result) }
    }
}

/// Submits or discards the record behind a dynptr.
///
/// # Safety
/// `at` is a dynptr of a record, which ends here.
unsafe fn commit(run: &crate::run::RunState, at: *mut u8, flags: u64, discard: bool) {
    // SAFETY: the caller's promise.
    let dynptr = unsafe { DynPtr::load(at) };
    if !dynptr.is_null() {
        super::ringbuf::commit(run, Record(dynptr.data), flags, discard);
    }
    // SAFETY: the caller's promise.
    unsafe { DynPtr::NULL.store(at) };
}

helper! {
    /// bpf_ringbuf_submit_dynptr: hands the record to the reader; nothing for
    /// a null dynptr.
    fn ringbuf_submit_dynptr(run, dynptr: ReleasedDynPtr, flags: Any) -> () = BPF_FUNC_RINGBUF_SUBMIT_DYNPTR {
        // SAFETY: the verifier proved `dynptr`.
        unsafe { commit(run, dynptr.0, flags.0, false) }
    }
}

helper! {
    /// bpf_ringbuf_discard_dynptr: gives the record up.
    fn ringbuf_discard_dynptr(run, dynptr: ReleasedDynPtr, flags: Any) -> () = BPF_FUNC_RINGBUF_DISCARD_DYNPTR {
        // SAFETY: the verifier proved `dynptr`.
        unsafe { commit(run, dynptr.0, flags.0, true) }
    }
}

helper! {
    /// bpf_dynptr_read: `len` bytes from `offset` on. Errors: EINVAL for flags
    /// or a null dynptr, E2BIG beyond its end.
    fn dynptr_read(run, to: Room, len: LenOrZero, from: SomeDynPtr, offset: Any, flags: Any) -> i64 = BPF_FUNC_DYNPTR_READ {
        if flags.0 != 0 {
            return Errno::EINVAL.ret();
        }
        // SAFETY: the verifier proved `from`.
        let dynptr = unsafe { DynPtr::load(from.0) };
        match dynptr.bytes(offset.0 as u32, len.0 as u32) {
            Ok(data) => {
                // SAFETY: `data` has `len` bytes as just checked, `to` as the
                // verifier proved.
                unsafe { move_bytes(to.0, data, len.0 as u32 as usize) };
                0
            }
            Err(errno) => errno.ret(),
        }
    }
}

helper! {
    /// bpf_dynptr_write: puts `len` bytes at `offset`. Errors: EINVAL for
    /// flags, a null or read-only dynptr, E2BIG beyond its end.
    fn dynptr_write(run, to: SomeDynPtr, offset: Any, from: Bytes, len: LenOrZero, flags: Any) -> i64 = BPF_FUNC_DYNPTR_WRITE {
        // SAFETY: the verifier proved `to`.
        let dynptr = unsafe { DynPtr::load(to.0) };
        if dynptr.is_null() || dynptr.is_read_only() {
            return Errno::EINVAL.ret();
        }
        match dynptr.bytes(offset.0 as u32, len.0 as u32) {
            Ok(_) if flags.0 != 0 => Errno::EINVAL.ret(),
            Ok(data) => {
                // SAFETY: `data` has `len` bytes as just checked, `from` as
                // the verifier proved.
                unsafe { move_bytes(data, from.0, len.0 as u32 as usize) };
                0
            }
            Err(errno) => errno.ret(),
        }
    }
}

helper! {
    /// bpf_dynptr_data: the address of `len` bytes at `offset`, or NULL.
    fn dynptr_data(run, of: SomeDynPtr, offset: Any, len: AllocLen) -> SliceOrNull = BPF_FUNC_DYNPTR_DATA {
        // SAFETY: the verifier proved `of`.
        let dynptr = unsafe { DynPtr::load(of.0) };
        SliceOrNull(match dynptr.bytes(offset.0 as u32, len.0 as u32) {
            Ok(data) if !dynptr.is_read_only() => data,
            _ => ptr::null_mut(),
        })
    }
}
