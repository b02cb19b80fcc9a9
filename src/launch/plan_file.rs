//! The bytes of a plan, in memory or in the cache.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// A plan that can be handed to the program as a descriptor. A cached one is handed over as the file it lies in, so that
/// neither conprof nor the program copies it.
#[derive(Clone, Debug)]
pub struct PlanFile(Arc<Kept>);

#[derive(Debug)]
enum Kept {
    Made(Vec<u8>),
    Cached { file: File, map: memmap2::Mmap, len: usize },
}

impl PlanFile {
    /// A plan just made.
    pub fn made(bytes: Vec<u8>) -> PlanFile {
        PlanFile(Arc::new(Kept::Made(bytes)))
    }

    /// The first `len` bytes of a mapped file, which holds a plan at its start.
    pub(super) fn cached(file: File, map: memmap2::Mmap, len: usize) -> PlanFile {
        let len = len.min(map.len());
        PlanFile(Arc::new(Kept::Cached { file, map, len }))
    }

    /// A file that begins with the plan.
    pub fn descriptor(&self) -> io::Result<File> {
        match &*self.0 {
            Kept::Made(bytes) => crate::os::memory_file(c"conprof-plan", bytes),
            Kept::Cached { file, .. } => file.try_clone(),
        }
    }
}

impl Deref for PlanFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Kept::Made(bytes) => bytes,
            Kept::Cached { map, len, .. } => &map[..*len],
        }
    }
}
