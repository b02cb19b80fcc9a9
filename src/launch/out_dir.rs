//! The folder that holds a run's results.

use super::Refusal;
use crate::cli::exit;
use crate::trace::{LOCK, RECORDING, RUN_RECORD};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything conprof may write into the folder; only these are removed when a result is replaced.
const OWN_FILES: [&str; 19] = [
    "runs",
    RUN_RECORD,
    LOCK,
    RECORDING,
    "report.json",
    "report.txt",
    "report.tsan",
    "report.sarif",
    "report.xml",
    "report.github",
    "report.html",
    "contention.svg",
    "contention.folded",
    "blame.svg",
    "blame.folded",
    "idle.svg",
    "offcpu.svg",
    "cpu.svg",
    "cpu.folded",
];

/// A prepared, empty, locked result folder.
#[derive(Debug)]
pub struct OutDir {
    path: PathBuf,
    _lock: File,
}

impl OutDir {
    /// Prepares the folder: `requested`, or a new one below `root`, which is `conprof-out` unless given.
    pub fn prepare(requested: Option<&Path>, root: Option<&Path>, program: &Path) -> Result<OutDir, Refusal> {
        match requested {
            Some(path) => OutDir::at(path),
            None => OutDir::fresh(root.unwrap_or(Path::new("conprof-out")), program),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file of the folder whole: a reader sees the old contents or the new ones.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!(".{name}.new"));
        fs::write(&temporary, bytes)?;
        fs::rename(&temporary, self.path.join(name))
    }

    fn at(path: &Path) -> Result<OutDir, Refusal> {
        fs::create_dir_all(path).map_err(|error| cannot_write(path, &error))?;
        let entries: Vec<String> = fs::read_dir(path)
            .map_err(|error| cannot_write(path, &error))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let ours = entries.is_empty() || entries.iter().any(|name| name == RUN_RECORD || name == LOCK);
        if !ours {
            return Err(Refusal::new(
                exit::USAGE,
                format!("`{}` is not empty and holds no earlier result of conprof", path.display()),
                "give --out a new folder, or an empty one",
            ));
        }
        let lock = lock(path)?;
        for name in entries.iter().filter(|name| name.as_str() != LOCK && is_own(name)) {
            let file = path.join(name);
            let removed = if file.is_dir() { fs::remove_dir_all(&file) } else { fs::remove_file(&file) };
            removed.map_err(|error| cannot_write(path, &error))?;
        }
        OutDir { path: path.to_path_buf(), _lock: lock }.marked()
    }

    fn fresh(root: &Path, program: &Path) -> Result<OutDir, Refusal> {
        fs::create_dir_all(root).map_err(|error| cannot_write(root, &error))?;
        let ignore = root.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(|error| cannot_write(root, &error))?;
        }
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base = format!("{name}-{}-{}", timestamp(SystemTime::now()), std::process::id());
        // The process id may come round within a second, so a taken name gets a number.
        for attempt in 0..1000 {
            let folder = if attempt == 0 { base.clone() } else { format!("{base}.{attempt}") };
            let path = root.join(&folder);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let lock = lock(&path)?;
                    link_latest(root, &folder);
                    return OutDir { path, _lock: lock }.marked();
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot_write(root, &error)),
            }
        }
        Err(Refusal::new(
            exit::USAGE,
            format!("no free name below {}", root.display()),
            "remove old results, or give --out DIR",
        ))
    }

    /// Writes a first run record, so that the folder is known as conprof's from the start, and proves that it can be written.
    fn marked(self) -> Result<OutDir, Refusal> {
        self.write(RUN_RECORD, b"{}\n").map_err(|error| cannot_write(&self.path, &error))?;
        Ok(self)
    }
}

/// Whether a name in a result folder is one that conprof writes.
fn is_own(name: &str) -> bool {
    OWN_FILES.contains(&name)
        || name.strip_prefix("recording-").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        || (name.starts_with('.') && name.ends_with(".new"))
        || name.strip_prefix("report.").is_some_and(|rest| !rest.contains('.'))
}

fn lock(path: &Path) -> Result<File, Refusal> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK))
        .map_err(|error| cannot_write(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Refusal::new(
            exit::USAGE,
            format!("another conprof is writing to `{}`", path.display()),
            "wait for it, or give --out another folder",
        )),
        // A file system without locks: two runs into one folder are then the user's care.
        Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(
        exit::USAGE,
        format!("`{}` can't be written: {error}", path.display()),
        "give --out DIR a folder that you may write to; the program was not started",
    )
}

/// Points `latest` in `root` at the newest result; failure costs only the link.
fn link_latest(root: &Path, folder: &str) {
    let temporary = root.join(format!(".latest-{}", std::process::id()));
    if std::os::unix::fs::symlink(folder, &temporary).is_ok() && fs::rename(&temporary, root.join("latest")).is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

/// `YYYYMMDD-HHMMSS`, in UTC.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Days since 1970-01-01 to a date of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps_are_calendar_dates() {
        assert_eq!(timestamp(UNIX_EPOCH), "19700101-000000");
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(951_827_696)), "20000229-123456");
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(1_798_761_599)), "20261231-235959");
    }

    #[test]
    fn a_folder_of_others_is_refused_and_an_earlier_result_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("thesis.txt"), "x").expect("a file");
        let refusal = OutDir::prepare(Some(folder.path()), None, Path::new("app")).expect_err("must refuse");
        assert!(refusal.reason.contains("not empty"), "{refusal}");
        fs::remove_file(folder.path().join("thesis.txt")).expect("removed");

        let first = OutDir::prepare(Some(folder.path()), None, Path::new("app")).expect("prepared");
        first.write("report.json", b"old").expect("written");
        let busy = OutDir::prepare(Some(folder.path()), None, Path::new("app")).expect_err("is in use");
        assert!(busy.reason.contains("another conprof"), "{busy}");
        drop(first);
        fs::write(folder.path().join("notes.txt"), "mine").expect("a file");
        OutDir::prepare(Some(folder.path()), None, Path::new("app")).expect("replaced");
        assert!(!folder.path().join("report.json").exists());
        assert!(folder.path().join("notes.txt").exists());
    }
}
