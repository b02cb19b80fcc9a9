//! Scans programs that are compiled here, in the build profiles that users have, and holds the result against what their source says.

use conprof::scan::primitives::{Catalogue, mark};
use conprof::scan::{Debuginfo, ModuleScan, Policy, ScanError, class_name, scan_module};
use conprof::wire::locks::{Operation, Type};
use conprof::wire::site::{Class, Order, SiteFlags};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = r#"
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};

static FLAG: AtomicU32 = AtomicU32::new(0);
static mut COUNTER: u64 = 0;

#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_atomic_load() -> u32 { FLAG.load(Ordering::Acquire) }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_atomic_store(value: u32) { FLAG.store(value, Ordering::Release); }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_atomic_swap(value: u32) -> u32 { FLAG.swap(value, Ordering::AcqRel) }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_atomic_max(value: u32) -> u32 { FLAG.fetch_max(value, Ordering::SeqCst) }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_atomic_count() { FLAG.fetch_add(1, Ordering::Relaxed); }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_atomic_decides() -> bool { FLAG.fetch_sub(1, Ordering::Release) == 1 }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_plain_add(by: u64) { unsafe { COUNTER += by; } }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_plain_read(from: &u64) -> u64 { *from }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_clone(from: &Arc<Mutex<u64>>) -> Arc<Mutex<u64>> { Arc::clone(from) }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_lock(m: &Mutex<u64>) -> u64 { *m.lock().unwrap() }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_read(m: &RwLock<u64>) -> u64 { *m.read().unwrap() }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_write(m: &RwLock<u64>) { *m.write().unwrap() = 1; }
#[inline(never)]
#[unsafe(no_mangle)]
pub fn scan_switch(kind: u32, x: &mut u64) -> u64 {
    match kind {
        0 => { *x += 3; *x }
        1 => { *x *= 7; 1 }
        2 => { *x ^= 0x55; *x << 1 }
        3 => { *x = x.rotate_left(9); 5 }
        4 => std::hint::black_box(*x) + 1,
        5 => { println!("{x}"); 9 }
        6 => { *x -= 1; *x / 3 }
        _ => 0,
    }
}

// A switch in a loop that does not change it: the optimiser computes the target ahead of the loop and spills it.
std::arch::global_asm!(
    ".text",
    ".globl scan_spilled_switch",
    ".type scan_spilled_switch, @function",
    "scan_spilled_switch:",
    ".cfi_startproc",
    "sub $24, %rsp",
    ".cfi_adjust_cfa_offset 24",
    "lea .Lspilled_table(%rip), %rax",
    "movslq (%rax,%rdi,4), %rcx",
    "add %rax, %rcx",
    "mov %rcx, 8(%rsp)",
    ".Lspilled_again:",
    "jmp *8(%rsp)",
    ".Lspilled_up:",
    "lock incq (%rsi)",
    "jmp .Lspilled_next",
    ".Lspilled_down:",
    "lock decq (%rsi)",
    ".Lspilled_next:",
    "dec %rdx",
    "jnz .Lspilled_again",
    "add $24, %rsp",
    ".cfi_adjust_cfa_offset -24",
    "ret",
    ".cfi_endproc",
    ".size scan_spilled_switch, . - scan_spilled_switch",
    ".section .rodata",
    ".p2align 2",
    ".Lspilled_table:",
    ".long .Lspilled_up - .Lspilled_table",
    ".long .Lspilled_down - .Lspilled_table",
    ".text",
    options(att_syntax)
);
unsafe extern "C" { fn scan_spilled_switch(arm: u64, value: *mut u64, times: u64); }

fn main() {
    let arguments = std::env::args().count() as u32;
    let shared = Arc::new(Mutex::new(1u64));
    let lock = RwLock::new(2u64);
    let copy = scan_clone(&shared);
    let mut x = 5;
    unsafe { scan_spilled_switch(u64::from(arguments & 1), &mut x, 3); }
    scan_atomic_store(arguments);
    scan_write(&lock);
    scan_atomic_count();
    scan_plain_add(7);
    let thread = std::thread::spawn(move || scan_lock(&copy));
    let sum = scan_atomic_load() + scan_atomic_swap(3) + scan_atomic_max(8) + u32::from(scan_atomic_decides());
    println!("{sum} {} {} {}", scan_plain_read(&x), scan_read(&lock), scan_switch(arguments, &mut x));
    thread.join().unwrap();
}
"#;

fn compile(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let source = folder.join("program.rs");
    let program = folder.join(name);
    std::fs::write(&source, SOURCE).expect("the source is written");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let status = Command::new(rustc).arg("--edition=2024").args(flags).arg(&source).arg("-o").arg(&program).status();
    assert!(status.expect("rustc runs").success(), "{name} does not compile");
    program
}

fn scan(program: &Path) -> ModuleScan {
    let data = std::fs::read(program).expect("the program is there");
    scan_module(&data, &|_, _| {}).expect("it is scanned")
}

type Seen = (Class, u16, Order);

/// Sites of a function that are not on its stack.
fn sites(scan: &ModuleScan, symbol: &str) -> Vec<conprof::scan::Site> {
    let function = scan.functions.iter().find(|function| function.symbol == symbol);
    let function = function.unwrap_or_else(|| panic!("no function {symbol}"));
    assert_eq!(function.policy, Policy::Instrument, "{symbol}");
    function.sites.iter().copied().filter(|site| !site.flags.has(SiteFlags::STACK)).collect()
}

fn seen(scan: &ModuleScan, symbol: &str) -> Vec<Seen> {
    sites(scan, symbol).iter().map(|site| (site.class, site.size, site.order)).collect()
}

/// What every optimised build with line tables must show.
fn check_optimised(scan: &ModuleScan) {
    use Class::{AtomicLoad, AtomicRmw, AtomicStore, Read};
    assert_eq!(seen(scan, "scan_atomic_load"), [(AtomicLoad, 4, Order::Acquire)]);
    assert_eq!(seen(scan, "scan_atomic_store"), [(AtomicStore, 4, Order::Release)]);
    assert_eq!(seen(scan, "scan_atomic_swap"), [(AtomicRmw, 4, Order::AcqRel)]);
    assert_eq!(seen(scan, "scan_plain_read"), [(Read, 8, Order::Unknown)]);
    // A compare-exchange loop: its first load is atomic.
    let max = seen(scan, "scan_atomic_max");
    assert!(max.contains(&(AtomicRmw, 4, Order::SeqCst)) && max.iter().all(|site| site.0 != Read), "{max:?}");
    let unused = |symbol| sites(scan, symbol)[0].flags.has(SiteFlags::RESULT_UNUSED);
    assert!(unused("scan_atomic_count") && !unused("scan_atomic_decides") && !unused("scan_atomic_swap"));
    let add = seen(scan, "scan_plain_add");
    assert!(
        !add.is_empty() && add.iter().all(|site| matches!(site.0, Read | Class::Write | Class::ReadWrite)),
        "{add:?}"
    );
    let clone = sites(scan, "scan_clone");
    assert!(clone.iter().any(|site| site.class == AtomicRmw && site.flags.has(SiteFlags::ORDERS_NOTHING)), "{clone:?}");
    check_any(scan);
}

/// What holds in every build with debuginfo.
fn check_any(scan: &ModuleScan) {
    let switch = scan.functions.iter().find(|function| function.symbol == "scan_switch").expect("the switch");
    assert_eq!(switch.policy, Policy::Instrument, "its jump table resolves");
    assert!(switch.outside_targets.len() >= 6, "arms of the switch: {:?}", switch.outside_targets);
    let spilled =
        scan.functions.iter().find(|function| function.symbol == "scan_spilled_switch").expect("the spilled one");
    let synchronises = spilled.instructions.iter().filter(|instruction| instruction.has_lock_prefix()).count();
    assert_eq!((synchronises, matches!(spilled.policy, Policy::Native(_))), (2, false), "{:?}", spilled.policy);
    let unresolved = scan.functions.iter().filter(|f| f.policy == Policy::Native("unresolved jump table")).count();
    assert_eq!(unresolved, 0);
    for function in &scan.functions {
        assert!(function.instructions.windows(2).all(|pair| pair[0].next_ip() <= pair[1].ip()), "{}", function.symbol);
        assert!(function.sites.windows(2).all(|pair| pair[0].pc < pair[1].pc), "{}", function.symbol);
        let known = |address: u64| function.instructions.binary_search_by_key(&address, |i| i.ip()).is_ok();
        assert!(function.outside_targets.iter().all(|target| known(target.0)), "{}", function.symbol);
        assert!(function.sites.iter().all(|site| known(site.pc.0)), "{}", function.symbol);
    }
    assert!(scan.functions.windows(2).all(|pair| pair[0].end <= pair[1].start));
    let (known, all) = (scan.tally.orders_known, scan.tally.atomics);
    assert!(known * 100 >= all * 97, "orderings of {known} of {all}");
    assert!(scan.degraded.is_empty(), "{:?}", scan.degraded);
}

#[test]
fn lock_operations_are_found_in_optimised_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = compile(folder.path(), "locks", &["-O", "-Cdebuginfo=line-tables-only"]);
    let (scan, data) = (scan(&binary), std::fs::read(&binary).expect("it is read"));
    let marks = mark(&scan, &data, &Catalogue::built_in());
    let (mutex, lock) = (Type::StdMutex, Type::StdRwLock);
    for (symbol, expected) in [
        ("scan_lock", [(Operation::LockExclusive, mutex), (Operation::UnlockExclusive, mutex)]),
        ("scan_read", [(Operation::LockShared, lock), (Operation::UnlockShared, lock)]),
        ("scan_write", [(Operation::LockExclusive, lock), (Operation::UnlockExclusive, lock)]),
    ] {
        let found: Vec<_> = sites(&scan, symbol).iter().filter_map(|site| marks.at(site.pc.0)).collect();
        assert!(expected.iter().all(|operation| found.contains(operation)), "{symbol}: {found:?}");
    }
}

#[test]
fn release_with_line_tables() {
    let folder = tempfile::tempdir().expect("a folder");
    let scan = scan(&compile(folder.path(), "release", &["-O", "-Cdebuginfo=line-tables-only"]));
    assert_eq!(scan.debuginfo, Debuginfo::LineTables);
    check_optimised(&scan);
}

#[test]
fn release_with_full_debuginfo_and_v0_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let scan = scan(&compile(folder.path(), "full", &["-O", "-Cdebuginfo=2", "-Csymbol-mangling-version=v0"]));
    assert_eq!(scan.debuginfo, Debuginfo::Full);
    check_optimised(&scan);
}

#[test]
fn fat_lto_and_aborting_panics() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["-Copt-level=3", "-Cdebuginfo=line-tables-only", "-Clto=fat", "-Ccodegen-units=1", "-Cpanic=abort"];
    check_optimised(&scan(&compile(folder.path(), "fat", &flags)));
}

#[test]
fn development_build() {
    use Class::{AtomicLoad, AtomicRmw, AtomicStore};
    let folder = tempfile::tempdir().expect("a folder");
    let scan = scan(&compile(folder.path(), "dev", &["-Cdebuginfo=2"]));
    assert_eq!(scan.debuginfo, Debuginfo::Full);
    check_any(&scan);
    // Nothing is inlined: the operations are functions of their own, with an access for each ordering.
    let all = |class, order| {
        let named = |symbol: &str| symbol.contains("sync6atomic");
        scan.functions
            .iter()
            .filter(|f| named(&f.symbol))
            .flat_map(|f| &f.sites)
            .any(|s| s.class == class && s.order == order)
    };
    assert!(all(AtomicLoad, Order::Acquire) && all(AtomicLoad, Order::SeqCst) && all(AtomicStore, Order::Release));
    assert!(all(AtomicRmw, Order::AcqRel) && all(AtomicRmw, Order::Relaxed));
}

#[test]
fn fixed_address_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["-O", "-Cdebuginfo=line-tables-only", "-Crelocation-model=static"];
    let scan = scan(&compile(folder.path(), "fixed", &flags));
    assert!(!scan.is_pie);
    check_optimised(&scan);
}

#[test]
fn missing_debuginfo_is_said_with_its_cure() {
    let folder = tempfile::tempdir().expect("a folder");
    let symbols = scan(&compile(folder.path(), "symbols", &["-O", "-Cdebuginfo=0", "-Cstrip=debuginfo"]));
    assert_eq!(symbols.debuginfo, Debuginfo::SymbolsOnly);
    assert!(symbols.degraded[0].cure.contains("CARGO_PROFILE_RELEASE_DEBUG=line-tables-only"));
    // std's own debuginfo, and that of the crates it is built from, says nothing about the program.
    let unstripped = scan(&compile(folder.path(), "unstripped", &["-O", "-Cdebuginfo=0", "-Cstrip=none"]));
    assert_eq!(unstripped.debuginfo, Debuginfo::SymbolsOnly);
    assert_eq!(unstripped.degraded.len(), 1, "{:?}", unstripped.degraded);
    let stripped = scan(&compile(folder.path(), "stripped", &["-O", "-Cstrip=symbols"]));
    assert_eq!(stripped.debuginfo, Debuginfo::Stripped);
    assert!(stripped.degraded[0].cure.contains("CARGO_PROFILE_RELEASE_STRIP=none"));
    for scan in [symbols, stripped] {
        let plain =
            scan.functions.iter().flat_map(|f| &f.sites).filter(|s| class_name(s.class).starts_with("plain")).count();
        assert_eq!(plain, 0, "without debuginfo nothing is known to be plain");
    }
}

#[test]
fn folded_functions_are_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["-O", "-Cdebuginfo=line-tables-only", "-Clink-arg=-fuse-ld=lld", "-Clink-arg=-Wl,--icf=all"];
    let scan = scan(&compile(folder.path(), "folded", &flags));
    assert!(scan.degraded.iter().any(|degraded| degraded.reason.contains("--icf=all")), "{:?}", scan.degraded);
}

#[test]
fn refusals_name_the_file_and_the_cure() {
    let refused = |data: &[u8]| scan_module(data, &|_, _| {}).err();
    assert_eq!(refused(b"hello"), Some(ScanError::NotElf));
    assert_eq!(refused(b""), Some(ScanError::NotElf));
    let script = refused(b"#!/bin/sh -e\nexit\n");
    assert_eq!(script, Some(ScanError::Script { interpreter: "/bin/sh -e".to_owned() }));
    let mut program = std::fs::read(std::env::current_exe().expect("this test")).expect("this test is readable");
    program[18] = 183;
    assert_eq!(refused(&program), Some(ScanError::OtherArchitecture("AArch64".to_owned())));
    program[18] = 3;
    program[4] = 1;
    assert_eq!(refused(&program), Some(ScanError::ThirtyTwoBit));
    let folder = tempfile::tempdir().expect("a folder");
    let fixed = compile(folder.path(), "static", &["-O", "-Ctarget-feature=+crt-static"]);
    let refusal = refused(&std::fs::read(fixed).expect("the program is there")).expect("it is refused");
    assert_eq!(refusal, ScanError::StaticallyLinked);
    assert!(refusal.cure().contains("x86_64-unknown-linux-gnu"));
}

#[test]
fn no_bytes_make_it_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = compile(folder.path(), "mutated", &["-Copt-level=s", "-Cdebuginfo=line-tables-only", "-Cstrip=none"]);
    let data = std::fs::read(program).expect("the program is there");
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..24 {
        let mut mutated = data.clone();
        // Headers and tables are where lengths and offsets stand.
        let (start, len) = match round % 4 {
            0 => (0, 0x400),
            1 => (data.len() - data.len().min(0x1000), 0x1000),
            _ => (0, data.len()),
        };
        for _ in 0..if round % 4 < 2 { 6 } else { 4000 } {
            let at = start + random(len.min(data.len() - start));
            mutated[at] = [0, 0xff, 0x7f, 0x80, random(256) as u8][random(5)];
        }
        mutated[..4].copy_from_slice(b"\x7fELF");
        if round % 3 == 0 {
            mutated.truncate(random(data.len()));
        }
        let _ = scan_module(&mutated, &|_, _| {});
    }
}
