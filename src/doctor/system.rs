//! Checks of the machine.

use super::Check;
use std::path::Path;

/// What the system shows; read once, so that the checks are pure.
#[derive(Clone, Debug, Default)]
struct System {
    architecture: String,
    release: String,
    paranoid: Option<i64>,
    overcommit: Option<i64>,
    memfd_noexec: Option<i64>,
    limits: String,
    status: String,
    cgroup_memory: String,
    selinux_enforcing: bool,
    cache: Option<std::path::PathBuf>,
    cache_writable: bool,
}

/// Checks this machine.
pub fn check_system() -> Vec<Check> {
    check(&System::read())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn number(path: &str) -> Option<i64> {
    read(path).parse().ok()
}

impl System {
    fn read() -> System {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .filter(|folder| Path::new(folder).is_absolute())
            .map(std::path::PathBuf::from)
            .or_else(|| {
                std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".cache"))
            });
        let existing = cache.as_deref().and_then(|cache| cache.ancestors().find(|folder| folder.exists()));
        let cache_writable =
            existing.and_then(|folder| folder.metadata().ok()).is_some_and(|meta| !meta.permissions().readonly());
        System {
            architecture: std::env::consts::ARCH.to_owned(),
            release: read("/proc/sys/kernel/osrelease"),
            paranoid: number("/proc/sys/kernel/perf_event_paranoid"),
            overcommit: number("/proc/sys/vm/overcommit_memory"),
            memfd_noexec: number("/proc/sys/vm/memfd_noexec"),
            limits: read("/proc/self/limits"),
            status: read("/proc/self/status"),
            cgroup_memory: read("/sys/fs/cgroup/memory.max"),
            selinux_enforcing: read("/sys/fs/selinux/enforce") == "1",
            cache,
            cache_writable,
        }
    }
}

fn check(system: &System) -> Vec<Check> {
    vec![
        architecture(system),
        kernel(system),
        perf(system),
        address_space(system),
        overcommit(system),
        memfd(system),
        seccomp(system),
        selinux(system),
        memory(system),
        cache(system),
    ]
}

fn architecture(system: &System) -> Check {
    let name = "architecture";
    match system.architecture.as_str() {
        "x86_64" => Check::good(name, "x86-64"),
        other => Check::bad(name, other, "conprof checks x86-64 programs only; run it on such a machine"),
    }
}

fn kernel(system: &System) -> Check {
    let name = "kernel";
    let mut parts = system.release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (5, 9) => Check::good(name, &system.release),
        (Some(_), Some(_)) => Check::limited(
            name,
            format!("{} is old", system.release),
            "Linux 5.9 or newer lets threads be told apart without a system call",
        ),
        _ => Check::limited(name, "its version can't be read", "mount /proc"),
    }
}

fn perf(system: &System) -> Check {
    let name = "perf events";
    match system.paranoid {
        Some(level) if level <= 2 => Check::good(name, format!("perf_event_paranoid is {level}")),
        Some(level) => Check::limited(
            name,
            format!("perf_event_paranoid is {level}, so there is no on-CPU flame graph"),
            "sudo sysctl kernel.perf_event_paranoid=2, or give conprof CAP_PERFMON",
        ),
        None => Check::limited(name, "the kernel has none, so there is no on-CPU flame graph", "use another kernel"),
    }
}

/// The value of a soft limit as `/proc/self/limits` shows it.
fn soft_limit<'a>(limits: &'a str, name: &str) -> Option<&'a str> {
    limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
}

fn address_space(system: &System) -> Check {
    let name = "address space";
    match soft_limit(&system.limits, "Max address space") {
        Some("unlimited") => Check::good(name, "not limited"),
        Some(bytes) => Check::bad(
            name,
            format!("limited to {bytes} bytes, so shadow memory can't be mapped and races can't be checked"),
            "ulimit -v unlimited",
        ),
        None => Check::limited(name, "its limit can't be read", "mount /proc"),
    }
}

fn overcommit(system: &System) -> Check {
    let name = "overcommit";
    match system.overcommit {
        Some(2) => Check::bad(
            name,
            "vm.overcommit_memory is 2, so shadow memory can't be mapped and races can't be checked",
            "sudo sysctl vm.overcommit_memory=0",
        ),
        Some(mode) => Check::good(name, format!("vm.overcommit_memory is {mode}")),
        None => Check::limited(name, "its mode can't be read", "mount /proc"),
    }
}

fn memfd(system: &System) -> Check {
    let name = "memory files";
    match system.memfd_noexec {
        Some(2) => Check::bad(
            name,
            "vm.memfd_noexec is 2, so the runtime can't be loaded from memory",
            "sudo sysctl vm.memfd_noexec=1",
        ),
        _ => Check::good(name, "may be executed"),
    }
}

fn seccomp(system: &System) -> Check {
    let name = "seccomp";
    let mode = system.status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    match mode.map(str::trim) {
        Some("2") => Check::limited(
            name,
            "a filter is in force, as containers set it; it may deny perf events",
            "in Docker: --cap-add PERFMON, or --security-opt seccomp=unconfined",
        ),
        _ => Check::good(name, "no filter"),
    }
}

fn selinux(system: &System) -> Check {
    let name = "SELinux";
    if system.selinux_enforcing {
        let cure = "if a program is refused: allow execmem for it";
        return Check::limited(name, "enforcing; a policy may deny generated code", cure);
    }
    Check::good(name, "not enforcing")
}

fn memory(system: &System) -> Check {
    let name = "memory limit";
    const SMALL: u64 = 1 << 30;
    match system.cgroup_memory.parse::<u64>() {
        Ok(bytes) if bytes < SMALL => Check::limited(
            name,
            format!("{} MiB for this container", bytes >> 20),
            "a checked program needs about 5 times its memory; raise the limit",
        ),
        Ok(bytes) => Check::good(name, format!("{} MiB for this container", bytes >> 20)),
        Err(_) => Check::good(name, "none"),
    }
}

fn cache(system: &System) -> Check {
    let name = "plan cache";
    match &system.cache {
        Some(folder) if system.cache_writable => Check::good(name, folder.join("conprof").display().to_string()),
        Some(folder) => Check::limited(
            name,
            format!("{} can't be written, so every run scans its program again", folder.display()),
            "set XDG_CACHE_HOME to a folder that can be written",
        ),
        None => {
            Check::limited(name, "there is no home folder, so every run scans its program again", "set XDG_CACHE_HOME")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn healthy() -> System {
        System {
            architecture: "x86_64".to_owned(),
            release: "6.18.0-generic".to_owned(),
            paranoid: Some(2),
            overcommit: Some(0),
            memfd_noexec: Some(0),
            limits: "Limit    Soft Limit  Hard Limit  Units\nMax address space         unlimited            unlimited            bytes".to_owned(),
            status: "Name:\tx\nSeccomp:\t0\n".to_owned(),
            cgroup_memory: "max".to_owned(),
            selinux_enforcing: false,
            cache: Some("/home/me/.cache".into()),
            cache_writable: true,
        }
    }

    fn troubled(change: impl FnOnce(&mut System)) -> Vec<Check> {
        let mut system = healthy();
        change(&mut system);
        check(&system).into_iter().filter(|check| check.state != State::Good).collect()
    }

    #[test]
    fn a_healthy_machine_has_no_complaints() {
        assert_eq!(troubled(|_| {}), []);
    }

    #[test]
    fn every_trouble_has_its_cure() {
        type Change = Box<dyn FnOnce(&mut System)>;
        let cases: [(&str, State, Change); 10] = [
            ("architecture", State::Bad, Box::new(|s| s.architecture = "aarch64".to_owned())),
            ("kernel", State::Limited, Box::new(|s| s.release = "4.19.0-27-amd64".to_owned())),
            ("perf events", State::Limited, Box::new(|s| s.paranoid = Some(3))),
            (
                "address space",
                State::Bad,
                Box::new(|s| s.limits = "Max address space   8589934592   unlimited   bytes".to_owned()),
            ),
            ("overcommit", State::Bad, Box::new(|s| s.overcommit = Some(2))),
            ("memory files", State::Bad, Box::new(|s| s.memfd_noexec = Some(2))),
            ("seccomp", State::Limited, Box::new(|s| s.status = "Seccomp:\t2".to_owned())),
            ("SELinux", State::Limited, Box::new(|s| s.selinux_enforcing = true)),
            ("memory limit", State::Limited, Box::new(|s| s.cgroup_memory = "268435456".to_owned())),
            ("plan cache", State::Limited, Box::new(|s| s.cache_writable = false)),
        ];
        for (name, state, change) in cases {
            let found = troubled(change);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert_eq!((found[0].name, found[0].state), (name, state));
            assert!(!found[0].cure.is_empty());
        }
    }
}
