//! Signals that conprof receives on the program's behalf.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Signals that a person, a shell or a supervisor sends to a program, and that conprof passes on.
const FORWARDED: [i32; 11] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGURG,
];

/// Whether SIGPIPE was ignored when this process started, before std's start-up ignored it.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember_sigpipe() {
    // SAFETY: an all-zero sigaction is a valid value to be overwritten, and a null new action only asks.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut action) == 0 {
            SIGPIPE_WAS_IGNORED.store(action.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
        }
    }
}

// SAFETY: the loader calls each entry of this section as a C function, once, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER_SIGPIPE: extern "C" fn() = remember_sigpipe;

/// Whether the program to be started must find SIGPIPE ignored, because conprof was started so.
pub(super) fn sigpipe_was_ignored() -> bool {
    SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed)
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// It was sent by the kernel (a terminal's key, for example), which sends it to the whole foreground group.
    pub from_kernel: bool,
    /// Process that sent it.
    pub sender: u32,
}

/// Receives signals as data: they are blocked in this thread, and read from a descriptor.
#[derive(Debug)]
pub struct Signals {
    descriptor: OwnedFd,
    original_mask: libc::sigset_t,
}

impl Signals {
    /// Blocks the forwarded signals and SIGCHLD in the calling thread; call it while there is only this one.
    pub fn block() -> io::Result<Signals> {
        // SAFETY: the sets are initialised by sigemptyset before use, and every pointer is to a live local.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for number in FORWARDED {
                libc::sigaddset(&mut set, number);
            }
            libc::sigaddset(&mut set, libc::SIGCHLD);
            let mut original_mask: libc::sigset_t = std::mem::zeroed();
            if libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut original_mask) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Signals { descriptor: OwnedFd::from_raw_fd(fd), original_mask })
        }
    }

    /// The mask that was in force before, which the program must start with.
    pub(super) fn original_mask(&self) -> &libc::sigset_t {
        &self.original_mask
    }

    /// Waits for a signal for at most `timeout_ms`.
    pub fn wait(&self, timeout_ms: i32) -> bool {
        super::wait_readable(&self.descriptor, timeout_ms)
    }

    /// The next signal that has arrived, if any.
    pub fn next(&self) -> Option<Signal> {
        // SAFETY: the buffer is a plain structure of the size given; all-zero is valid for it.
        let (read, info) = unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let read = libc::read(
                self.descriptor.as_raw_fd(),
                (&raw mut info).cast(),
                std::mem::size_of::<libc::signalfd_siginfo>(),
            );
            (read, info)
        };
        if read != std::mem::size_of::<libc::signalfd_siginfo>() as isize {
            return None;
        }
        Some(Signal { number: info.ssi_signo as i32, from_kernel: info.ssi_code > 0, sender: info.ssi_pid })
    }
}

/// Sends a signal to a process; one that is gone is no error.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe {
        libc::kill(pid as i32, signal);
    }
}

/// Stops this process as the terminal's stop key would, and returns when it is continued.
pub fn stop_self() {
    // SAFETY: no memory is involved.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGSTOP);
    }
}

/// Ends this process by a signal, without a core dump, so that its parent sees what the program's parent would.
/// Where that is impossible (process 1), exits with 128 plus the signal.
pub fn die_by(signal: i32) -> ! {
    // SAFETY: the structures are initialised before use and live across the calls; the default action is no pointer
    // to code of ours.
    unsafe {
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &no_core);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, std::ptr::null_mut());
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
    std::process::exit(128 + signal)
}
