//! The callback for programs that call nothing but hold a vCPU: claims that of
//! this CPU, runs the program and gives it back, changing no vector register.
//! Whatever is not as on most hits is left to [`on_hit`].

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

use attach::{Around, bpftime_attach_saving_vectors};
use runtime::run::{ProcessEnv, RunState};
use runtime::thread::Remembered;
use runtime::vcpu::CLAIM_BYTES;
use uapi::PtRegs;

use crate::hit::{Hit, on_hit};

/// What the callback looks at besides the program; valid while the
/// [`ProcessEnv`] lives that it was made from.
pub(crate) struct Claims {
    first: *const AtomicU64,
    count: u32,
    ids: Remembered,
}

impl Claims {
    /// Those of `env`; `None` where threads or CPUs are not known so quickly.
    pub(crate) fn of(env: &ProcessEnv) -> Option<Claims> {
        Some(Claims {
            first: env.vcpus.first_for_rdpid()?,
            count: env.vcpus.count(),
            ids: Remembered::new()?,
        })
    }

    /// What the callback does around a program, for a block of code: the claim,
    /// and a run of which only the vCPU's word is there.
    pub(crate) fn around(&self) -> Option<Around> {
        const RUN: u8 = Around::OWN.wrapping_sub(offset_of!(RunState, vcpu) as u8);
        let words = i32::try_from(self.ids.words() as isize).ok()?;
        let mut code = Code::default();
        code.add(b"\xf3\x41\x0f\xc7\xf8"); // rdpid r8
        code.add(b"\x41\x81\xe0\xff\x0f\0\0"); // and r8d, 0xfff
        code.add(b"\x41\x81\xf8"); // cmp r8d, count
        code.add(&self.count.to_le_bytes());
        code.give_up_if(0x83); // jae
        code.add(b"\x48\xb8"); // mov rax, epoch
        code.add(&(self.ids.epoch().addr() as u64).to_le_bytes());
        code.add(b"\x48\x8b\x00"); // mov rax, [rax]
        code.add(b"\x48\x85\xc0"); // test rax, rax
        code.give_up_if(0x84); // jz
        code.add(b"\x64\x48\x3b\x04\x25"); // cmp rax, fs:[words + 8]
        code.add(&(words + 8).to_le_bytes());
        code.give_up_if(0x85); // jne
        code.add(b"\x64\x48\x8b\x14\x25"); // mov rdx, fs:[words]
        code.add(&words.to_le_bytes());
        code.add(b"\x44\x89\xc6"); // mov esi, r8d
        code.add(&[0x48, 0xc1, 0xe6, CLAIM_BYTES.trailing_zeros() as u8]); // shl rsi, shift
        code.add(b"\x48\xb8"); // mov rax, first
        code.add(&(self.first.addr() as u64).to_le_bytes());
        code.add(b"\x48\x01\xc6"); // add rsi, rax
        code.add(b"\x31\xc0"); // xor eax, eax
        code.add(b"\xf0\x48\x0f\xb1\x16"); // lock cmpxchg [rsi], rdx
        code.give_up_if(0x85); // jne
        code.add(&[0x44, 0x89, 0x44, 0x24, Around::OWN]); // mov [rsp + own], r8d
        code.add(&[0x48, 0x89, 0x74, 0x24, Around::OWN + 8]); // mov [rsp + own + 8], rsi
        code.add(&[0x48, 0x8d, 0x74, 0x24, RUN]); // lea rsi, [rsp + run]
        let mut after = vec![0x48, 0x8b, 0x44, 0x24, Around::OWN + 8]; // mov rax, [rsp + own + 8]
        after.extend(b"\x48\xc7\x00\0\0\0\0"); // mov qword ptr [rax], 0
        Some(Around {
            before: code.bytes,
            gives_up: code.gives_up,
            after,
            // rax rdx rsi r8
            changed: 1 | 1 << 2 | 1 << 6 | 1 << 8,
        })
    }

    /// Never leads to a claim.
    pub(crate) const NONE: Claims = Claims {
        first: core::ptr::null(),
        count: 0,
        ids: Remembered::NOTHING,
    };
}

const _: () = assert!(offset_of!(RunState, vcpu) <= Around::OWN as usize + 128);

/// Machine code with jumps of which [`Around`] tells.
#[derive(Default)]
struct Code {
    bytes: Vec<u8>,
    gives_up: Vec<usize>,
}

impl Code {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn give_up_if(&mut self, condition: u8) {
        self.add(&[0x0f, condition]);
        self.gives_up.push(self.bytes.len());
        self.add(&[0; 4]);
    }
}

unsafe extern "C" {
    /// An `attach::Callback` that needs little. `data` is a [`Hit`], whose
    /// program looks at the run's vCPU only.
    pub(crate) fn bpftime_agent_on_vcpu(
        regs: *mut PtRegs,
        data: *const (),
        hit: *mut attach::Hit,
    ) -> u64;
}

// As `on_hit`: first the program, which may be retired, then the thread's ids
// (`thread::ids`), then the claim (`Vcpus::claim`). A store gives the claim
// back, for x86-64 stores release. The run is uninitialised but for the vCPU.
//
// `on_hit` is a C function: it may change vector registers.
global_asm!(
    r#"
    .pushsection .text.bpftime_agent_on_vcpu,"ax",@progbits
    .globl bpftime_agent_on_vcpu
    .hidden bpftime_agent_on_vcpu
    .type bpftime_agent_on_vcpu,@function
    .p2align 6
bpftime_agent_on_vcpu:
    .cfi_startproc
    mov r11, [rsi + {program}]
    mov rdx, [rsi + {words}]
    mov rcx, [rsi + {epoch}]
    test r11, r11
    jz 2f
    rdpid r8
    and r8d, 0xfff
    cmp r8d, [rsi + {count}]
    jae 2f
    mov rcx, [rcx]
    test rcx, rcx
    jz 2f
    cmp fs:[rdx + 8], rcx
    jne 2f
    mov rdx, fs:[rdx]
    mov ecx, r8d
    shl rcx, {claim_shift}
    add rcx, [rsi + {first}]
    xor eax, eax
    lock cmpxchg [rcx], rdx
    jne 2f
    sub rsp, {frame}
    .cfi_adjust_cfa_offset {frame}
    mov [rsp + {run_bytes}], rcx
    mov [rsp + {vcpu}], r8d
    mov rsi, rsp
    call r11
    mov rcx, [rsp + {run_bytes}]
    mov qword ptr [rcx], 0
    add rsp, {frame}
    .cfi_adjust_cfa_offset -{frame}
    ret
2:
    lea r11, [rip + {on_hit}]
    jmp {saving_vectors}
    .cfi_endproc
    .size bpftime_agent_on_vcpu, . - bpftime_agent_on_vcpu
    .popsection
"#,
    program = const Hit::ENTRY,
    words = const Hit::CLAIMS + offset_of!(Claims, ids) + Remembered::WORDS,
    epoch = const Hit::CLAIMS + offset_of!(Claims, ids) + Remembered::EPOCH,
    first = const Hit::CLAIMS + offset_of!(Claims, first),
    count = const Hit::CLAIMS + offset_of!(Claims, count),
    claim_shift = const CLAIM_BYTES.trailing_zeros(),
    vcpu = const offset_of!(RunState, vcpu),
    run_bytes = const RUN_BYTES,
    frame = const FRAME,
    on_hit = sym on_hit,
    saving_vectors = sym bpftime_attach_saving_vectors,
);

const RUN_BYTES: usize = size_of::<RunState>();
/// A run and the address of its claim, so that the stack is aligned again.
const FRAME: usize = RUN_BYTES.next_multiple_of(16) + 8;

const _: () = assert!(CLAIM_BYTES.is_power_of_two());
const _: () = assert!(FRAME >= RUN_BYTES + 8);
