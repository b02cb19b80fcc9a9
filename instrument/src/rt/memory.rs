//! `memcpy` and its kin for the runtime's own use: scalar, without vector registers, and without
//! string instructions, so that a set direction flag of the target does not matter.
//!
//! They are assembly so that the compiler cannot recognise their loops and call them from within themselves.

use core::arch::naked_asm;

/// `memcpy`.
///
/// # Safety
/// As for `memcpy`.
#[unsafe(naked)]
pub unsafe extern "C" fn copy(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 8",
        "jb 3f",
        "2:",
        "mov rcx, [rsi]",
        "mov [rdi], rcx",
        "add rsi, 8",
        "add rdi, 8",
        "sub rdx, 8",
        "cmp rdx, 8",
        "jae 2b",
        "3:",
        "test rdx, rdx",
        "jz 5f",
        "4:",
        "mov cl, [rsi]",
        "mov [rdi], cl",
        "inc rsi",
        "inc rdi",
        "dec rdx",
        "jnz 4b",
        "5:",
        "ret",
    )
}

/// `memmove`.
///
/// # Safety
/// As for `memmove`.
#[unsafe(naked)]
pub unsafe extern "C" fn copy_overlapping(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {copy}",
        "mov rax, rdi",
        "cmp rdx, 8",
        "jb 3f",
        "2:",
        "mov rcx, [rsi+rdx-8]",
        "mov [rdi+rdx-8], rcx",
        "sub rdx, 8",
        "cmp rdx, 8",
        "jae 2b",
        "3:",
        "test rdx, rdx",
        "jz 5f",
        "4:",
        "mov cl, [rsi+rdx-1]",
        "mov [rdi+rdx-1], cl",
        "dec rdx",
        "jnz 4b",
        "5:",
        "ret",
        copy = sym copy,
    )
}

/// `memset`.
///
/// # Safety
/// As for `memset`.
#[unsafe(naked)]
pub unsafe extern "C" fn fill(destination: *mut u8, byte: i32, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "mov rcx, 0x0101010101010101",
        "imul rcx, rsi",
        "cmp rdx, 8",
        "jb 3f",
        "2:",
        "mov [rdi], rcx",
        "add rdi, 8",
        "sub rdx, 8",
        "cmp rdx, 8",
        "jae 2b",
        "3:",
        "test rdx, rdx",
        "jz 5f",
        "4:",
        "mov [rdi], cl",
        "inc rdi",
        "dec rdx",
        "jnz 4b",
        "5:",
        "ret",
    )
}

/// `memcmp`.
///
/// # Safety
/// As for `memcmp`.
#[unsafe(naked)]
pub unsafe extern "C" fn compare(left: *const u8, right: *const u8, len: usize) -> i32 {
    naked_asm!(
        "2:",
        "test rdx, rdx",
        "jz 4f",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "inc rdi",
        "inc rsi",
        "dec rdx",
        "sub eax, ecx",
        "jz 2b",
        "ret",
        "4:",
        "xor eax, eax",
        "ret",
    )
}

/// `strlen`.
///
/// # Safety
/// As for `strlen`.
#[unsafe(naked)]
pub unsafe extern "C" fn string_len(text: *const u8) -> usize {
    naked_asm!("mov rax, rdi", "2:", "cmp byte ptr [rax], 0", "je 3f", "inc rax", "jmp 2b", "3:", "sub rax, rdi", "ret",)
}
