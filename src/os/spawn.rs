//! Starting the program and learning how it ended.

use super::signals::{Signals, sigpipe_was_ignored};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to start.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// The file to execute.
    pub program: &'a Path,
    /// Its arguments, `argv[0]` included.
    pub arguments: &'a [OsString],
    /// Its whole environment. The value of `LISTEN_PID` is replaced by the new process id where it names this process.
    pub environment: &'a [(OsString, OsString)],
    /// Descriptors that it inherits although they are close-on-exec here.
    pub inherit: &'a [RawFd],
}

/// How a process ended or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Digits of a process id with a terminator, in a buffer, without allocation.
fn write_decimal(buffer: &mut [u8], mut value: u32) {
    let mut digits = [0u8; 10];
    let mut count = 0;
    loop {
        digits[count] = b'0' + (value % 10) as u8;
        value /= 10;
        count += 1;
        if value == 0 {
            break;
        }
    }
    for index in 0..count {
        buffer[index] = digits[count - 1 - index];
    }
    buffer[count] = 0;
}

/// Starts the program as a child that dies when this process dies. Returns its process id, or why it could not be executed.
///
/// Must be called from the main thread: the death signal is bound to the thread that forks.
pub fn spawn(request: &SpawnRequest<'_>, signals: &Signals) -> io::Result<u32> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let program = CString::new(request.program.as_os_str().as_bytes()).map_err(invalid)?;
    let arguments: Vec<CString> =
        request.arguments.iter().map(|a| CString::new(a.as_bytes())).collect::<Result<_, _>>().map_err(invalid)?;
    let own_pid = std::process::id().to_string();
    let mut listen_pid: Option<Vec<u8>> = None;
    let mut environment = Vec::with_capacity(request.environment.len());
    for (name, value) in request.environment {
        if name == "LISTEN_PID" && value.as_bytes() == own_pid.as_bytes() {
            listen_pid = Some(b"LISTEN_PID=\0\0\0\0\0\0\0\0\0\0\0\0".to_vec());
            continue;
        }
        let mut line = name.as_bytes().to_vec();
        line.push(b'=');
        line.extend_from_slice(value.as_bytes());
        environment.push(CString::new(line).map_err(invalid)?);
    }
    let argv: Vec<*const libc::c_char> =
        arguments.iter().map(|a| a.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
    let mut envp: Vec<*const libc::c_char> = environment.iter().map(|e| e.as_ptr()).collect();
    if let Some(buffer) = &listen_pid {
        envp.push(buffer.as_ptr().cast());
    }
    envp.push(std::ptr::null());
    let listen_digits = listen_pid.as_mut().map(|buffer| &mut buffer["LISTEN_PID=".len()..]);

    let (reader, writer) = pipe()?;
    let parent = std::process::id();
    // SAFETY: this process has one thread that runs code of ours, and the child calls async-signal-safe functions
    // only, on memory prepared above, until it executes the program or exits.
    unsafe {
        let pid = libc::fork();
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            if libc::getppid() as u32 != parent {
                // The parent died before the death signal was armed.
                libc::_exit(70);
            }
            if let Some(digits) = listen_digits {
                write_decimal(digits, libc::getpid() as u32);
            }
            for &fd in request.inherit {
                let flags = libc::fcntl(fd, libc::F_GETFD);
                libc::fcntl(fd, libc::F_SETFD, flags & !libc::FD_CLOEXEC);
            }
            let pipe_action = if sigpipe_was_ignored() { libc::SIG_IGN } else { libc::SIG_DFL };
            libc::signal(libc::SIGPIPE, pipe_action);
            libc::pthread_sigmask(libc::SIG_SETMASK, signals.original_mask(), std::ptr::null_mut());
            libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
            let code = *libc::__errno_location();
            libc::write(writer.as_raw_fd(), (&raw const code).cast(), 4);
            libc::_exit(127);
        }
        drop(writer);
        let mut code = [0u8; 4];
        let read = loop {
            let read = libc::read(reader.as_raw_fd(), code.as_mut_ptr().cast(), 4);
            if read >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break read;
            }
        };
        if read == 4 {
            libc::waitpid(pid, std::ptr::null_mut(), 0);
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code)));
        }
        Ok(pid as u32)
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for the two descriptors, which nobody else owns.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// What a wait reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The child ended.
    Ended(Ended),
    /// This signal stopped it.
    Stopped(i32),
    /// Something else: it continued, or another child ended.
    Other,
}

fn decode(status: i32) -> Change {
    if libc::WIFEXITED(status) {
        Change::Ended(Ended::Code(libc::WEXITSTATUS(status)))
    } else if libc::WIFSIGNALED(status) {
        Change::Ended(Ended::Signal(libc::WTERMSIG(status)))
    } else if libc::WIFSTOPPED(status) {
        Change::Stopped(libc::WSTOPSIG(status))
    } else {
        Change::Other
    }
}

/// The child's next change of state, or `None` if there is none. A child that someone else reaped counts as exited with 0.
pub fn try_wait(pid: u32) -> Option<Change> {
    let mut status = 0;
    // SAFETY: `status` is a live local.
    match unsafe { libc::waitpid(pid as i32, &mut status, libc::WNOHANG | libc::WUNTRACED) } {
        0 => None,
        n if n < 0 => {
            let gone = io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD);
            gone.then_some(Change::Ended(Ended::Code(0)))
        }
        _ => Some(decode(status)),
    }
}

/// As process 1: the next change of state of any child, of which only `pid`'s are told apart; the others are reaped.
pub fn reap_any(pid: u32) -> Option<Change> {
    let mut status = 0;
    // SAFETY: `status` is a live local.
    match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::WUNTRACED) } {
        n if n <= 0 => None,
        n if n as u32 == pid => Some(decode(status)),
        _ => Some(Change::Other),
    }
}
