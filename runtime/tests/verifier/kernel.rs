//! The running kernel's verdict on a case, by bpf(2).

use bpftime_runtime::maps::MapSpec;
use uapi::Insn;
use uapi::insn::{BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE};

use super::Case;

/// Bytes of the attributes that we fill.
const ATTR: usize = 128;

/// The attributes of one bpf(2) call, by byte offset (include/uapi/linux/bpf.h).
struct Attr([u8; ATTR]);

impl Attr {
    fn new(words: &[(usize, u32)]) -> Attr {
        let mut attr = Attr([0; ATTR]);
        for &(at, word) in words {
            attr.0[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        attr
    }

    fn bytes<T>(mut self, at: usize, bytes: &[T]) -> Attr {
        let address = bytes.as_ptr() as u64;
        self.0[at..at + 8].copy_from_slice(&address.to_le_bytes());
        self
    }

    fn call(&self, command: libc::c_long) -> Result<Fd, i32> {
        // SAFETY: bpf(2) reads ATTR bytes and the buffers that the caller put
        // into the attributes, all alive for the call; the log buffer is the
        // only one it writes, and nobody else refers to it.
        let got = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), ATTR) };
        if got < 0 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        Ok(Fd(got as i32))
    }
}

/// A descriptor that bpf(2) gave.
struct Fd(i32);

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: it is used nowhere else.
        unsafe { libc::close(self.0) };
    }
}

/// Errno of `BPF_BTF_LOAD`; 0 when the kernel takes it, `None` when this
/// process may not ask.
pub fn load_types(bytes: &[u8]) -> Option<i32> {
    asked(types(bytes).map_or_else(|errno| errno, |_| 0))
}

fn types(bytes: &[u8]) -> Result<Fd, i32> {
    Attr::new(&[(16, bytes.len() as u32)])
        .bytes(0, bytes)
        .call(18)
}

/// Outside CI a process without privileges leaves the kernel out.
fn asked(errno: i32) -> Option<i32> {
    let skips = errno == libc::EPERM && std::env::var_os("CI").is_none();
    (!skips).then_some(errno)
}

/// Errno of `BPF_MAP_CREATE`, or of the types before it, where the kernel
/// looks for special parts already; 0 when it makes the map.
pub fn make_map(description: &[u8], spec: &MapSpec) -> Option<i32> {
    let made = types(description).and_then(|btf| map(spec, &btf, None));
    asked(made.map_or_else(|errno| errno, |_| 0))
}

fn map(spec: &MapSpec, btf: &Fd, inner: Option<&Fd>) -> Result<Fd, i32> {
    let mut words = vec![
        (0, spec.map_type),
        (4, spec.key_size),
        (8, spec.value_size),
        (12, spec.max_entries),
        (16, spec.map_flags),
    ];
    words.extend(inner.map(|inner| (20, inner.0 as u32)));
    if spec.btf_value_type_id != 0 {
        words.extend([
            (48, btf.0 as u32),
            (52, spec.btf_key_type_id),
            (56, spec.btf_value_type_id),
        ]);
    }
    Attr::new(&words).call(0)
}

/// Errno and log of loading a case.
pub fn load(case: &Case) -> Option<(i32, String)> {
    let (result, log) = program(case)?;
    let errno = asked(result.map_or_else(|errno| errno, |_| 0))?;
    Some((errno, log))
}

/// r0 of running a case once.
pub fn run(case: &Case) -> Option<u32> {
    let (result, log) = program(case)?;
    let fd = match result {
        Ok(fd) => fd,
        Err(errno) => {
            asked(errno)?;
            panic!("the kernel refuses the program: {errno}\n{log}");
        }
    };
    let mut attr = Attr::new(&[(0, fd.0 as u32)]);
    // SAFETY: bpf(2) reads and writes the attributes, which nobody else uses.
    let ran = unsafe { libc::syscall(libc::SYS_bpf, 10, attr.0.as_mut_ptr(), ATTR) };
    assert_eq!(
        ran,
        0,
        "BPF_PROG_TEST_RUN: {}",
        std::io::Error::last_os_error()
    );
    Some(u32::from_le_bytes([
        attr.0[4], attr.0[5], attr.0[6], attr.0[7],
    ]))
}

/// The loaded program or errno, and the log.
fn program(case: &Case) -> Option<(Result<Fd, i32>, String)> {
    let description = case.types.finish();
    let btf = match types(&description) {
        Ok(fd) => fd,
        Err(errno) => {
            asked(errno)?;
            panic!("the kernel refuses the types: {errno}");
        }
    };
    let mut maps: Vec<Fd> = Vec::new();
    for (number, spec) in case.maps.iter().enumerate() {
        let inner = case.inner.get(number).copied().unwrap_or(0);
        let inner = inner.checked_sub(1).map(|inner| &maps[inner]);
        let made = map(spec, &btf, inner);
        maps.push(made.unwrap_or_else(|errno| panic!("the kernel refuses map {number}: {errno}")));
    }
    let mut insns: Vec<Insn> = case.insns();
    for insn in &mut insns {
        let names = [BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE];
        if insn.code == 0x18 && names.contains(&insn.src()) {
            insn.imm = maps[insn.imm as usize - 1].0;
        }
    }
    let records = case.func_info();
    let mut log = vec![0u8; 1 << 26];
    let mut words = vec![
        (0, case.prog_type),
        (4, insns.len() as u32),
        (24, 2),
        (28, log.len() as u32),
        (44, case.prog_flags),
    ];
    if records.count() != 0 {
        words.extend([
            (72, btf.0 as u32),
            (76, records.size),
            (88, records.count()),
        ]);
    }
    let lines = case.line_info();
    if lines.count() != 0 {
        words.extend([(72, btf.0 as u32), (92, lines.size), (104, lines.count())]);
    }
    let result = Attr::new(&words)
        .bytes(8, &insns)
        .bytes(16, c"GPL".to_bytes_with_nul())
        .bytes(32, &log[..])
        .bytes(80, &records.bytes)
        .bytes(96, &lines.bytes)
        .call(5);
    // The kernel wrote to it behind the compiler's back.
    let log = std::hint::black_box(&mut log);
    let end = log.iter().position(|&b| b == 0).unwrap_or(0);
    Some((result, String::from_utf8_lossy(&log[..end]).into_owned()))
}
