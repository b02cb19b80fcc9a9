//! Reads `/proc/self/maps`, without allocation.

use crate::rt::syscall;

/// A line of the map.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapping {
    /// First address.
    pub low: u64,
    /// End.
    pub high: u64,
    /// Whether it is the main thread's stack.
    pub is_main_stack: bool,
}

/// Stack that the main thread may grow into at most, as far as the shim is concerned, in bytes.
const MAX_MAIN_STACK_BYTES: u64 = 1 << 30;

/// Calls `visit` for each mapping, ascending, until it gives `false`. Whether the map could be read.
pub fn for_each(mut visit: impl FnMut(Mapping) -> bool) -> bool {
    let Some(fd) = syscall::open_read(b"/proc/self/maps\0") else { return false };
    let mut buffer = [0u8; 1024];
    let mut mapping = Mapping::default();
    let mut field = 0u32;
    let mut name = 0u64;
    'read: loop {
        let len = syscall::read(fd, &mut buffer);
        if len <= 0 {
            break;
        }
        for &byte in buffer.iter().take(len as usize) {
            match byte {
                b'\n' => {
                    // `[stack]` is the only name that ends in these eight bytes.
                    mapping.is_main_stack = name & 0x00ff_ffff_ffff_ffff == u64::from_be_bytes(*b"\0[stack]");
                    if !visit(mapping) {
                        break 'read;
                    }
                    mapping = Mapping::default();
                    field = 0;
                    name = 0;
                }
                b'-' if field == 0 => field = 1,
                b' ' if field == 1 => field = 2,
                _ if field < 2 => {
                    let digit = match byte {
                        b'0'..=b'9' => byte - b'0',
                        b'a'..=b'f' => byte - b'a' + 10,
                        _ => 0,
                    };
                    let address = if field == 0 { &mut mapping.low } else { &mut mapping.high };
                    *address = (*address << 4) | u64::from(digit);
                }
                _ => name = (name << 8) | u64::from(byte),
            }
        }
    }
    syscall::close(fd);
    true
}

/// Start and length of the mapping that `address` is in.
pub fn mapping_of(address: u64) -> Option<(u64, u64)> {
    let mut found = None;
    for_each(|mapping| {
        if mapping.low <= address && address < mapping.high {
            found = Some((mapping.low, mapping.high - mapping.low));
        }
        mapping.high <= address
    });
    found
}

/// Start and length of what the main thread's stack may grow to.
pub fn main_stack() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the write.
    unsafe { syscall::call6(libc::SYS_prlimit64, 0, libc::RLIMIT_STACK as usize, 0, &raw mut limit as usize, 0, 0) };
    let marker = 0u8;
    let mut high = (&raw const marker as u64 + 0x10_0000) & !0xfff;
    for_each(|mapping| {
        if mapping.is_main_stack {
            high = mapping.high;
        }
        !mapping.is_main_stack
    });
    let len = limit.rlim_cur.clamp(1 << 20, MAX_MAIN_STACK_BYTES);
    (high - len, len)
}
