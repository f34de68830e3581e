//! Hashes and per-CPU maps of the kernel: each operation is one of bpf(2). For
//! programs, [`super::relay`] makes them. It knows no run.
//!
//! What programs call: no allocation, no lock, no libc call, no panic. An fd is
//! opened for each call and closed behind it: targets keep none.

use core::ptr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use uapi::{Errno, cmd};

use super::KernelObjects;
use super::copies::{self, Copies, Request};
use super::relay::{Ask, Layout, is_per_cpu};
use crate::kernel::{self, Attr};
use crate::maps::bytes;
use crate::maps::kind::MapKind;
use crate::maps::spec::MapSpec;
use crate::session::file;

pub(super) struct Relayed {
    objects: KernelObjects,
    key_size: usize,
    value_size: usize,
    layout: Layout,
    per_cpu: bool,
}

/// What the requests of one thread go through while it uses a map.
struct Through {
    copies: Copies,
    request: Request,
}

impl Relayed {
    pub fn new(spec: &MapSpec, objects: KernelObjects) -> Relayed {
        copies::init();
        Relayed {
            objects,
            key_size: spec.key_size as usize,
            value_size: spec.value_size as usize,
            layout: Layout::new(spec),
            per_cpu: is_per_cpu(spec),
        }
    }

    /// A new request about `key`, behind all that the run wrote before.
    ///
    /// # Safety
    /// `key` is readable for the key size.
    unsafe fn begin(&self, key: *const u8) -> Result<Through, Errno> {
        let copies = Copies::of_run().ok_or(Errno::EBUSY)?;
        bring_back(&copies);
        let request = copies.add(self, &self.layout).ok_or(Errno::ENOMEM)?;
        // SAFETY: the caller's contract, and the layout's place for keys.
        unsafe { bytes::copy(request.from(self.layout.key), key, self.key_size) };
        Ok(Through { copies, request })
    }

    /// The copy of `key` that the run has already.
    fn known(&self, through: &Through) -> Option<Request> {
        let own = through.request.from(self.layout.key);
        let is_it = |(map, request): &(*const Relayed, Request)| {
            let key = request.from(self.layout.key);
            // SAFETY: both are requests about this map, with keys of its size.
            ptr::eq(*map, self)
                && key != own
                && request.word(Layout::BACK) == Ask::Merge as u64
                && unsafe { bytes::equal(key, own, self.key_size) }
        };
        let found = through.copies.all().find(is_it);
        found.map(|(_, request)| request)
    }

    /// # Safety
    /// As [`MapKind::lookup_ptr`].
    unsafe fn find(&self, key: *const u8, ask: Ask, cpu: u32) -> *mut u8 {
        // SAFETY: the caller's contract.
        let Ok(through) = (unsafe { self.begin(key) }) else {
            return ptr::null_mut();
        };
        // Of a CPU's value there may be several copies.
        let (known, back) = match ask {
            Ask::Lookup => (self.known(&through), Ask::Merge),
            _ => (None, Ask::MergeCpu),
        };
        if known.is_some() {
            through.copies.drop_last(&self.layout);
        }
        let request = known.unwrap_or(through.request);
        request.set_word(Layout::FLAGS, u64::from(cpu));
        if self.ask(request, ask).is_err() {
            if known.is_none() {
                through.copies.drop_last(&self.layout);
            }
            return ptr::null_mut();
        }
        request.set_word(Layout::BACK, back as u64);
        self.note_base(request);
        request.from(self.layout.value)
    }

    /// What the element holds now is what later changes are told from.
    fn note_base(&self, request: Request) {
        let (value, base) = (
            request.from(self.layout.value),
            request.from(self.layout.base),
        );
        // SAFETY: both lie in the request.
        unsafe { bytes::copy(base, value, self.layout.len - self.layout.base) };
    }

    /// Brings what was written to a copy to the element; a deleted one takes
    /// nothing any more.
    fn merge(&self, request: Request) {
        let (value, base) = (
            request.from(self.layout.value),
            request.from(self.layout.base),
        );
        // SAFETY: both lie in the request.
        if unsafe { bytes::equal(value, base, self.value_size) } {
            return;
        }
        let back = match request.word(Layout::BACK) == Ask::MergeCpu as u64 {
            true => Ask::MergeCpu,
            false => Ask::Merge,
        };
        // The element has gone; or this process may not any more.
        let _ = self.ask(request, back);
        self.note_base(request);
    }

    /// Has the relay answer a request.
    fn ask(&self, request: Request, ask: Ask) -> Result<(), Errno> {
        request.set_word(Layout::ASK, ask as u64);
        request.set_word(Layout::RESULT, Errno::EINVAL.ret() as u64);
        let relay = kernel::prog_by_id(self.objects.relay)?.into_raw_fd();
        // SAFETY: open until it is closed below; `file::close`, because libc's
        // may be probed.
        let fd = unsafe { BorrowedFd::borrow_raw(relay) };
        let run = Attr::new()
            .fd(0, fd)
            .u32(40, request.1 as u32)
            .pointer(48, request.0)
            .call(cmd::BPF_PROG_TEST_RUN);
        file::close(relay);
        run?;
        match request.word(Layout::RESULT) as i64 {
            error if error < 0 => Err(Errno(-error as i32)),
            _ => Ok(()),
        }
    }

    /// Brings back what the run wrote: the next operation is to see it.
    fn settle() {
        if let Some(copies) = Copies::existing() {
            bring_back(&copies);
        }
    }

    /// `BPF_MAP_UPDATE_ELEM` or `BPF_MAP_DELETE_ELEM`.
    fn change(
        &self,
        command: u32,
        key: *const u8,
        value: *const u8,
        flags: u64,
    ) -> Result<(), Errno> {
        Relayed::settle();
        let map = kernel::map_by_id(self.objects.map, 0)?.into_raw_fd();
        let done = Attr::new()
            .u32(0, map as u32)
            .pointer(8, key)
            .pointer(16, value)
            .u64(24, flags)
            .call(command);
        file::close(map);
        done.map(drop)
    }

    /// An update of this CPU's value.
    ///
    /// # Safety
    /// `key` is readable for the key size, `value` for the value size.
    unsafe fn update_own(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        // SAFETY: the caller's contract.
        let through = unsafe { self.begin(key) }?;
        let to = through.request.from(self.layout.value);
        // SAFETY: the caller's contract, and the layout's place for values.
        unsafe { bytes::copy(to, value, self.value_size) };
        through.request.set_word(Layout::FLAGS, flags);
        let done = self.ask(through.request, Ask::Update);
        through.copies.drop_last(&self.layout);
        done
    }

    fn opened(&self) -> Result<OwnedFd, Errno> {
        kernel::map_by_id(self.objects.map, 0)
    }
}

/// Brings all that a run has written to its copies to the elements.
fn bring_back(copies: &Copies) {
    for (map, request) in copies.all() {
        // SAFETY: the maps of a program outlive its runs.
        unsafe { &*map }.merge(request);
    }
}

/// The end of a run on this thread: what it wrote to copies is brought to the
/// elements. Used from trampolines.
pub fn end_run() {
    if let Some(copies) = Copies::existing() {
        bring_back(&copies);
        copies.release();
    }
}

impl MapKind for Relayed {
    unsafe fn lookup_ptr(&self, key: *const u8, _vcpu: u32) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { self.find(key, Ask::Lookup, 0) }
    }

    unsafe fn lookup_percpu_ptr(&self, key: *const u8, cpu: u32) -> *mut u8 {
        match self.per_cpu {
            // SAFETY: the caller's contract.
            true => unsafe { self.find(key, Ask::LookupCpu, cpu) },
            false => ptr::null_mut(),
        }
    }

    unsafe fn update_prog(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        _vcpu: u32,
    ) -> Result<(), Errno> {
        match self.per_cpu {
            // SAFETY: the caller's contract.
            true => unsafe { self.update_own(key, value, flags) },
            false => self.change(cmd::BPF_MAP_UPDATE_ELEM, key, value, flags),
        }
    }

    unsafe fn delete_prog(&self, key: *const u8) -> Result<(), Errno> {
        self.change(cmd::BPF_MAP_DELETE_ELEM, key, ptr::null(), 0)
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        kernel::lookup(self.opened()?.as_fd(), key, value, 0)
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        kernel::update(self.opened()?.as_fd(), key, value, flags)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        kernel::delete(self.opened()?.as_fd(), key)
    }

    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        kernel::lookup_and_delete(self.opened()?.as_fd(), key, value)
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        kernel::next_key(self.opened()?.as_fd(), key, next)
    }
}
