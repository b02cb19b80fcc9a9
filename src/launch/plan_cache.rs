//! The plan of a program, from the cache or made now.
//!
//! A cache entry is one file: the plan, JSON about the module, and the lengths of both. The plan comes first so that the file
//! itself can be handed to the program. Its name holds the build id and a hash of
//! the file's contents (a stripped copy has the same build id and another plan) and conprof's version. It appears by
//! renaming, so it is whole or absent; a lock file beside it makes cold starts of one binary scan once.

use super::cache_limit;
use super::plan_file::PlanFile;
use super::planner;
use crate::plan::Tactic;
use crate::report::{DegradedCheck, ModuleCoverage};
use crate::scan::primitives::{Catalogue, CatalogueError};
use crate::wire::VERSION;
use crate::wire::recording::SiteRow;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Told how far scanning and planning are: (done, total).
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// A plan, ready to be handed to the shim.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan file; `None` where nothing is patched.
    pub plan: Option<PlanFile>,
    /// About the module.
    pub about: AboutModule,
    /// Whether it came from the cache.
    pub cached: bool,
}

/// What a scan says of a module, kept with its plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AboutModule {
    /// For the report.
    pub coverage: ModuleCoverage,
    /// For the report's first words.
    pub degraded: Vec<DegradedCheck>,
    /// `FLAG_*` of the plan.
    pub flags: u64,
}

impl Planned {
    /// The plan's sites, for the recording.
    pub fn sites(&self) -> Vec<SiteRow> {
        self.plan.as_deref().map_or_else(Vec::new, planner::sites_of)
    }
}

/// The user's own rows of the lock catalogue.
#[derive(Clone, Debug, Default)]
pub struct LockRows {
    text: String,
    rows: Catalogue,
}

impl LockRows {
    /// Adds a row in the form of the built-in ones.
    ///
    /// # Errors
    /// Why it is none.
    pub fn add(&mut self, row: &str) -> Result<(), CatalogueError> {
        self.rows.add(row)?;
        self.text.push_str(row);
        self.text.push('\n');
        Ok(())
    }

    /// With the built-in rows.
    fn catalogue(&self) -> Catalogue {
        let mut all = Catalogue::built_in();
        // They were read before.
        let _ = all.add(&self.text);
        all
    }

    /// Tells plans made with them from others.
    fn key(&self) -> String {
        if self.text.is_empty() { String::new() } else { format!("-{:x}", content_hash(self.text.as_bytes())) }
    }
}

/// Gets the plan for a program image.
///
/// `progress` is called with (done, total) while the image is scanned and planned, from several threads; not at all
/// where the plan is cached.
pub fn obtain_plan(
    image: &[u8],
    path: &Path,
    tactic: Tactic,
    rows: &LockRows,
    progress: Progress<'_>,
) -> anyhow::Result<Planned> {
    let tactic_name = if tactic == Tactic::Locks { "-locks" } else { "" };
    let key = format!("{}{tactic_name}{}", key(image), rows.key());
    let Some(folder) = cache_folder() else {
        return make(image, path, tactic, rows, progress);
    };
    let entry = folder.join(format!("{key}.plan"));
    if let Some(planned) = load(&entry, path) {
        return Ok(planned);
    }
    // Whoever holds the lock is scanning this binary; after waiting, its entry is usually there. Without a lock
    // (read-only file system, no lock support), plan in memory.
    let lock_path = folder.join(format!("{key}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
    let locked = lock.as_ref().is_ok_and(|file| file.lock().is_ok());
    if locked && let Some(planned) = load(&entry, path) {
        return Ok(planned);
    }
    let planned = make(image, path, tactic, rows, progress)?;
    if locked {
        // A cache that can't be written costs the next start its time, and nothing else.
        if store(&folder, &key, &planned).is_ok() {
            let _ = fs::remove_file(&lock_path);
            cache_limit::keep_below(&folder, cache_limit::CACHE_LIMIT);
        }
    }
    Ok(planned)
}

fn make(image: &[u8], path: &Path, tactic: Tactic, rows: &LockRows, progress: Progress<'_>) -> anyhow::Result<Planned> {
    let (plan, mut about) = planner::make_plan(image, tactic, &rows.catalogue(), progress)?;
    about.coverage.path = path.display().to_string();
    Ok(Planned { plan: plan.map(PlanFile::made), about, cached: false })
}

fn cache_folder() -> Option<PathBuf> {
    let root = match std::env::var_os("XDG_CACHE_HOME").filter(|v| Path::new(v).is_absolute()) {
        Some(root) => PathBuf::from(root),
        None => PathBuf::from(std::env::var_os("HOME").filter(|v| !v.is_empty())?).join(".cache"),
    };
    let folder = root.join("conprof");
    fs::create_dir_all(&folder).ok()?;
    Some(folder)
}

/// Name of the image's cache entry.
fn key(image: &[u8]) -> String {
    let mut build_id = String::new();
    if let Ok(file) = object::File::parse(image)
        && let Ok(Some(id)) = object::Object::build_id(&file)
    {
        for byte in id.iter().take(20) {
            build_id.push_str(&format!("{byte:02x}"));
        }
    }
    if build_id.is_empty() {
        build_id.push_str("none");
    }
    format!("{build_id}-{:016x}-{}.{VERSION}.{:x}", content_hash(image), env!("CARGO_PKG_VERSION"), own_build())
}

/// Tells builds of conprof of one version apart, so that a plan of one is not used by another.
fn own_build() -> u64 {
    let Ok(metadata) = fs::metadata("/proc/self/exe") else { return 0 };
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    modified.map_or(0, |at| at.as_nanos() as u64) ^ metadata.len().rotate_left(40)
}

/// A fast hash of a file's contents, eight bytes a step. Not cryptographic: it tells builds apart, and the shim verifies
/// every byte it replaces.
fn content_hash(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut raw = [0u8; 8];
        raw.copy_from_slice(word);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(raw)).wrapping_mul(MULTIPLIER);
    }
    for byte in words.remainder() {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(MULTIPLIER);
    }
    hash ^ (hash >> 32)
}

/// Last bytes of an entry: the lengths of the plan and of the JSON, and these.
const ENTRY_MAGIC: &[u8; 8] = b"CONCACHE";
const TRAILER_BYTES: usize = 24;

fn load(entry: &Path, path: &Path) -> Option<Planned> {
    let file = File::open(entry).ok()?;
    let map = crate::os::map_file(&file).ok()?;
    let (plan, mut about) = read_entry(&map)?;
    about.coverage.path = path.display().to_string();
    cache_limit::mark_used(&file);
    let plan_len = plan.len();
    let plan = (plan_len > 0).then(|| PlanFile::cached(file, map, plan_len));
    Some(Planned { plan, about, cached: true })
}

/// An entry's plan, which may be empty, and what it says of the module; `None` where the bytes are not a whole entry.
pub fn read_entry(entry: &[u8]) -> Option<(&[u8], AboutModule)> {
    let (rest, trailer) = entry.split_at_checked(entry.len().checked_sub(TRAILER_BYTES)?)?;
    let length = |at: usize| usize::try_from(u64::from_le_bytes(trailer.get(at..at + 8)?.try_into().ok()?)).ok();
    let (plan_len, about_len) = (length(0)?, length(8)?);
    if trailer.get(16..) != Some(&ENTRY_MAGIC[..]) || plan_len.checked_add(about_len)? != rest.len() {
        return None;
    }
    let (plan, about) = rest.split_at(plan_len);
    let whole = plan.is_empty() || planner::is_whole(plan);
    Some((plan, serde_json::from_slice(about).ok().filter(|_| whole)?))
}

fn store(folder: &Path, key: &str, planned: &Planned) -> io::Result<()> {
    let temporary = folder.join(format!("{key}.{}.new", std::process::id()));
    let plan = planned.plan.as_deref().unwrap_or_default();
    let written = File::create(&temporary).and_then(|mut file| {
        let about = serde_json::to_vec(&planned.about)?;
        file.write_all(plan)?;
        file.write_all(&about)?;
        file.write_all(&(plan.len() as u64).to_le_bytes())?;
        file.write_all(&(about.len() as u64).to_le_bytes())?;
        file.write_all(ENTRY_MAGIC)
    });
    match written.and_then(|()| fs::rename(&temporary, folder.join(format!("{key}.plan")))) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_decide_the_key() {
        assert_ne!(content_hash(b"abcdefgh1"), content_hash(b"abcdefgh2"));
        assert_ne!(content_hash(b"abcdefgh"), content_hash(b"abcdefgh\0"));
    }

    #[test]
    fn an_entry_that_is_cut_short_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let planned = Planned { plan: None, about: AboutModule::default(), cached: false };
        store(folder.path(), "k", &planned).expect("stored");
        let entry = folder.path().join("k.plan");
        assert!(load(&entry, Path::new("app")).is_some_and(|p| p.cached && p.about.coverage.path == "app"));
        let whole = fs::read(&entry).expect("read");
        for len in 0..whole.len() {
            fs::write(&entry, &whole[..len]).expect("damaged");
            assert!(load(&entry, Path::new("app")).is_none(), "cut at {len}");
        }
        let mut bytes = b"CONPLAN".to_vec();
        bytes.extend_from_slice(&whole[..whole.len() - TRAILER_BYTES]);
        bytes.extend_from_slice(&7u64.to_le_bytes());
        bytes.extend_from_slice(&whole[whole.len() - 16..]);
        fs::write(&entry, bytes).expect("damaged");
        assert!(load(&entry, Path::new("app")).is_none(), "no whole plan");
    }
}
