//! Byte-level tests of generated code: assembly in, the decoded listing out.

use super::checks::{self, Context};
use super::emit::Emitter;
use super::liveness::FLAGS;
use crate::wire::site::{Class, Order, PackedSite, SiteFlags};
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};

fn decode(bytes: &[u8], ip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode()
}

fn listing(em: &Emitter) -> Vec<String> {
    let code = em.code_padded();
    let mut decoder = Decoder::with_ip(64, &code[..em.len()], em.address(0), DecoderOptions::NONE);
    let mut formatter = GasFormatter::new();
    let mut lines = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        assert!(!instruction.is_invalid(), "invalid instruction in generated code");
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        lines.push(line);
    }
    lines
}

fn plain(bytes: &[u8], class: Class, size: u16, before: u32) -> Vec<String> {
    let mut em = Emitter::new(-0x2000_0000);
    let instruction = decode(bytes, 0x1000);
    let context = Context { before, after: u32::MAX, touches: 0, writes: 0 };
    let mut cold = Vec::new();
    let packed = PackedSite::new(class, Order::Unknown, SiteFlags::default(), size);
    checks::plain(&mut em, &instruction, &context, packed, &mut cold).expect("a check");
    checks::write_cold(&mut em, cold);
    listing(&em)
}

const ALL: u32 = 0xffff;

#[test]
fn an_eight_byte_write_with_a_dead_register_is_checked_inline() {
    // mov %rax, 8(%rdi), with rcx dead
    let lines = plain(&[0x48, 0x89, 0x47, 0x08], Class::Write, 8, ALL & !2);
    assert_eq!(
        lines[..7],
        [
            "lea 8(%rdi),%rcx",
            "and %gs:0x10,%rcx",
            "shl $2,%rcx",
            "add %gs:0x18,%rcx",
            "mov (%rcx),%rcx",
            "xor %gs:0x20,%rcx",
            "jne 0x000000FFE000002D",
        ]
    );
    assert_eq!(lines[7..10], ["lea 8(%rdi),%rcx", "lea -0x80(%rsp),%rsp", "push %rcx"]);
}

#[test]
fn without_a_dead_register_one_is_spilled_below_the_red_zone_and_rsp_operands_are_shifted() {
    // mov 0x10(%rsp), %rax
    let lines = plain(&[0x48, 0x8b, 0x44, 0x24, 0x10], Class::Read, 8, ALL);
    assert_eq!(lines[..3], ["lea -0x80(%rsp),%rsp", "push %rax", "lea 0x98(%rsp),%rax"]);
    assert!(lines.contains(&"mov 8(%rax),%rax".to_owned()), "reads look at the read cell: {lines:?}");
    assert_eq!(lines.iter().filter(|l| *l == "pop %rax").count(), 1);
}

#[test]
fn with_live_flags_only_the_stub_is_called() {
    let lines = plain(&[0x48, 0x89, 0x47, 0x08], Class::Write, 8, (ALL & !2) | FLAGS);
    assert!(lines.iter().all(|l| !l.starts_with("shl") && !l.starts_with("xor")), "{lines:?}");
    assert_eq!(lines[..4], ["lea 8(%rdi),%rcx", "lea -0x80(%rsp),%rsp", "push %rcx", "push $0"]);
}

#[test]
fn a_static_smaller_than_a_granule_tests_its_own_bytes() {
    // mov %eax, 0x1000(%rip): address 0x2006 + ... ends with low bits 6 only for 2-byte operands
    let lines = plain(&[0x89, 0x05, 0xfa, 0x0f, 0x00, 0x00], Class::Write, 4, ALL & !2);
    assert!(lines.iter().any(|l| l == "test $0xFFFFFFFFFFFFFF0F,%rcx"), "{lines:?}");
}

#[test]
fn a_wide_access_compares_every_granule() {
    // movups %xmm0, (%rdi) with rcx and rdx dead
    let lines = plain(&[0x0f, 0x11, 0x07], Class::Write, 16, ALL & !6);
    assert!(lines.iter().any(|l| l == "cmp (%rcx),%rdx") || lines.iter().any(|l| l == "cmp 0(%rcx),%rdx"), "{lines:?}");
    assert!(lines.iter().any(|l| l == "cmp 0x20(%rcx),%rdx"), "{lines:?}");
}

#[test]
fn an_atomic_load_that_destroys_its_address_keeps_it_in_another_register() {
    // mov (%rax), %rax with rcx dead before and after
    let bytes = [0x48, 0x8b, 0x00];
    let mut em = Emitter::new(-0x2000_0000);
    let instruction = decode(&bytes, 0x1000);
    let context = Context { before: ALL & !2, after: ALL & !2, touches: 1, writes: 1 };
    let packed = PackedSite::new(Class::AtomicLoad, Order::Acquire, SiteFlags::default(), 8);
    checks::synchronising(&mut em, &instruction, &context, packed, None, true, &mut |em| {
        em.raw(&bytes);
        Ok(())
    })
    .expect("a check");
    let lines = listing(&em);
    assert_eq!(lines[..4], ["lea (%rax),%rcx", "mov (%rax),%rax", "lea -0x80(%rsp),%rsp", "push %rcx"]);
}
