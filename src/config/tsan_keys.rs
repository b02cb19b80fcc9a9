//! ThreadSanitizer's options and what conprof makes of each.
//!
//! The rule: a key has the meaning it has there, or it is refused in words; never another meaning under the same name.
//! Names and meanings are those of compiler-rt's `tsan_flags.inc` and `sanitizer_flags.inc`.

/// What conprof makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The option of this name does the same.
    Same(&'static str),
    /// The option of this name comes close; the sentence says how the value is read.
    Mapped(&'static str, &'static str),
    /// conprof always does so; only this value is accepted.
    Always(&'static str, &'static str),
    /// Not supported, and why.
    No(&'static str),
}

/// The keys.
pub const KEYS: &[(&str, Support)] = &[
    ("halt_on_error", Support::Same("halt-on-error")),
    ("exitcode", Support::Same("exitcode")),
    ("suppressions", Support::Same("suppressions")),
    ("strip_path_prefix", Support::Same("strip-path-prefix")),
    ("color", Support::Same("color")),
    ("log_path", Support::Mapped("log", "`stderr` is the default; else `.` and conprof's process id are appended")),
    ("history_size", Support::Mapped("history", "0 to 7: 32,768 calling contexts, doubled that often")),
    ("verbosity", Support::Mapped("verbose", "the number of `-v`")),
    ("print_suppressions", Support::Always("1", "the report always lists the suppressions that matched")),
    ("second_deadlock_stack", Support::Always("1", "both stacks of an inversion are always shown")),
    ("symbolize", Support::Always("1", "reports are always symbolized")),
    ("detect_deadlocks", Support::Always("1", "to leave lock order out, use `checks`")),
    ("report_bugs", Support::Always("1", "to report nothing, use `quiet`")),
    (
        "report_atomic_races",
        Support::Always("1", "a plain access that races with an atomic one is reported where both are known"),
    ),
    ("force_seq_cst_atomics", Support::No("orders are never changed")),
    ("suppress_equal_stacks", Support::No("findings are always grouped by fingerprint")),
    ("suppress_equal_addresses", Support::No("findings are always grouped by fingerprint")),
    ("report_thread_leaks", Support::No("thread leaks are not reported")),
    ("report_destroy_locked", Support::No("use `checks`")),
    ("report_mutex_bugs", Support::No("use `checks`")),
    ("report_signal_unsafe", Support::No("signal safety is not checked")),
    ("ignore_noninstrumented_modules", Support::No("see docs/limits.md for modules that are not seen")),
    ("ignore_interceptors_accesses", Support::No("suppress with `called_from_lib`")),
    ("atexit_sleep_ms", Support::No("the program ends when it ends")),
    ("die_after_fork", Support::No("a forked child runs natively")),
    ("flush_memory_ms", Support::No("shadow memory is never flushed")),
    ("flush_symbolizer_ms", Support::No("symbolizing happens outside the program")),
    ("memory_limit_mb", Support::No("shadow memory is never flushed")),
    ("io_sync", Support::No("system calls order what they order")),
    ("stop_on_start", Support::No("use a debugger")),
    ("running_on_valgrind", Support::No("it has no meaning here")),
    ("shared_ptr_interceptor", Support::No("it has no meaning here")),
    ("print_full_thread_history", Support::No("creation stacks are always printed, to the depth of one thread")),
    ("external_symbolizer_path", Support::No("conprof reads debuginfo itself")),
    ("demangle", Support::No("names are always demangled")),
    ("disable_coredump", Support::No("core dumps stay as the system has them, without the shadow")),
];

/// What conprof makes of `key`, if ThreadSanitizer has it.
pub fn lookup(key: &str) -> Option<Support> {
    KEYS.iter().find(|(name, _)| *name == key).map(|(_, support)| *support)
}

/// The table of keys, as Markdown, for the documentation and for `help=1`.
pub fn table() -> String {
    let mut text = String::from("| TSAN_OPTIONS key | in conprof | how |\n|---|---|---|\n");
    for (key, support) in KEYS {
        let (state, how) = match support {
            Support::Same(option) => ("same", format!("`--{option}`")),
            Support::Mapped(option, how) => ("mapped", format!("`--{option}`: {how}")),
            Support::Always(value, how) => ("mapped", format!("only `{value}`: {how}")),
            Support::No(why) => ("not supported", (*why).to_owned()),
        };
        text.push_str(&format!("| `{key}` | {state} | {how} |\n"));
    }
    text
}
