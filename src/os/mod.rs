//! The host's dealings with the operating system that std does not cover: the only unsafe code of the host.
//!
//! Each function is one system call or a short fixed sequence of them; policy lives in `launch`.

mod signals;
mod spawn;

pub use signals::{Signal, Signals, die_by, kill, stop_self};
pub use spawn::{Change, Ended, SpawnRequest, reap_any, spawn, try_wait};

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Maps a file for reading.
///
/// The file must not be shortened while it is mapped: a program file or a finished plan.
pub fn map_file(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is private and read-only. A writer that truncates the file meanwhile can end this
    // process with SIGBUS; the same holds for every debugger or linker that maps an object file.
    unsafe { memmap2::Mmap::map(file) }
}

/// An anonymous file in memory with the given contents, close-on-exec.
pub fn memory_file(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    // SAFETY: `name` is a terminated string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and nobody else owns it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    io::Write::write_all(&mut file, bytes)?;
    Ok(file)
}

/// Reserves `len` bytes of disk space for the file and makes it that long, so that writing to a mapping of it
/// cannot fail later.
pub fn reserve(file: &File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: the descriptor is open for the whole call.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Gives back the disk space of a range of the file, which then reads as zero. Not every file system can.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // SAFETY: the descriptor is open for the whole call.
    let result = unsafe {
        libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the file carries capabilities (`setcap`), which make the loader ignore `LD_PRELOAD`.
pub fn has_file_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())) else {
        return false;
    };
    // SAFETY: both strings are terminated; a null buffer of size 0 asks for the length only.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Whether the calling user may execute the file.
pub fn may_execute(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())) else {
        return false;
    };
    // SAFETY: the string is terminated.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
}

/// The calling user's effective id.
pub fn effective_user() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() }
}

/// Waits until `fd` is readable or `timeout_ms` have passed; interruption counts as a time-out.
pub fn wait_readable(fd: &OwnedFd, timeout_ms: i32) -> bool {
    let mut request = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `request` is one valid entry for the whole call.
    unsafe { libc::poll(&mut request, 1, timeout_ms) > 0 }
}

/// Sends one datagram to a `unix` socket address in the notation of `NOTIFY_SOCKET` (`@` for the abstract namespace).
pub fn notify(socket: &std::ffi::OsStr, message: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}
