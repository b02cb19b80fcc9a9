//! Flame graphs: folded stacks in, interactive SVG out. Width is time; the unit stands in the title.

use crate::profile::{Class, Folded, Profile, duration};
use inferno::flamegraph::color::{BasicPalette, Color, PaletteMap};
use inferno::flamegraph::{self, Options, Palette};
use std::io;

/// The pictures of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Picture {
    /// Lock waiting, by waiting stack.
    Contention,
    /// The same time, by the stack that held the lock.
    Blame,
    /// Waiting for lack of work.
    Idle,
    /// Time off the CPU that was not idle.
    OffCpu,
    /// Time on the CPU, by samples.
    Cpu,
}

impl Picture {
    /// Every picture.
    pub const ALL: [Picture; 5] = [Picture::Contention, Picture::Blame, Picture::Idle, Picture::OffCpu, Picture::Cpu];

    /// File name without its ending.
    pub fn stem(self) -> &'static str {
        match self {
            Picture::Contention => "contention",
            Picture::Blame => "blame",
            Picture::Idle => "idle",
            Picture::OffCpu => "offcpu",
            Picture::Cpu => "cpu",
        }
    }

    /// The stacks of the picture.
    pub fn folded(self, profile: &Profile) -> Folded {
        match self {
            Picture::Contention => profile.contention(),
            Picture::Blame => profile.blame(),
            Picture::Idle => profile.idle(),
            Picture::OffCpu => profile.off_cpu(),
            Picture::Cpu => profile.on_cpu(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Picture::Contention => "Waiting for locks, by who waits",
            Picture::Blame => "Waiting for locks, by who held them",
            Picture::Idle => "Idle: waiting for something to do",
            Picture::OffCpu => "Off the CPU, idle time left out",
            Picture::Cpu => "On the CPU",
        }
    }

    fn nothing(self) -> &'static str {
        match self {
            Picture::Contention | Picture::Blame => "Nobody waited for a lock.",
            Picture::Idle => "No thread was idle.",
            Picture::OffCpu => "No thread waited for a lock, was preempted or blocked.",
            Picture::Cpu => "No sample was taken: the program used too little CPU time.",
        }
    }

    fn palette(self) -> Palette {
        match self {
            Picture::Contention => Palette::Basic(BasicPalette::Hot),
            Picture::Blame => Palette::Basic(BasicPalette::Red),
            Picture::Idle => Palette::Basic(BasicPalette::Aqua),
            Picture::OffCpu => Palette::Basic(BasicPalette::Blue),
            Picture::Cpu => Palette::Basic(BasicPalette::Orange),
        }
    }
}

/// Spinning and lock slow paths, on the CPU.
const LOCK_WORK: Color = Color { r: 160, g: 80, b: 220 };
/// Locks in pictures of waiting.
const LOCK_NAME: Color = Color { r: 250, g: 205, b: 90 };
/// Frames that are no functions.
const MARK: Color = Color { r: 190, g: 190, b: 190 };

/// Functions that spin or wait for a lock.
fn is_lock_work(frame: &str) -> bool {
    const WORDS: &[&str] = &[
        "lock_contended",
        "read_contended",
        "write_contended",
        "lock_slow",
        "lock_shared_slow",
        "lock_exclusive_slow",
        "::spin",
        "spin_loop",
        "spin::",
        "Backoff::snooze",
        "SpinWait",
        "SpinLock",
        "pthread_spin_lock",
        "__lll_lock_wait",
    ];
    WORDS.iter().any(|word| frame.contains(word))
}

/// The SVG of a picture. `folded` is what [`Picture::folded`] gave.
pub fn svg(picture: Picture, folded: &Folded, profile: &Profile) -> io::Result<Vec<u8>> {
    let title = format!("{} ({}): {} in all", picture.title(), profile.program, duration(folded.total()));
    if folded.is_empty() {
        return Ok(empty(&title, picture.nothing()).into_bytes());
    }
    let mut colors = PaletteMap::default();
    let locks: std::collections::HashSet<String> = (0..profile.locks.len()).map(|l| profile.lock_label(l)).collect();
    for frame in folded.frames() {
        if frame.starts_with('[') {
            colors.insert(frame, MARK);
        } else if picture == Picture::Cpu && is_lock_work(frame) {
            colors.insert(frame, LOCK_WORK);
        } else if picture != Picture::Cpu && locks.contains(frame) {
            colors.insert(frame, LOCK_NAME);
        }
    }
    let mut options = Options::default();
    options.title = title;
    options.subtitle = subtitle(picture, profile);
    options.count_name = "us".to_owned();
    options.factor = 0.001;
    options.name_type = "Frame:".to_owned();
    options.colors = picture.palette();
    options.palette_map = Some(&mut colors);
    options.deterministic = true;
    let lines: Vec<String> = folded.iter().map(|(stack, ns)| format!("{stack} {ns}")).collect();
    let mut out = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut out)?;
    Ok(out)
}

fn subtitle(picture: Picture, profile: &Profile) -> Option<String> {
    let distorted = "Race checks were on and distort these times: run with --checks contention.";
    match picture {
        _ if profile.distorted => Some(distorted.to_owned()),
        Picture::Contention => {
            let idle = profile.total_ns(Class::Idle);
            Some(format!("Unit: microseconds. {} of idle waiting are in idle.svg.", duration(idle)))
        }
        Picture::Blame => Some("Unit: microseconds, each waiter counted. Behind --: where the hold ended.".to_owned()),
        Picture::Cpu => {
            Some("Unit: microseconds of CPU time, by samples. Violet: spinning and lock slow paths.".to_owned())
        }
        Picture::Idle | Picture::OffCpu => Some("Unit: microseconds.".to_owned()),
    }
}

/// A differential flame graph of two pictures of one kind: red grew, blue shrank, width is the second's.
pub fn differential_svg(before: &Folded, after: &Folded, title: &str) -> io::Result<Vec<u8>> {
    if after.is_empty() && before.is_empty() {
        return Ok(empty(title, "Nobody waited for a lock in either run.").into_bytes());
    }
    let mut options = Options::default();
    options.title = title.to_owned();
    options.subtitle = Some("Unit: microseconds. Red: more than before; blue: less.".to_owned());
    options.count_name = "us".to_owned();
    options.factor = 0.001;
    let lines = differential_lines(before, after);
    let mut out = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut out)?;
    Ok(out)
}

/// Lines with two counts, sorted. A stack that is gone keeps its place with a sliver, or it would be invisible.
pub fn differential_lines(before: &Folded, after: &Folded) -> Vec<String> {
    let mut both = std::collections::BTreeMap::<&str, (u64, u64)>::new();
    for (stack, ns) in before.iter() {
        both.entry(stack).or_default().0 = ns;
    }
    for (stack, ns) in after.iter() {
        both.entry(stack).or_default().1 = ns;
    }
    both.iter().map(|(stack, (b, a))| format!("{stack} {b} {}", (*a).max(1))).collect()
}

/// An SVG that says that there is nothing to show.
fn empty(title: &str, text: &str) -> String {
    let escape = |s: &str| s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"1200\" height=\"90\" viewBox=\"0 0 1200 90\" xmlns=\"http://www.w3.org/2000/svg\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f8f8f8\"/>\n\
         <text x=\"600\" y=\"30\" text-anchor=\"middle\" font-family=\"monospace\" font-size=\"17\">{}</text>\n\
         <text x=\"600\" y=\"65\" text-anchor=\"middle\" font-family=\"monospace\" font-size=\"14\">{}</text>\n\
         </svg>\n",
        escape(title),
        escape(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The colour of the rectangle of a frame.
    fn colour<'s>(svg: &'s str, frame: &str) -> &'s str {
        let at = svg.find(&format!("<title>{frame} ")).expect("the frame");
        let fill = &svg[at..][svg[at..].find("fill=\"").expect("a colour") + 6..];
        &fill[..fill.find('"').expect("its end")]
    }

    #[test]
    fn time_spent_on_locks_has_a_colour_of_its_own() {
        let folded =
            Folded::from_text("main;app::work 9000\nmain;std::sys::sync::mutex::futex::Mutex::lock_contended 5000\n");
        let svg = svg(Picture::Cpu, &folded, &Profile::default()).expect("a picture");
        let svg = String::from_utf8(svg).expect("UTF-8");
        let lock = format!("rgb({},{},{})", LOCK_WORK.r, LOCK_WORK.g, LOCK_WORK.b);
        assert_eq!(colour(&svg, "std::sys::sync::mutex::futex::Mutex::lock_contended"), lock);
        assert_ne!(colour(&svg, "app::work"), lock);
    }

    #[test]
    fn pictures_of_runs_with_race_checks_say_so() {
        let folded = Folded::from_text("lock;app::work 9000\n");
        for picture in Picture::ALL {
            let text = |distorted| {
                let profile = Profile { distorted, ..Profile::default() };
                String::from_utf8(svg(picture, &folded, &profile).expect("a picture")).expect("UTF-8")
            };
            assert!(
                text(true).contains("run with --checks contention") && !text(false).contains("--checks contention")
            );
        }
    }
}
