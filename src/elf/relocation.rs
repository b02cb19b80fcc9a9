//! Addresses of code that stand in data: from `.rela.dyn` and `.relr.dyn`, and in non-PIE programs from the data itself.
//!
//! Direction of error: may contain addresses that nothing ever jumps to.

use super::Image;
use object::elf;

/// Addresses of code found in data.
#[derive(Debug, Default)]
pub struct CodePointers {
    /// Exact: a relocation makes each of them a pointer. Ascending, without duplicates.
    pub relocated: Vec<u64>,
    /// Eight-byte values in the data of a non-PIE program that look like one. Ascending, without duplicates.
    pub guessed: Vec<u64>,
    /// Values that relocations put into the range asked for, as (place, value), ascending.
    pub values_in_range: Vec<(u64, u64)>,
}

impl CodePointers {
    /// Collects them; `values_in` is a range whose relocated words are wanted as well.
    pub fn of(image: &Image<'_>, values_in: (u64, u64)) -> CodePointers {
        let mut found = CodePointers::default();
        let mut add = |place: u64, value: u64| {
            if image.is_executable(value) {
                found.relocated.push(value);
            }
            if place >= values_in.0 && place < values_in.1 {
                found.values_in_range.push((place, value));
            }
        };
        for (_, bytes) in image.sections_of_type(elf::SHT_RELA) {
            for entry in bytes.chunks_exact(24) {
                let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
                let (place, info, addend) = (word(0), word(8), word(16));
                match (info & 0xffff_ffff) as u32 {
                    // R_X86_64_RELATIVE, R_X86_64_IRELATIVE: the resolver is code of this module, too.
                    8 | 37 => add(place, addend),
                    // R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT.
                    1 | 6 | 7 => {
                        if let Some(value) = image.dynamic_symbol_value((info >> 32) as usize) {
                            add(place, value.wrapping_add(addend));
                        }
                    }
                    _ => {}
                }
            }
        }
        for (_, bytes) in image.sections_of_type(elf::SHT_RELR) {
            for_each_relr(bytes, |place| {
                if let Some(value) = image.bytes_at(place).first_chunk::<8>() {
                    add(place, u64::from_le_bytes(*value));
                }
            });
        }
        if !image.is_pie {
            for (_, bytes) in image.data_ranges() {
                for word in bytes.chunks_exact(8) {
                    let value = u64::from_le_bytes(word.try_into().expect("eight bytes"));
                    if image.is_executable(value) {
                        found.guessed.push(value);
                    }
                }
            }
        }
        found.relocated.sort_unstable();
        found.relocated.dedup();
        found.guessed.sort_unstable();
        found.guessed.dedup();
        found.values_in_range.sort_unstable();
        found
    }
}

/// Calls `place` with every address that a `SHT_RELR` section relocates.
fn for_each_relr(bytes: &[u8], mut place: impl FnMut(u64)) {
    let mut next = 0u64;
    for word in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        if word & 1 == 0 {
            place(word);
            next = word.wrapping_add(8);
        } else {
            for bit in 0..63 {
                if word >> (bit + 1) & 1 == 1 {
                    place(next.wrapping_add(8 * bit));
                }
            }
            next = next.wrapping_add(8 * 63);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relr_bitmaps_cover_63_words() {
        let words: Vec<u8> = [0x1000u64, 0b101 | 1, 1 | 1 << 63, 0x5000].iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut places = Vec::new();
        for_each_relr(&words, |place| places.push(place));
        assert_eq!(places, [0x1000, 0x1008 + 8, 0x1008 + 63 * 8 + 62 * 8, 0x5000]);
    }
}
