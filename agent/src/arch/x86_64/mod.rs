//! x86-64: the callback that claims a vCPU, and questions that only
//! instructions answer.

pub(crate) mod on_vcpu;

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// Whether the processor has protection keys and the kernel uses them.
pub(crate) fn has_protection_keys() -> bool {
    /// CPUID.(EAX=7,ECX=0):ECX.OSPKE.
    const OSPKE: u32 = 1 << 4;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ecx & OSPKE != 0
}

/// Valgrind's answer to a request without arguments, 0 where there is none: a
/// sequence that changes nothing on a processor, and that valgrind takes for a
/// request.
pub(crate) fn valgrind_request(request: u64) -> u64 {
    let request = [request, 0, 0, 0, 0, 0];
    let mut answer = 0u64;
    // SAFETY: the rotations of rdi add up to 128 bits, and rbx is exchanged
    // with itself; valgrind reads `request` and writes rdx.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") answer,
            options(nostack, readonly),
        );
    }
    answer
}
