//! A recording and what perf collected, as a [`Profile`].

use super::locks::recorded::{permits, permits_name};
use super::locks::task_waits::Permits;
use super::session::{Ending, Session};
use super::sides::Context;
use super::task_stack;
use crate::elf::Avma;
use crate::perf::{Collected, GeneratedCode};
use crate::profile::{Blame, Figures, Profile, Sample, StackId, Stacks, Wait, WaitEvent};
use crate::report::Frame;
use crate::symbolize::{LockName, Symbolizer, is_dependency, is_std};
use crate::trace::{HeaderView, Recording, Row, TraceError};
use crate::wire::locks::Type;
use crate::wire::plan::{MAGIC, PcMapRow, PlanHeader};
use crate::wire::recording::{AccessRow, CONFIG_RACES, NO_SITE, Phase};
use crate::wire::waits::{BlameTotalRow, LockFiguresRow, NO_THREAD, WaitEventRow, WaitKind, WaitTotalRow};
use std::collections::HashMap;
use std::mem::offset_of;

impl Session {
    /// The profile of the run: waits from the recording, samples and lives from `collected`.
    pub fn profile(&mut self, ending: &Ending, collected: Option<&Collected>) -> Result<Profile, TraceError> {
        let header = self.refresh()?;
        if let Some(collected) = collected {
            for module in &collected.modules {
                self.symbolizer.add_module(module.path.clone(), module.bias, module.range);
            }
        }
        let program = self.run.program.file_name().unwrap_or(self.run.program.as_os_str());
        let mut profile = Profile {
            program: program.to_string_lossy().into_owned(),
            threads: self.threads.clone(),
            duration_ns: u64::try_from(ending.duration.as_nanos()).unwrap_or(u64::MAX),
            distorted: self.recording.config() & CONFIG_RACES != 0,
            ..Profile::default()
        };
        self.add_waits(&mut profile, &header);
        if let Some(collected) = collected {
            add_samples(&mut profile, collected, &self.symbolizer);
        }
        let starts = profile.lives.iter().map(|l| l.start_ns).chain(profile.events.iter().map(|e| e.start_ns));
        profile.start_ns = starts.min().unwrap_or(0);
        Ok(profile)
    }

    fn add_waits(&mut self, profile: &mut Profile, header: &HeaderView) {
        let mut context = Context {
            recording: &self.recording,
            symbolizer: &self.symbolizer,
            sources: None,
            threads: &[],
            slots: &[],
            births: &[],
            main_bias: header.main_bias,
        };
        let recording = &self.recording;
        let mut frames_at = |access: u32| {
            let row = recording.row::<AccessRow>(u64::from(access)).filter(|_| access != 0);
            let mut frames = row.map_or_else(Vec::new, |row| context.access_frames(&row));
            // What an interposed function was called for, the wait's kind tells.
            if row.is_some_and(|row| row.site == NO_SITE) && !frames.is_empty() {
                frames.remove(0);
            }
            frames
        };
        let mut known: HashMap<(u32, Option<u32>), StackId> = HashMap::new();
        // Of a task with the access row of its spawn, of a thread without.
        let mut stack = |stacks: &mut Stacks, access: u32, spawned: Option<u32>| {
            *known.entry((access, spawned)).or_insert_with(|| {
                let frames = frames_at(access);
                let frames = match spawned {
                    Some(spawned) => task_stack::whole(frames, frames_at(spawned)),
                    None => frames,
                };
                stacks.intern(frames)
            })
        };
        for row in all::<LockFiguresRow>(recording, header) {
            let first = stack(&mut profile.stacks, row.first_access, None);
            let frames = profile.stacks.frames(first);
            let kind = match Type::from_u8(row.lock_type as u8) {
                Type::TokioPermits => permits_name(permits(frames)),
                lock => lock.name(),
            };
            let name = lock_name(&self.symbolizer, row.address, kind, frames);
            profile.locks.push(figures(&row, name, kind));
        }
        let of_task = |thread: u32, spawned: u32| (thread == NO_THREAD).then_some(spawned);
        for row in all::<WaitTotalRow>(recording, header) {
            let spawned = of_task(row.thread, row.spawned);
            let stack = stack(&mut profile.stacks, row.access, spawned);
            profile.waits.push(Wait {
                lock: row.lock as usize,
                kind: wait_kind(&profile.stacks, row.kind, stack, spawned.is_some()),
                thread: row.thread,
                stack,
                count: row.count,
                total_ns: row.total_ns,
                max_ns: row.max_ns,
            });
        }
        for row in all::<BlameTotalRow>(recording, header) {
            let acquired = stack(&mut profile.stacks, row.acquired_access, of_task(row.thread, row.spawned));
            let released = stack(&mut profile.stacks, row.released_access, of_task(row.thread, row.released_spawned));
            // Those who send wait for who receives, not for who sent before them.
            let is_channel = row.released_access != 0
                && profile
                    .locks
                    .get(row.lock as usize)
                    .is_some_and(|lock| lock.kind == permits_name(Some(Permits::Channel)));
            profile.blames.push(Blame {
                lock: row.lock as usize,
                thread: row.thread,
                acquired: if is_channel { released } else { acquired },
                released,
                count: row.count,
                total_ns: row.total_ns,
                max_ns: row.max_ns,
            });
        }
        for row in all::<WaitEventRow>(recording, header) {
            let task = (row.task != 0).then_some(row.task);
            let stack = stack(&mut profile.stacks, row.access, task.map(|_| row.spawned));
            profile.events.push(WaitEvent {
                lock: row.lock as usize,
                kind: wait_kind(&profile.stacks, row.kind, stack, task.is_some()),
                thread: row.thread,
                task,
                stack,
                start_ns: row.start_ns.wrapping_add(header.start_ns),
                end_ns: row.end_ns.max(row.start_ns).wrapping_add(header.start_ns),
                holder: (row.holder != u32::MAX).then_some(row.holder),
                waker: (row.waker != u32::MAX).then_some(row.waker),
            });
        }
        profile.events.sort_by_key(|event| event.start_ns);
    }
}

fn all<R: Row>(recording: &Recording, header: &HeaderView) -> Vec<R> {
    recording.collect(0, header.counts[R::TABLE as usize])
}

/// What a recorded wait is for. Which lock of tokio's a task waits for, the code tells that waits.
fn wait_kind(stacks: &Stacks, recorded: u32, stack: StackId, is_task: bool) -> WaitKind {
    let recorded = WaitKind::from_u32(recorded);
    let frames = stacks.frames(stack);
    match permits(frames).filter(|_| is_task) {
        Some(Permits::Mutex) => WaitKind::Lock,
        Some(Permits::RwLock) if task_stack::reads(frames) => WaitKind::Shared,
        Some(Permits::RwLock) => WaitKind::Lock,
        Some(Permits::Channel) => WaitKind::Send,
        Some(Permits::Semaphore) | None => recorded,
    }
}

fn figures(row: &LockFiguresRow, name: String, kind: &str) -> Figures {
    // Permits that are given back one by one: of tokio's locks only those who read do so.
    let may_share = row.lock_type as u8 != Type::TokioPermits as u8 || kind == permits_name(Some(Permits::RwLock));
    Figures {
        name,
        kind: kind.to_owned(),
        address: row.address,
        acquisitions: row.acquisitions,
        shared_acquisitions: if may_share { row.shared_acquisitions } else { 0 },
        contended: row.contended,
        wait_ns: row.wait_ns,
        wait_max_ns: row.wait_max_ns,
        hold_ns: row.hold_ns,
        hold_max_ns: row.hold_max_ns,
        hold_samples: row.hold_samples,
        overtakes: row.overtakes,
        waiters_peak: row.waiters_peak,
        readers_peak: row.readers_peak,
        wait_histogram: row.wait_histogram,
        hold_histogram: row.hold_histogram,
    }
}

/// A static's or field's name, or the place of the user's code that took it first.
fn lock_name(symbolizer: &Symbolizer, address: u64, kind: &str, first: &[Frame]) -> String {
    let declared = symbolizer.static_lock(Avma(address), kind).or_else(|| symbolizer.field_lock(first));
    if let Some(LockName::Declared { name, .. }) = declared {
        return name;
    }
    let own = first.iter().find(|f| !f.file.is_empty() && !is_std(f) && !is_dependency(f)).or(first.first());
    match own {
        Some(frame) if !frame.file.is_empty() => {
            let file = frame.file.rsplit('/').next().unwrap_or(&frame.file);
            format!("taken at {file}:{}", frame.line)
        }
        Some(frame) => format!("taken in {}", crate::profile::frame_name(frame)),
        None => format!("{address:#x}"),
    }
}

/// Turns what perf collected into samples and lives.
pub fn add_samples(profile: &mut Profile, collected: &Collected, symbolizer: &Symbolizer) {
    let ids: Vec<StackId> = collected
        .stacks
        .iter()
        .map(|addresses| {
            let mut frames = Vec::with_capacity(addresses.len() * 2);
            for &address in addresses {
                match Collected::mark(address) {
                    Some(mark) => frames.push(Frame { function: mark.to_owned(), ..Frame::default() }),
                    None => frames.extend(symbolizer.frames(Avma(address))),
                }
            }
            profile.stacks.intern(frames)
        })
        .collect();
    profile.samples = collected
        .samples
        .iter()
        .map(|sample| Sample {
            tid: sample.tid,
            time_ns: sample.time_ns,
            weight_ns: collected.period_ns,
            stack: ids.get(sample.stack as usize).copied().unwrap_or_default(),
        })
        .collect();
    profile.lives.clone_from(&collected.lives);
}

/// Where the plan's code lies in the program, once the shim has applied it.
pub fn generated_code(recording: &Recording, plan: &[u8]) -> Option<GeneratedCode> {
    let header = recording.header().ok()?;
    if header.phase < Phase::Running as u32 || header.code.0 == 0 {
        return None;
    }
    let u64_at = |offset: usize| Some(u64::from_le_bytes(plan.get(offset..offset + 8)?.try_into().ok()?));
    if u64_at(offset_of!(PlanHeader, magic))? != MAGIC {
        return None;
    }
    let text_start = u64_at(offset_of!(PlanHeader, text_start))?;
    let section = offset_of!(PlanHeader, pc_map);
    let start = usize::try_from(u64_at(section)?).ok()?;
    let end = start.checked_add(usize::try_from(u64_at(section + 8)?).ok()?)?;
    let rows = plan
        .get(start..end)?
        .chunks_exact(size_of::<PcMapRow>())
        .map(|row| {
            let u32_at = |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
            PcMapRow { code_offset: u32_at(0), original: u32_at(4), rsp_offset: u32_at(8) }
        })
        .collect();
    Some(GeneratedCode { range: header.code, text_start: text_start.wrapping_add(header.main_bias), rows })
}
