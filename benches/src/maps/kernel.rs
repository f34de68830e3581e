//! The same programs in the kernel, timed by `BPF_PROG_TEST_RUN`. They are
//! socket filters: the one type of all that may call the helpers of maps that
//! the kernel runs over and over by itself.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use runtime::maps::MapSpec;
use shm::PAGE;
use uapi::Insn;
use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD};

const BPF_MAP_CREATE: i64 = 0;
const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_TEST_RUN: i64 = 10;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// A map of the kernel.
pub struct KernelMap(OwnedFd);

/// A program of the kernel.
pub struct KernelProgram(OwnedFd);

impl KernelMap {
    /// Makes the map that `spec` describes.
    pub fn create(spec: &MapSpec) -> Result<KernelMap> {
        let attr = [
            spec.map_type,
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            spec.map_flags,
        ];
        Ok(KernelMap(fd(BPF_MAP_CREATE, &attr)?))
    }

    /// Reads all there is in a ring, as far as producers can tell.
    pub fn drain(&self) -> Result<()> {
        let page = |number: libc::off_t, protection: i32| {
            let (fd, bytes) = (self.0.as_raw_fd(), PAGE as usize);
            // SAFETY: a new mapping of our own.
            let page = unsafe {
                let at = number * PAGE as libc::off_t;
                libc::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    protection,
                    libc::MAP_SHARED,
                    fd,
                    at,
                )
            };
            (page != libc::MAP_FAILED)
                .then_some(page.cast::<AtomicU64>())
                .context("a page of the ring")
        };
        let consumer = page(0, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = page(1, libc::PROT_READ)?;
        // SAFETY: pages that were just mapped, whose first words are the positions.
        unsafe {
            (*consumer).store((*producer).load(Ordering::Acquire), Ordering::Release);
            libc::munmap(consumer.cast(), PAGE as usize);
            libc::munmap(producer.cast(), PAGE as usize);
        }
        Ok(())
    }
}

impl KernelProgram {
    /// Loads a program in which maps are named by their place in `maps`, from 1.
    pub fn load(insns: &[Insn], maps: &[KernelMap]) -> Result<KernelProgram> {
        let mut bytes = Vec::new();
        for &insn in insns {
            let mut insn = insn;
            if insn.code == BPF_LD | BPF_IMM | BPF_DW && insn.src() == BPF_PSEUDO_MAP_FD {
                let map = maps.get(insn.imm as usize - 1).context("a map")?;
                insn.imm = map.0.as_raw_fd();
            }
            bytes.extend(insn.to_bytes());
        }
        #[repr(C)]
        struct Attr {
            prog_type: u32,
            count: u32,
            insns: u64,
            license: u64,
        }
        let attr = Attr {
            prog_type: BPF_PROG_TYPE_SOCKET_FILTER,
            count: insns.len() as u32,
            insns: bytes.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        Ok(KernelProgram(fd(BPF_PROG_LOAD, &attr)?))
    }

    /// Runs it `repeat` times: nanoseconds of one.
    pub fn time(&self, repeat: u32) -> Result<f64> {
        #[repr(C)]
        struct Attr {
            fd: u32,
            retval: u32,
            data_in_len: u32,
            data_out_len: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            more: [u64; 5],
        }
        let packet = [0u8; 64];
        let mut attr = Attr {
            fd: self.0.as_raw_fd() as u32,
            retval: 0,
            data_in_len: packet.len() as u32,
            data_out_len: 0,
            data_in: packet.as_ptr() as u64,
            data_out: 0,
            repeat,
            duration: 0,
            more: [0; 5],
        };
        bpf(BPF_PROG_TEST_RUN, &raw mut attr)?;
        Ok(f64::from(attr.duration))
    }
}

fn fd<T>(command: i64, attr: &T) -> Result<OwnedFd> {
    let fd = bpf(command, std::ptr::from_ref(attr).cast_mut())?;
    // SAFETY: the kernel just gave us this fd.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: i64, attr: *mut T) -> Result<i32> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attr`, and
    // reads what its addresses point to, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    i32::try_from(result)
        .ok()
        .filter(|&result| result >= 0)
        .ok_or_else(std::io::Error::last_os_error)
        .context("bpf(2)")
}
