//! Formats that conprof's host and its in-process shim share: the patch plan, the thread state that
//! generated code reaches through `%gs`, and the recording.
//!
//! Everything here is plain data with a fixed layout (`repr(C)`, little-endian, x86-64 Linux) and
//! constants; there is no unsafe code, no I/O and no allocation. Both sides check [`VERSION`].
//!
//! The crate is compiled twice: as `conprof-wire` for the shim and, through a symbolic link, as the
//! module `wire` of the host, so that the packed host crate has no path dependency. Paths inside it
//! are therefore relative (`super::`), never `crate::`.

pub mod entry;
pub mod incident;
pub mod locks;
pub mod plan;
pub mod recording;
pub mod site;
pub mod state;
pub mod waits;

/// Version of every format in this crate; the shim refuses a plan or a recording of another one.
pub const VERSION: u32 = 4;

/// Name of the environment variable that hands the shim its descriptors:
/// `<plan fd>,<recording fd>,<length of conprof's own prefix in LD_PRELOAD>`, in decimal. The plan
/// descriptor is `-1` where nothing is patched. The shim removes the variable before `main`.
pub const ENVIRONMENT_VARIABLE: &str = "CONPROF_SHIM";
