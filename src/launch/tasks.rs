//! The kernel threads of the program.

use crate::analyze::Task;

/// The threads of a process, with whether each sleeps; empty where the process is gone.
pub fn tasks(pid: u32) -> Vec<Task> {
    let Ok(folder) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let task = |entry: std::fs::DirEntry| {
        let tid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        (!matches!(state, 'Z' | 'X')).then_some(Task { tid, sleeps: state == 'S' })
    };
    folder.flatten().filter_map(task).collect()
}
