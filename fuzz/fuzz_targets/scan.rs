//! An ELF file, through the scan and, where that takes it, the plan.

#![no_main]

use conprof::plan::plan_module;
use conprof::scan::scan_module;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(scan) = scan_module(data, &|_, _| {})
        && let Ok(plan) = plan_module(&scan, data, &|_, _| {})
    {
        plan.to_bytes();
    }
});
