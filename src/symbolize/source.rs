//! Lines of source, kept in the report so that it reads the same on another machine.

use crate::report::{Frame, SourceExcerpt};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Lines shown before and after the line in question.
const AROUND: u32 = 2;
/// Files longer than this are not read.
const LONGEST: u64 = 16 << 20;

/// Source files, each read once.
#[derive(Debug)]
pub struct Sources {
    directory: PathBuf,
    files: HashMap<String, Option<Vec<String>>>,
}

impl Sources {
    /// Reads relative names from `directory`.
    pub fn new(directory: &Path) -> Sources {
        Sources { directory: directory.to_path_buf(), files: HashMap::new() }
    }

    /// A file's lines, if it is there.
    pub(super) fn lines(&mut self, file: &str) -> Option<&Vec<String>> {
        if file.is_empty() {
            return None;
        }
        let directory = &self.directory;
        self.files.entry(file.to_owned()).or_insert_with(|| read(&directory.join(file))).as_ref()
    }

    /// The lines around a frame's line, if the file is there.
    pub fn excerpt(&mut self, frame: &Frame) -> Option<SourceExcerpt> {
        if frame.file.is_empty() || frame.line == 0 {
            return None;
        }
        let lines = self.lines(&frame.file)?;
        let line = frame.line as usize;
        if line > lines.len() {
            return None;
        }
        let first = frame.line.saturating_sub(AROUND).max(1);
        let last = (line + AROUND as usize).min(lines.len());
        Some(SourceExcerpt { first_line: first, lines: lines[first as usize - 1..last].to_vec() })
    }
}

fn read(path: &Path) -> Option<Vec<String>> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return None;
    }
    let text = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&text).lines().map(str::to_string).collect())
}
