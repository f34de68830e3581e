use core::arch::global_asm;

use runtime::session::{Dirs, Session, SessionView};

use super::*;

/// Bit 10 of the flags: string instructions go down.
const DF: u64 = 0x400;

unsafe extern "C" {
    /// Calls with these vector registers, DF set and the stack not aligned;
    /// gives what came back, and DF as it is then in the upper half.
    fn hit_tests_call(callback: Callback, data: *const (), xmm: *mut [u128; 16]) -> u64;
    /// Has `hit_tests_program` called by the function at `data`, which calls
    /// its sixth argument.
    fn hit_tests_aside(ctx: *mut PtRegs, data: *const (), at: *mut attach::Hit) -> u64;
    /// Clears all vector registers; gives DF and the last bits of the stack pointer.
    fn hit_tests_program(ctx: *mut u8, run: *mut vm::Run) -> u64;
}

global_asm!(
    r#"
    .pushsection .text.hit_tests,"ax",@progbits
    .globl hit_tests_call
    .hidden hit_tests_call
hit_tests_call:
    push rbx
    push r12
    mov rbx, rdx
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups xmm\n, [rbx + 16 * \n]
    .endr
    mov rax, rdi
    xor edi, edi
    std
    call rax
    pushfq
    pop r12
    cld
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movups [rbx + 16 * \n], xmm\n
    .endr
    and r12d, 0x400
    shl r12, 32
    or rax, r12
    pop r12
    pop rbx
    ret
    .globl hit_tests_aside
    .hidden hit_tests_aside
hit_tests_aside:
    lea r9, [rip + hit_tests_program]
    jmp rsi
    .globl hit_tests_program
    .hidden hit_tests_program
hit_tests_program:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pxor xmm\n, xmm\n
    .endr
    mov ecx, esp
    and ecx, 15
    pushfq
    pop rax
    and eax, 0x400
    or eax, ecx
    ret
    .popsection
"#
);

#[test]
fn programs_with_a_vcpu_run_directly_and_else_leave_vector_registers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let created = Session::create(&Dirs {
        state: dir.path().join("state"),
        sessions: dir.path().join("sessions"),
    })
    .unwrap();
    let session = SessionView::open(created.path()).unwrap();
    let env = ProcessEnv::new(session.vcpus().unwrap(), session.doorbell().unwrap()).unwrap();
    let claims = Claims::of(&env);
    let direct = claims.is_some();
    let hit = Hit {
        run: RunState::new(&raw const env, ptr::null(), 0, 0),
        entry: AtomicPtr::new(hit_tests_program as Entry as *mut ()),
        sends_signals: false,
        ends_runs: false,
        needs_vcpu: true,
        is_alone: false,
        is_quiet: false,
        claims: claims.unwrap_or(Claims::NONE),
        callback: bpftime_agent_on_vcpu,
        needs: Needs::LITTLE,
        inline: None,
        tally: Arc::new(Tally::new(session.counters(0).unwrap())),
    };
    let before: [u128; 16] = std::array::from_fn(|n| u128::MAX / (n as u128 + 2));
    let call = || {
        let mut xmm = before;
        // SAFETY: `hit` and what it names live; the program looks at nothing.
        let result =
            unsafe { hit_tests_call(hit.callback, ptr::from_ref(&hit).cast(), &raw mut xmm) };
        (result, xmm)
    };

    // The thread is not known: as C functions want it, and back as it was.
    thread::forget();
    assert_eq!(call(), (DF << 32 | 8, before));
    // It is: the program sees what was there.
    if direct {
        let (result, xmm) = call();
        assert_eq!((result & !15, xmm), (DF << 32 | DF, [0; 16]));
    }
    // The claim was given back each time: only so this is not another's.
    let vcpus = session.vcpus().unwrap();
    let held = (0..env.vcpus.count())
        .filter_map(|cpu| vcpus.u64_at(u64::from(cpu) * runtime::vcpu::CLAIM_BYTES))
        .filter(|word| word.load(Ordering::Relaxed) != 0);
    assert_eq!(held.count(), 0);

    // A retired hook runs nothing, and takes back that it was counted.
    hit.retire();
    assert_eq!(call(), (DF << 32, before));
    assert_eq!(hit.tally.take(), (u64::MAX, 0));
}

#[test]
fn what_quiet_helpers_have_done_aside_changes_no_vector_register() {
    let mut xmm: [u128; 16] = std::array::from_fn(|n| u128::MAX / (n as u128 + 2));
    let before = xmm;
    let aside = runtime::helpers::quiet::aside() as *const ();
    // SAFETY: the program looks at nothing.
    let result = unsafe { hit_tests_call(hit_tests_aside, aside, &raw mut xmm) };
    assert_eq!((result, xmm), (DF << 32 | 8, before));
}
