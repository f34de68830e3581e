//! Whether the strings are there that execve(2) is handed: the kernel answers
//! for wrong addresses with EFAULT. It knows no variable. Called between fork
//! and exec: nothing allocates, locks or calls libc.

use crate::user::look;

const PAGE: u64 = 4096;
/// Strings longer by a page or more are E2BIG (`MAX_ARG_STRLEN`).
const LONGEST: u64 = 32 * PAGE;

/// Whether a string ends before memory does, and before it is too long.
pub fn is_there(text: u64) -> bool {
    Looks::default().string(text)
}

/// Whether the array's words up to its null are there, and all their strings.
pub fn are_there(array: u64) -> bool {
    // The kernel takes others, but nobody else has seen one.
    if !array.is_multiple_of(size_of::<usize>() as u64) {
        return false;
    }
    let (mut words, mut strings) = (Looks::default(), Looks::default());
    let mut at = array;
    while words.can_read(at) {
        // SAFETY: a word of one page, which was seen to be there.
        match unsafe { *(at as *const u64) } {
            0 => return true,
            text if !strings.string(text) => return false,
            _ => at += size_of::<usize>() as u64,
        }
    }
    false
}

/// Looks at memory, one at a page that is looked at again and again.
#[derive(Default)]
struct Looks {
    /// Page that was there at the last look; the first one never is.
    page: u64,
}

impl Looks {
    fn can_read(&mut self, at: u64) -> bool {
        let page = at & !(PAGE - 1);
        if page != 0 && (page == self.page || look::may_read(page)) {
            self.page = page;
            return true;
        }
        false
    }

    fn string(&mut self, text: u64) -> bool {
        let mut at = text;
        while at - text < LONGEST && self.can_read(at) {
            let room = (PAGE - at % PAGE) as usize;
            // SAFETY: up to the end of a page, which was seen to be there.
            let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, room) };
            if bytes.contains(&0) {
                return true;
            }
            at = at.wrapping_add(room as u64);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_before_memory_does() {
        let two = 2 * PAGE as usize;
        // SAFETY: a new mapping of our own, whose second half may not be touched.
        let at = unsafe {
            let (access, flags) = (libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let at = libc::mmap(std::ptr::null_mut(), two, access, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(at.byte_add(two / 2), two / 2, 0), 0);
            at.cast::<u64>()
        };
        let last = at.wrapping_byte_add(PAGE as usize - 8);
        let text = c"A=1".as_ptr() as u64;
        // SAFETY: the last word of the half that is there.
        let set = |word| unsafe { last.write_volatile(word) };
        set(text);
        assert!(!are_there(last as u64), "no null");
        set(0);
        assert!(are_there(last as u64) && is_there(last as u64));
        set(u64::MAX);
        assert!(!is_there(last as u64), "no zero");
        assert!(!are_there(last as u64), "no string");
        for wrong in [0, 8, 1 << 63, u64::MAX, !7, text | 1 << 60] {
            assert!(!are_there(wrong) && !is_there(wrong), "{wrong:#x}");
        }
        let array = [text, text, 0];
        assert!(are_there(array.as_ptr() as u64));
        assert!(are_there(&raw const array[2] as u64));
        let long = vec![b'x'; 2 * LONGEST as usize];
        assert!(!is_there(long.as_ptr() as u64));
    }
}
