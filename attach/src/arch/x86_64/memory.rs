//! The functions that compilers call to copy, fill and compare memory, for all
//! that is linked with the engine. The C library's use AVX where the processor
//! has it and clear the upper halves of vector registers, which are live inside
//! functions and where vectors are passed; and they may be probed themselves.

use core::arch::global_asm;

// Hidden: nobody else's calls come here.
global_asm!(
    include_str!("macros.s"),
    r#"
    .pushsection .text.bpftime_attach_memory,"ax",@progbits
    # Loads all before it stores any, up to 32 bytes: for memmove, too.
    bpftime_attach_function memcpy, 5
    .globl memmove
    .hidden memmove
    .type memmove,@function
memmove:
    mov rax, rdi
    cmp rdx, 16
    ja 3f
    cmp edx, 8
    jae 2f
    cmp edx, 4
    jae 1f
    test edx, edx
    jz 9f
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    shr edx
    movzx r9d, byte ptr [rsi + rdx]
    mov [rdi + rdx], r9b
    mov [rdi], cl
    jc 8f
    cmp edx, 1
    jne 9f
    mov [rdi + 1], r8b
    ret
8:  lea rcx, [rdx + rdx]
    mov [rdi + rcx], r8b
    ret
1:  mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
9:  ret
2:  mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
3:  cmp rdx, 32
    ja 4f
    mov rcx, [rsi]
    mov r8, [rsi + 8]
    mov r9, [rsi + rdx - 16]
    mov r10, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + 8], r8
    mov [rdi + rdx - 16], r9
    mov [rdi + rdx - 8], r10
    ret
4:  mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 5f
    mov rcx, rdx
    rep movsb
    ret
    # The end of the source is where the destination begins: from the end.
5:  mov rcx, [rsi + rdx - 8]
    mov [rdi + rdx - 8], rcx
    sub rdx, 8
    cmp rdx, 8
    jae 5b
6:  test rdx, rdx
    jz 7f
    movzx ecx, byte ptr [rsi + rdx - 1]
    mov [rdi + rdx - 1], cl
    dec rdx
    jmp 6b
7:  ret
    bpftime_attach_end memcpy

    bpftime_attach_function memset, 5
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
    bpftime_attach_end memset

    bpftime_attach_function memcmp, 5
    .globl bcmp
    .hidden bcmp
    .type bcmp,@function
bcmp:
    xor ecx, ecx
1:  lea r8, [rcx + 8]
    cmp r8, rdx
    ja 3f
    mov rax, [rdi + rcx]
    mov r9, [rsi + rcx]
    cmp rax, r9
    jne 2f
    mov rcx, r8
    jmp 1b
2:  bswap rax
    bswap r9
    cmp rax, r9
    sbb eax, eax
    or eax, 1
    ret
3:  cmp rcx, rdx
    jae 4f
    movzx eax, byte ptr [rdi + rcx]
    movzx r9d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r9d
    jz 3b
    ret
4:  xor eax, eax
    ret
    bpftime_attach_end memcmp
    .popsection
"#,
    include_str!("macros_end.s"),
);

#[cfg(test)]
mod tests {
    use core::ffi::c_void;

    unsafe extern "C" {
        fn memcpy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void;
        fn memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void;
        fn memset(to: *mut c_void, byte: i32, len: usize) -> *mut c_void;
        fn memcmp(a: *const c_void, b: *const c_void, len: usize) -> i32;
    }

    /// Whether the functions are ours.
    fn are_ours() -> bool {
        let ours = super::super::entry::address();
        (memcpy as *const () as u64).abs_diff(ours) < 64 << 20
    }

    fn numbered(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 7 + 1) as u8).collect()
    }

    #[test]
    fn copies_of_every_length_and_overlap() {
        assert!(are_ours());
        for len in 0..100 {
            for to in 0..60_usize {
                let mut bytes = numbered(220);
                let mut expected = bytes.clone();
                expected[to..to + len].copy_from_slice(&bytes[30..30 + len]);
                let start = bytes.as_mut_ptr();
                // SAFETY: both ranges are inside the vector.
                let given = unsafe { memmove(start.add(to).cast(), start.add(30).cast(), len) };
                assert_eq!(given, bytes[to..].as_mut_ptr().cast());
                assert!(bytes == expected, "{len} bytes from 30 to {to}");
            }
            let (from, mut to) = (numbered(100), vec![0; 102]);
            // SAFETY: inside the vectors, which are two.
            unsafe { memcpy(to.as_mut_ptr().add(1).cast(), from.as_ptr().cast(), len) };
            assert!(to[1..=len] == from[..len] && to[0] == 0 && to[len + 1] == 0);
        }
    }

    #[test]
    fn fills_and_compares() {
        for len in 0..40 {
            let mut bytes = vec![1_u8; 42];
            // SAFETY: inside the vector.
            unsafe { memset(bytes.as_mut_ptr().add(1).cast(), 0x1ff, len) };
            assert!(bytes[1..=len].iter().all(|byte| *byte == 255));
            assert!(bytes[0] == 1 && bytes[len + 1] == 1);
            for at in 0..len {
                let (a, mut b) = (numbered(len), numbered(len));
                b[at] = b[at].wrapping_add(100);
                // SAFETY: both have `len` bytes.
                let (there, back, same) = unsafe {
                    let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
                    (memcmp(a, b, len), memcmp(b, a, len), memcmp(a, a, len))
                };
                assert_eq!(there.signum(), if a[at] < b[at] { -1 } else { 1 });
                assert_eq!((back.signum(), same), (-there.signum(), 0));
            }
        }
    }
}
