//! Keeps the plan cache from filling the disk.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bytes that the plans of the cache may take together, about fifty large programs.
pub const CACHE_LIMIT: u64 = 2 << 30;

/// Lock files and half-written entries that are older were left by a conprof that was killed.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Notes that an entry was used now. What can't be noted only makes it look older.
pub fn mark_used(entry: &File) {
    let _ = entry.set_times(FileTimes::new().set_modified(SystemTime::now()));
}

/// Removes the entries that were not used for longest, until all take at most `limit` bytes together, and what killed
/// runs left. An entry that a running program was started from may go: its file lives on while it is open.
pub fn keep_below(folder: &Path, limit: u64) {
    let now = SystemTime::now();
    let mut plans = Vec::new();
    for (path, modified, bytes) in files(folder) {
        if path.extension().is_some_and(|extension| extension == "plan") {
            plans.push((modified, bytes, path));
        } else if now.duration_since(modified).is_ok_and(|age| age > LEFT_OVER_AFTER) {
            let _ = fs::remove_file(path);
        }
    }
    let mut total: u64 = plans.iter().map(|(_, bytes, _)| bytes).sum();
    plans.sort();
    for (_, bytes, path) in plans {
        if total <= limit {
            break;
        }
        if fs::remove_file(path).is_ok() {
            total -= bytes;
        }
    }
}

/// The files of a folder, with when they were last changed and their sizes.
fn files(folder: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let of_entry = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((entry.path(), metadata.modified().ok()?, metadata.len()))
    };
    entries.flatten().filter_map(of_entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, age: Duration) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, [0; 100]).expect("written");
        let file = File::options().write(true).open(&path).expect("opened");
        file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).expect("dated");
        path
    }

    #[test]
    fn what_was_used_last_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let old = file(folder.path(), "old.plan", hours(9));
        let used = file(folder.path(), "used.plan", hours(90));
        let young = file(folder.path(), "young.plan", hours(1));
        mark_used(&File::open(&used).expect("opened for reading, as a start does"));
        keep_below(folder.path(), 300);
        assert!(old.exists() && used.exists() && young.exists(), "all fit");
        keep_below(folder.path(), 250);
        assert!(!old.exists() && used.exists() && young.exists());
    }

    #[test]
    fn what_killed_runs_left_goes_and_what_is_at_work_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = file(folder.path(), "a.lock", Duration::from_secs(50 * 3600));
        let half = file(folder.path(), "a.7.new", Duration::from_secs(50 * 3600));
        let at_work = file(folder.path(), "b.lock", Duration::from_secs(60));
        keep_below(folder.path(), 0);
        assert!(!left.exists() && !half.exists() && at_work.exists());
    }
}
