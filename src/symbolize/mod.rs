//! Run-time addresses to frames and variables.
//!
//! ```text
//! run-time address --ModuleRow--> module, static address --DWARF, .symtab--> frames, innermost first
//! ```
//!
//! Nothing of a module is read before the first address in it is asked for; then its unit headers and symbols are, and of
//! its lines and inline trees only those of the units that are hit. A module that can't be read gives frames
//! without names. No input makes it panic.

mod image;
mod lock_name;
mod names;
mod receiver;
mod source;
mod types;
mod variables;

pub use lock_name::LockName;
pub use names::{is_dependency, is_std, short_name};
pub use source::Sources;

use crate::elf::{Avma, Svma};
use crate::report::Frame;
use image::Image;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A module in the address space of the program.
#[derive(Debug)]
struct Module {
    path: PathBuf,
    bias: u64,
    range: (u64, u64),
    image: OnceCell<Option<Image>>,
}

impl Module {
    fn image(&self) -> Option<&Image> {
        self.image.get_or_init(|| Image::open(&self.path).ok()).as_ref()
    }

    fn svma(&self, address: Avma) -> Svma {
        Svma(address.0.wrapping_sub(self.bias))
    }
}

/// A static that lies at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Demangled name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Offset of the address in it.
    pub offset: u64,
    /// File of its declaration; empty where unknown.
    pub file: String,
    /// Line of its declaration; 0 where unknown.
    pub line: u32,
}

/// Knows the modules of one process.
#[derive(Debug)]
pub struct Symbolizer {
    modules: Vec<Module>,
    /// Folder that file names are made relative to.
    directory: PathBuf,
    frames: RefCell<HashMap<u64, Vec<Frame>>>,
    sources: RefCell<Sources>,
}

impl Symbolizer {
    /// A symbolizer without modules. `directory` is where conprof was started.
    pub fn new(directory: &Path) -> Symbolizer {
        Symbolizer {
            modules: Vec::new(),
            directory: directory.to_path_buf(),
            frames: RefCell::default(),
            sources: RefCell::new(Sources::new(directory)),
        }
    }

    /// Adds a module; `bias` is run-time minus static address. One that is known already is left alone.
    pub fn add_module(&mut self, path: PathBuf, bias: u64, range: (u64, u64)) {
        if !self.modules.iter().any(|known| known.path == path && known.bias == bias) {
            self.modules.push(Module { path, bias, range, image: OnceCell::new() });
            self.frames.get_mut().clear();
        }
    }

    fn module_of(&self, address: Avma) -> Option<&Module> {
        self.modules.iter().find(|module| (module.range.0..module.range.1).contains(&address.0))
    }

    /// Path of the module that holds an address.
    pub fn module_path(&self, address: Avma) -> Option<&Path> {
        self.module_of(address).map(|module| module.path.as_path())
    }

    /// Frames of the code at a program counter, innermost first: at least one, `<unknown>` where nothing is known.
    pub fn frames(&self, pc: Avma) -> Vec<Frame> {
        if let Some(frames) = self.frames.borrow().get(&pc.0) {
            return frames.clone();
        }
        let frames = self.look_up(pc);
        self.frames.borrow_mut().insert(pc.0, frames.clone());
        frames
    }

    fn look_up(&self, pc: Avma) -> Vec<Frame> {
        let Some(module) = self.module_of(pc) else {
            return vec![Frame { function: "<unknown>".to_string(), module_offset: pc.0, ..Frame::default() }];
        };
        let svma = module.svma(pc);
        let mut frames = module.image().map_or_else(Vec::new, |image| image.frames(svma));
        if frames.is_empty() {
            frames.push(Frame { function: "<unknown>".to_string(), ..Frame::default() });
        }
        let path = module.path.display().to_string();
        for frame in &mut frames {
            frame.file = self.relative(&frame.file);
            frame.module = path.clone();
            frame.module_offset = svma.0;
        }
        frames
    }

    /// The static that holds an address.
    pub fn variable(&self, address: Avma) -> Option<Variable> {
        let module = self.module_of(address)?;
        let mut variable = module.image()?.variable(module.svma(address))?;
        variable.file = self.relative(&variable.file);
        Some(variable)
    }

    fn relative(&self, file: &str) -> String {
        match Path::new(file).strip_prefix(&self.directory) {
            Ok(rest) => rest.display().to_string(),
            Err(_) => file.to_string(),
        }
    }
}
