//! Stays with the program: passes signals on, polls for findings, and learns how it ended.
//!
//! The program shares conprof's process group, so the terminal's keys reach both; such a signal comes from the kernel and is not
//! passed on. Any other signal was sent to conprof alone and is passed on once.

use super::environment::Prepared;
use crate::os::{self, Change, Ended, Signals, SpawnRequest};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the recording is looked at, in milliseconds.
const POLL_MS: i32 = 50;
/// How long a program has to end after `--timeout`'s SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// What to start and how long to wait.
#[derive(Debug)]
pub struct SuperviseOptions<'a> {
    /// File to execute.
    pub program: &'a Path,
    /// `argv`.
    pub arguments: &'a [OsString],
    /// Environment and descriptors.
    pub prepared: Prepared,
    /// `--timeout`.
    pub timeout: Option<Duration>,
}

/// Told what happens while the program runs.
pub trait Observer {
    /// The program runs.
    fn started(&mut self, pid: u32);
    /// Some time has passed. `true` asks to end the program, since it hangs.
    fn poll(&mut self) -> bool;
    /// The first TERM or INT arrived, so the report must be written at once.
    fn interrupted(&mut self);
    /// `--timeout` is over, or the program hangs; it is about to be ended.
    fn timed_out(&mut self);
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Process id.
    pub pid: u32,
    /// How the program ended.
    pub ended: Ended,
    /// Wall time.
    pub duration: Duration,
    /// conprof ended it, because of `--timeout` or `--hang-after`.
    pub timed_out: bool,
}

/// Starts the program and waits for its end. The error is why it could not be executed.
pub fn supervise(options: SuperviseOptions<'_>, observer: &mut dyn Observer) -> io::Result<Outcome> {
    let signals = Signals::block()?;
    let start = Instant::now();
    let request = SpawnRequest {
        program: options.program,
        arguments: options.arguments,
        environment: &options.prepared.environment,
        inherit: &options.prepared.inherit,
    };
    let pid = os::spawn(&request, &signals)?;
    drop(options.prepared);
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        // The service manager learns which process is the service; without a listener there is nobody to tell.
        let _ = os::notify(&socket, &format!("MAINPID={pid}"));
    }
    observer.started(pid);
    let mut watch = Watch { pid, interrupted: false, stopped_together: false, ended: None };
    let mut timed_out: Option<Instant> = None;
    loop {
        if signals.wait(POLL_MS) {
            while let Some(signal) = signals.next() {
                watch.handle(signal, observer);
            }
        }
        watch.look();
        if let Some(ended) = watch.ended {
            return Ok(Outcome { pid, ended, duration: start.elapsed(), timed_out: timed_out.is_some() });
        }
        let hangs = observer.poll();
        match (options.timeout, timed_out) {
            (limit, None) if hangs || limit.is_some_and(|limit| start.elapsed() >= limit) => {
                observer.timed_out();
                timed_out = Some(Instant::now());
                os::kill(pid, libc::SIGTERM);
                os::kill(pid, libc::SIGCONT);
            }
            (_, Some(since)) if since.elapsed() >= GRACE => os::kill(pid, libc::SIGKILL),
            _ => {}
        }
    }
}

struct Watch {
    pid: u32,
    interrupted: bool,
    /// conprof stopped itself because the program was stopped.
    stopped_together: bool,
    ended: Option<Ended>,
}

impl Watch {
    fn handle(&mut self, signal: os::Signal, observer: &mut dyn Observer) {
        match signal.number {
            libc::SIGCHLD => self.look(),
            libc::SIGCONT => self.continued(signal),
            number => {
                if !signal.from_kernel && signal.sender != self.pid {
                    os::kill(self.pid, number);
                }
                if matches!(number, libc::SIGTERM | libc::SIGINT) && !self.interrupted {
                    self.interrupted = true;
                    observer.interrupted();
                }
            }
        }
    }

    /// A shell continues the whole group, another sender only conprof: the program's state tells.
    fn continued(&mut self, signal: os::Signal) {
        if std::mem::take(&mut self.stopped_together) {
            // The sender may still be on its way through the group.
            std::thread::sleep(Duration::from_millis(2));
            if is_stopped(self.pid) {
                os::kill(self.pid, libc::SIGCONT);
            }
        } else if !signal.from_kernel {
            os::kill(self.pid, libc::SIGCONT);
        }
    }

    fn look(&mut self) {
        while self.ended.is_none() {
            let change = if std::process::id() == 1 { os::reap_any(self.pid) } else { os::try_wait(self.pid) };
            match change {
                Some(Change::Ended(ended)) => self.ended = Some(ended),
                // Job control: the shell must see conprof stop as it would see the program stop. A SIGSTOP was meant for the
                // program alone.
                Some(Change::Stopped(libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)) => {
                    self.stopped_together = true;
                    os::stop_self();
                }
                Some(Change::Stopped(_) | Change::Other) => {}
                None => return,
            }
        }
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
