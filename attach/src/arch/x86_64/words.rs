//! Two words written at once. It knows nothing of what they hold.

use core::arch::asm;

/// Whether the processor can: all but the first of its kind.
pub(crate) fn can_swap_pairs() -> bool {
    std::arch::is_x86_feature_detected!("cmpxchg16b")
}

/// Replaces `old` by `new`; gives whether it was `old`.
///
/// # Safety
/// `place` is aligned to 16 bytes, readable and writable; [`can_swap_pairs`].
pub(crate) unsafe fn swap_pair(place: *mut u128, old: u128, new: u128) -> bool {
    let was_old: u8;
    // SAFETY: writes the 16 bytes only. rbx, which the compiler keeps for
    // itself, has its value back.
    unsafe {
        asm!(
            "xchg {low}, rbx",
            "lock cmpxchg16b [rdi]",
            "sete sil",
            "mov rbx, {low}",
            low = inout(reg) new as u64 => _,
            in("rdi") place,
            out("sil") was_old,
            in("rcx") (new >> 64) as u64,
            inout("rax") old as u64 => _,
            inout("rdx") (old >> 64) as u64 => _,
            options(nostack),
        );
    }
    was_old != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_words_or_none() {
        #[repr(align(16))]
        struct Pair(u128);
        let old = 0x1111_2222_3333_4444_5555_6666_7777_8888;
        let mut pair = Pair(old);
        let place = &raw mut pair.0;
        // SAFETY: aligned and ours.
        let swapped = unsafe { swap_pair(place, old, !old) };
        assert!(swapped);
        // SAFETY: as above.
        let swapped = unsafe { swap_pair(place, old, 0) };
        assert!(!swapped);
        assert_eq!(pair.0, !old);
    }
}
