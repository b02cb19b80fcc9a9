//! Allocators linked statically into the program: their entry points are hooked, their insides left alone.
//!
//! jemalloc (`_rjem_`, `je_`, or no prefix), mimalloc (`mi_`), and whatever else defines `malloc` itself: a definition in the main
//! program wins over a preloaded one.

use super::functions::Bounds;
use super::model::Policy;
use crate::elf::Image;
use crate::wire::entry::Hook;

/// Sources that only jemalloc has; a run of local symbols from the first to the last of them is its own.
const JEMALLOC_SOURCES: &[&str] =
    &["jemalloc.c", "arena.c", "extent.c", "tcache.c", "tsd.c", "witness.c", "emap.c", "pa.c", "pac.c"];

/// Which allocators a program contains.
pub(super) struct Allocators<'a> {
    jemalloc_files: Vec<&'a str>,
    mimalloc: bool,
}

impl<'a> Allocators<'a> {
    /// Looks at the symbols.
    pub fn of(image: &Image<'a>) -> Allocators<'a> {
        let defines = |name: &str| image.symbols.iter().any(|symbol| symbol.is_function && symbol.name == name);
        let mut jemalloc_files = Vec::new();
        let prefixed = |name: &str| name.starts_with("_rjem_") || name.starts_with("je_");
        if image.symbols.iter().any(|symbol| symbol.is_function && prefixed(symbol.name)) || defines("mallocx") {
            let own = |file: &&str| JEMALLOC_SOURCES.contains(file);
            let first = image.files.iter().position(&own);
            let last = image.files.iter().rposition(own);
            if let (Some(first), Some(last)) = (first, last) {
                jemalloc_files.extend(image.files[first..=last].iter().filter(|file| file.ends_with(".c")));
            }
        }
        Allocators { jemalloc_files, mimalloc: defines("mi_malloc") || defines("_mi_malloc_generic") }
    }

    /// What is done with a function that belongs to an allocator.
    pub fn policy(&self, function: &Bounds<'a>) -> Option<Policy> {
        if let Some(hook) = function.names.iter().find_map(|name| hook_of(name)) {
            return Some(Policy::Hooked(hook));
        }
        let inside = function.names.iter().any(|name| {
            name.starts_with("_rjem_")
                || name.starts_with("je_")
                || self.mimalloc && (name.starts_with("mi_") || name.starts_with("_mi_"))
        });
        let by_file = function
            .file
            .is_some_and(|file| self.jemalloc_files.contains(&file) || self.mimalloc && file == "static.c");
        (inside || by_file).then_some(Policy::Native("allocator"))
    }
}

fn hook_of(name: &str) -> Option<Hook> {
    Some(match name {
        "mi_malloc" | "mi_zalloc" => Hook::Malloc,
        "mi_calloc" => Hook::Calloc,
        "mi_realloc" => Hook::Realloc,
        "mi_free" => Hook::Free,
        "mi_free_size" | "mi_free_size_aligned" => Hook::Sdallocx,
        "mi_malloc_aligned" | "mi_zalloc_aligned" => Hook::MiMallocAligned,
        "mi_realloc_aligned" => Hook::MiReallocAligned,
        _ => match name.strip_prefix("_rjem_").or_else(|| name.strip_prefix("je_")).unwrap_or(name) {
            "malloc" => Hook::Malloc,
            "free" => Hook::Free,
            "calloc" => Hook::Calloc,
            "realloc" => Hook::Realloc,
            "aligned_alloc" | "memalign" => Hook::AlignedAlloc,
            "posix_memalign" => Hook::PosixMemalign,
            "mallocx" => Hook::Mallocx,
            "rallocx" => Hook::Rallocx,
            "xallocx" => Hook::Xallocx,
            "sdallocx" => Hook::Sdallocx,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_points_are_told_from_insides() {
        assert_eq!(hook_of("_rjem_sdallocx"), Some(Hook::Sdallocx));
        assert_eq!(hook_of("malloc"), Some(Hook::Malloc));
        assert_eq!(hook_of("_rjem_je_arena_malloc"), None);
        assert_eq!(hook_of("mi_heap_malloc"), None);
    }
}
