//! Panics do not exist here: a reachable one is a link error.

unsafe extern "C" {
    /// Defined nowhere. The linker names it when some path of the shim can panic.
    fn conprof_shim_has_a_reachable_panic() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: this call is never linked.
    unsafe { conprof_shim_has_a_reachable_panic() }
}
