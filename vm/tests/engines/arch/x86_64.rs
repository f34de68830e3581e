//! A C function as unfriendly as the convention allows, and a caller of one that
//! is not.

use std::arch::naked_asm;

use bpftime_vm::link::Run;

/// Leaves nonsense in every register that a C function may change. Returns
/// 99, or more if the stack pointer was not a multiple of 16 at the call.
#[unsafe(naked)]
pub unsafe extern "C" fn clobber(_: u64, _: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    naked_asm!(
        "lea rax, [rsp + 8]",
        "and eax, 15",
        "add eax, 99",
        "mov rdi, -1",
        "mov rsi, rdi",
        "mov rdx, rdi",
        "mov rcx, rdi",
        "mov r8, rdi",
        "mov r9, rdi",
        "mov r10, rdi",
        "mov r11, rdi",
        "movq xmm0, rdi",
        "mov [rsp - 8], rdi",
        "mov [rsp - 64], rdi",
        "mov [rsp - 128], rdi",
        "ret",
    )
}

/// All that a call may find in registers: rbx rbp r8 … r15 and, by number,
/// the vector registers in full.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// rbx, rbp, r12 to r15: a C function preserves them.
    pub preserved: [u64; 6],
    /// RFLAGS.
    pub flags: u64,
    /// Nothing.
    pub unused: u64,
    /// ymm0 to ymm15.
    pub vectors: [[u64; 4]; 16],
}

/// Whether [`call_loaded`] works here.
pub fn has_full_vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

/// Calls `entry(ctx, run)` with the stack at 8 beyond a multiple of 16 more
/// than it should be, and with what `registers` holds; stores what is there
/// afterwards. Gives what the function gave.
#[unsafe(naked)]
pub unsafe extern "C" fn call_loaded(
    entry: bpftime_vm::link::Entry,
    ctx: *mut u8,
    run: *mut Run,
    registers: *mut Registers,
) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rcx",
        "push rcx",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "vmovdqa ymm0, [rcx + 64]",
        "vmovdqa ymm1, [rcx + 96]",
        "vmovdqa ymm2, [rcx + 128]",
        "vmovdqa ymm3, [rcx + 160]",
        "vmovdqa ymm4, [rcx + 192]",
        "vmovdqa ymm5, [rcx + 224]",
        "vmovdqa ymm6, [rcx + 256]",
        "vmovdqa ymm7, [rcx + 288]",
        "vmovdqa ymm8, [rcx + 320]",
        "vmovdqa ymm9, [rcx + 352]",
        "vmovdqa ymm10, [rcx + 384]",
        "vmovdqa ymm11, [rcx + 416]",
        "vmovdqa ymm12, [rcx + 448]",
        "vmovdqa ymm13, [rcx + 480]",
        "vmovdqa ymm14, [rcx + 512]",
        "vmovdqa ymm15, [rcx + 544]",
        "mov rbx, [rcx]",
        "mov rbp, [rcx + 8]",
        "mov r12, [rcx + 16]",
        "mov r13, [rcx + 24]",
        "mov r14, [rcx + 32]",
        "mov r15, [rcx + 40]",
        "push qword ptr [rcx + 48]",
        "popfq",
        "call rax",
        "mov rcx, [rsp]",
        "pushfq",
        "pop qword ptr [rcx + 48]",
        "cld",
        "mov [rcx], rbx",
        "mov [rcx + 8], rbp",
        "mov [rcx + 16], r12",
        "mov [rcx + 24], r13",
        "mov [rcx + 32], r14",
        "mov [rcx + 40], r15",
        "vmovdqa [rcx + 64], ymm0",
        "vmovdqa [rcx + 96], ymm1",
        "vmovdqa [rcx + 128], ymm2",
        "vmovdqa [rcx + 160], ymm3",
        "vmovdqa [rcx + 192], ymm4",
        "vmovdqa [rcx + 224], ymm5",
        "vmovdqa [rcx + 256], ymm6",
        "vmovdqa [rcx + 288], ymm7",
        "vmovdqa [rcx + 320], ymm8",
        "vmovdqa [rcx + 352], ymm9",
        "vmovdqa [rcx + 384], ymm10",
        "vmovdqa [rcx + 416], ymm11",
        "vmovdqa [rcx + 448], ymm12",
        "vmovdqa [rcx + 480], ymm13",
        "vmovdqa [rcx + 512], ymm14",
        "vmovdqa [rcx + 544], ymm15",
        "vzeroupper",
        "pop rcx",
        "pop rcx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
