//! Records of a perf ring as values. Layouts are those of `perf_event_open(2)` for the sample type in `attach`.
//!
//! ```text
//! SAMPLE     ip u64 | pid u32, tid u32 | time u64 | cpu u32, 0 u32 | abi u64 [, bp u64, sp u64, ip u64] | size u64 [, stack.., dynamic size u64]
//! others     their own fields .. | pid u32, tid u32 | time u64 | cpu u32, 0 u32
//! ```

/// Registers in a sample: bits of `enum perf_event_x86_regs` for `bp` (6), `sp` (7) and `ip` (8).
pub(super) const SAMPLE_REGISTERS: u64 = 0b1_1100_0000;

const MMAP2: u32 = 10;
const LOST: u32 = 2;
const EXIT: u32 = 4;
const SAMPLE: u32 = 9;
const LOST_SAMPLES: u32 = 13;
const SWITCH: u32 = 14;

const MISC_CPUMODE: u16 = 7;
const MISC_KERNEL: u16 = 1;
const MISC_SWITCH_OUT: u16 = 1 << 13;
const MISC_SWITCH_OUT_PREEMPT: u16 = 1 << 14;
const PROT_EXEC: u32 = 4;

/// Who, when and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub pid: u32,
    pub tid: u32,
    pub time_ns: u64,
    pub cpu: u32,
}

/// User registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Sample {
        origin: Origin,
        in_kernel: bool,
        registers: Option<Registers>,
        stack: Vec<u8>,
    },
    SwitchIn(Origin),
    SwitchOut {
        origin: Origin,
        preempted: bool,
    },
    /// An executable mapping.
    Map {
        origin: Origin,
        start: u64,
        len: u64,
        file_offset: u64,
        path: String,
    },
    Exit(Origin),
    /// A sample without registers and stack, of page faults.
    Faults(Origin),
    Lost(u64),
    Other,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.take(8)?.try_into().ok()?))
    }
}

fn origin(bytes: &mut Bytes<'_>) -> Option<Origin> {
    let pid = bytes.u32()?;
    let tid = bytes.u32()?;
    let time_ns = bytes.u64()?;
    let cpu = bytes.u32()?;
    bytes.u32()?;
    Some(Origin { pid, tid, time_ns, cpu })
}

const ORIGIN_BYTES: usize = 24;

/// Reads a record of the page-fault event, whose samples have an origin only.
pub(super) fn parse_faults(ty: u32, data: &[u8]) -> Record {
    match (ty, origin(&mut Bytes(data))) {
        (SAMPLE, Some(origin)) => Record::Faults(origin),
        _ => Record::Other,
    }
}

/// Reads a record; [`Record::Other`] for one of another type or too short for its own.
pub(super) fn parse(ty: u32, misc: u16, data: &[u8]) -> Record {
    try_parse(ty, misc, data).unwrap_or(Record::Other)
}

fn try_parse(ty: u32, misc: u16, data: &[u8]) -> Option<Record> {
    let mut bytes = Bytes(data);
    if ty == SAMPLE {
        return sample(misc, bytes);
    }
    let trailer = data.len().checked_sub(ORIGIN_BYTES)?;
    let origin = origin(&mut Bytes(&data[trailer..]))?;
    let mut bytes = Bytes(bytes.take(trailer)?);
    Some(match ty {
        SWITCH if misc & MISC_SWITCH_OUT != 0 => {
            Record::SwitchOut { origin, preempted: misc & MISC_SWITCH_OUT_PREEMPT != 0 }
        }
        SWITCH => Record::SwitchIn(origin),
        EXIT => Record::Exit(origin),
        LOST => {
            bytes.u64()?;
            Record::Lost(bytes.u64()?)
        }
        LOST_SAMPLES => Record::Lost(bytes.u64()?),
        MMAP2 => {
            let (pid, tid) = (bytes.u32()?, bytes.u32()?);
            let (start, len, file_offset) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
            bytes.take(24)?;
            let prot = bytes.u32()?;
            bytes.u32()?;
            if prot & PROT_EXEC == 0 {
                return None;
            }
            let name = bytes.0.split(|&b| b == 0).next().unwrap_or_default();
            let path = String::from_utf8_lossy(name).into_owned();
            Record::Map { origin: Origin { pid, tid, ..origin }, start, len, file_offset, path }
        }
        _ => Record::Other,
    })
}

fn sample(misc: u16, mut bytes: Bytes<'_>) -> Option<Record> {
    bytes.u64()?;
    let origin = origin(&mut bytes)?;
    let registers = match bytes.u64()? {
        0 => None,
        _ => {
            let (bp, sp, ip) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
            Some(Registers { ip, sp, bp })
        }
    };
    let len = usize::try_from(bytes.u64()?).ok()?;
    let mut stack = Vec::new();
    if len != 0 {
        let copied = bytes.take(len)?;
        let used = usize::try_from(bytes.u64()?).ok()?.min(len);
        stack = copied[..used].to_vec();
    }
    Some(Record::Sample { origin, in_kernel: misc & MISC_CPUMODE == MISC_KERNEL, registers, stack })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    const ORIGIN: [u64; 3] = [(8 << 32) | 7, 1234, 1];

    fn expected() -> Origin {
        Origin { pid: 7, tid: 8, time_ns: 1234, cpu: 1 }
    }

    #[test]
    fn a_sample_keeps_the_used_part_of_its_stack() {
        let mut data = words(&[0x1000]);
        data.extend(words(&ORIGIN));
        data.extend(words(&[2, 0xb, 0x5, 0x1, 16, 0xaa, 0xbb, 8]));
        let registers = Some(Registers { ip: 0x1, sp: 0x5, bp: 0xb });
        let expected = Record::Sample { origin: expected(), in_kernel: true, registers, stack: words(&[0xaa]) };
        assert_eq!(parse(SAMPLE, MISC_KERNEL, &data), expected);
    }

    #[test]
    fn switches_and_exits_carry_their_origin() {
        let data = words(&ORIGIN);
        assert_eq!(parse(SWITCH, 0, &data), Record::SwitchIn(expected()));
        let out = MISC_SWITCH_OUT | MISC_SWITCH_OUT_PREEMPT;
        assert_eq!(parse(SWITCH, out, &data), Record::SwitchOut { origin: expected(), preempted: true });
    }

    #[test]
    fn short_records_are_none() {
        let mut data = words(&[0x1000]);
        data.extend(words(&ORIGIN));
        data.extend(words(&[2, 0xb, 0x5, 0x1, 1 << 40, 0xaa]));
        for ty in 0..24 {
            for len in 0..data.len() {
                let _ = parse(ty, 0xffff, &data[..len]);
            }
        }
        assert_eq!(parse(SAMPLE, 0, &data), Record::Other);
    }
}
