//! Takes conprof's variables out of the environment, in place, so that the program and its children see
//! the environment that the user gave them.

use crate::rt::memory::string_len;

/// What the host handed over.
pub struct Handed {
    /// Descriptor of the plan, or -1.
    pub plan: i32,
    /// Descriptor of the recording.
    pub recording: i32,
    /// Descriptor the shim itself was loaded from, or -1.
    pub library: i32,
}

const VARIABLE: &[u8] = conprof_wire::ENVIRONMENT_VARIABLE.as_bytes();
const PRELOAD: &[u8] = b"LD_PRELOAD";
const DESCRIPTORS: &[u8] = b"/proc/self/fd/";

/// Reads and removes conprof's variable, and conprof's prefix of `LD_PRELOAD`. `None` where there is no such variable.
///
/// # Safety
/// `environment` is the array of the process's environment.
pub unsafe fn take(environment: *mut *mut u8) -> Option<Handed> {
    // SAFETY: promised by the caller.
    unsafe {
        let place = find(environment, VARIABLE)?;
        let mut numbers = [-1i64; 3];
        let text = (*place).add(VARIABLE.len() + 1);
        parse_numbers(core::slice::from_raw_parts(text, string_len(text)), &mut numbers);
        remove(environment, place);
        let [plan, recording, prefix] = numbers;
        let mut handed = Handed { plan: plan as i32, recording: recording as i32, library: -1 };
        if let Some(place) = find(environment, PRELOAD) {
            handed.library = cut_preload(environment, place, prefix.max(0) as usize);
        }
        Some(handed)
    }
}

/// Cuts `prefix` bytes from the value of `LD_PRELOAD`, or removes the variable where nothing remains of it.
/// Gives the descriptor that the prefix named, or -1.
unsafe fn cut_preload(environment: *mut *mut u8, place: *mut *mut u8, prefix: usize) -> i32 {
    // SAFETY: `place` is an element of the environment and holds `LD_PRELOAD=`.
    unsafe {
        let value = (*place).add(PRELOAD.len() + 1);
        let len = string_len(value);
        let prefix = prefix.min(len);
        if prefix == 0 {
            return -1;
        }
        let cut = core::slice::from_raw_parts(value, prefix);
        let mut numbers = [-1i64; 3];
        if let Some(digits) = cut.strip_prefix(DESCRIPTORS) {
            parse_numbers(digits, &mut numbers);
        }
        let separated = matches!(cut.last(), Some(b':' | b' '));
        if prefix == len && !separated {
            remove(environment, place);
        } else {
            close_gap(environment, value as usize, prefix);
        }
        numbers[0] as i32
    }
}

/// Decimal numbers separated by one other byte each.
fn parse_numbers(text: &[u8], numbers: &mut [i64; 3]) {
    for (field, number) in text.split(|byte| *byte == b',' || *byte == b':').zip(numbers) {
        let (negative, digits) = match field.strip_prefix(b"-") {
            Some(digits) => (true, digits),
            None => (false, field),
        };
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            continue;
        }
        let value =
            digits.iter().fold(0i64, |value, digit| value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')));
        *number = if negative { -value } else { value };
    }
}

unsafe fn find(environment: *mut *mut u8, name: &[u8]) -> Option<*mut *mut u8> {
    let mut place = environment;
    // SAFETY: the array ends with a null pointer, its strings with a zero byte.
    unsafe {
        while !(*place).is_null() {
            let entry = core::slice::from_raw_parts(*place, string_len(*place));
            if entry.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'=')) {
                return Some(place);
            }
            place = place.add(1);
        }
    }
    None
}

/// Removes an entry: its string from the strings' area, its pointer from the array.
unsafe fn remove(environment: *mut *mut u8, place: *mut *mut u8) {
    // SAFETY: `place` is an element of the environment.
    unsafe {
        let start = *place as usize;
        let len = string_len(*place) + 1;
        let mut next = place;
        while !(*next).is_null() {
            *next = *next.add(1);
            next = next.add(1);
        }
        close_gap(environment, start, len);
    }
}

/// Moves what follows `gap` bytes at `start` in the strings' area down over them, so that
/// `/proc/self/environ` shows no hole, and zeroes the end.
unsafe fn close_gap(environment: *mut *mut u8, start: usize, gap: usize) {
    // SAFETY: the kernel laid the strings out in one area; entries that lie elsewhere are left alone.
    unsafe {
        let mut end = start + gap;
        let mut place = environment;
        while !(*place).is_null() {
            let string = *place as usize;
            let string_end = string + string_len(*place) + 1;
            if string <= end && string_end > end {
                end = string_end;
                // The area grows only by adjoining strings, in whatever order the array has them.
                place = environment;
                continue;
            }
            place = place.add(1);
        }
        crate::rt::memory::copy_overlapping(start as *mut u8, (start + gap) as *const u8, end - start - gap);
        crate::rt::memory::fill((end - gap) as *mut u8, 0, gap);
        place = environment;
        while !(*place).is_null() {
            let string = *place as usize;
            if string > start && string < end {
                *place = (*place).wrapping_sub(gap);
            }
            place = place.add(1);
        }
    }
}
