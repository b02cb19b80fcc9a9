//! What the program is started with: descriptors and variables that the shim takes away again before `main`.

use super::plan_file::PlanFile;
use crate::wire::ENVIRONMENT_VARIABLE;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// The shim, built by the build script.
static SHIM: &[u8] = include_bytes!(env!("CONPROF_SHIM_SO"));

/// Environment and descriptors of the program to be started. The files stay open until this is dropped.
#[derive(Debug)]
pub struct Prepared {
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Descriptors that it inherits.
    pub inherit: Vec<RawFd>,
    _files: Vec<File>,
}

/// Whether this build of conprof carries a shim.
pub fn has_shim() -> bool {
    !SHIM.is_empty()
}

/// The shim's file, an ELF shared object; empty in a build without one.
pub fn shim_image() -> &'static [u8] {
    SHIM
}

/// Prepares a start. Without a recording the program runs natively.
pub fn prepare(plan: Option<&PlanFile>, recording: Option<File>) -> io::Result<Prepared> {
    let mut environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let Some(recording) = recording.filter(|_| has_shim()) else {
        return Ok(Prepared { environment, inherit: Vec::new(), _files: Vec::new() });
    };
    let shim = crate::os::memory_file(c"conprof-shim", SHIM)?;
    let plan = plan.map(PlanFile::descriptor).transpose()?;
    let own_part = format!("/proc/self/fd/{}", shim.as_raw_fd());
    let mut preload = OsString::from(&own_part);
    let mut own_len = own_part.len();
    environment.retain(|(name, value)| {
        if name == "LD_PRELOAD" {
            preload.push(":");
            own_len += 1;
            preload.push(value);
        }
        name != "LD_PRELOAD" && name != ENVIRONMENT_VARIABLE
    });
    environment.push(("LD_PRELOAD".into(), preload));
    let plan_descriptor = plan.as_ref().map_or(-1, |file| file.as_raw_fd());
    let value = format!("{plan_descriptor},{},{own_len}", recording.as_raw_fd());
    environment.push((ENVIRONMENT_VARIABLE.into(), value.into()));
    let mut files = vec![shim, recording];
    files.extend(plan);
    let inherit = files.iter().map(|file| file.as_raw_fd()).collect();
    Ok(Prepared { environment, inherit, _files: files })
}
