//! Function bounds from `.eh_frame`, and landing pads from the exception tables (`.gcc_except_table`).
//!
//! The layout of an exception table (LSDA) follows GCC's `unwind-pe.h` and LLVM's `EHStreamer`; the ABI documents leave it
//! to the personality routine. A table that does not parse yields the landing pads read so far.

use super::Image;
use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, Pointer, UnwindSection as _};

/// A range of code with one unwind description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fde {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

/// What the unwind tables of an image say.
#[derive(Debug, Default)]
pub struct UnwindTables {
    /// Ranges, ascending by start, not empty; may overlap in a damaged file.
    pub fdes: Vec<Fde>,
    /// Addresses of landing pads, ascending, without duplicates.
    pub landing_pads: Vec<u64>,
}

impl UnwindTables {
    /// Reads the tables of an image; stops at the first damaged entry.
    pub fn of(image: &Image<'_>) -> UnwindTables {
        let mut tables = UnwindTables::default();
        let (Some(section), Some(bytes)) = (image.section(".eh_frame"), image.section_bytes(".eh_frame")) else {
            return tables;
        };
        let eh_frame = EhFrame::new(&bytes, LittleEndian);
        let text = image.section(".text").map_or(0, |text| text.start);
        let got = image.section(".got").map_or(0, |got| got.start);
        let bases = BaseAddresses::default().set_eh_frame(section.start).set_text(text).set_got(got);
        let mut cies = std::collections::HashMap::new();
        let mut entries = eh_frame.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let fde = partial.parse(|section, bases, offset| match cies.entry(offset.0) {
                std::collections::hash_map::Entry::Occupied(entry) => {
                    Ok(gimli::CommonInformationEntry::clone(entry.get()))
                }
                std::collections::hash_map::Entry::Vacant(entry) => {
                    Ok(entry.insert(section.cie_from_offset(bases, offset)?).clone())
                }
            });
            let Ok(fde) = fde else { continue };
            let start = fde.initial_address();
            let Some(end) = start.checked_add(fde.len()) else { continue };
            if end == start || !image.is_executable(start) {
                continue;
            }
            tables.fdes.push(Fde { start, end });
            let lsda = match fde.lsda() {
                Some(Pointer::Direct(address)) => Some(address),
                Some(Pointer::Indirect(place)) => image.bytes_at(place).first_chunk().map(|b| u64::from_le_bytes(*b)),
                None => None,
            };
            if let Some(lsda) = lsda.filter(|&address| address != 0) {
                read_landing_pads(image, lsda, start, &mut tables.landing_pads);
            }
        }
        tables.fdes.sort_unstable_by_key(|fde| (fde.start, fde.end));
        tables.fdes.dedup();
        tables.landing_pads.sort_unstable();
        tables.landing_pads.dedup();
        tables
    }
}

fn read_landing_pads(image: &Image<'_>, lsda: u64, function: u64, pads: &mut Vec<u64>) -> Option<()> {
    let mut reader = Reader { bytes: image.bytes_at(lsda), address: lsda };
    let base_encoding = reader.u8()?;
    let base = if base_encoding == 0xff { function } else { reader.encoded(base_encoding)? };
    if reader.u8()? != 0xff {
        reader.uleb()?;
    }
    let encoding = reader.u8()?;
    let len = usize::try_from(reader.uleb()?).ok()?;
    let mut entries = Reader { bytes: reader.bytes.get(..len)?, address: reader.address };
    while !entries.bytes.is_empty() {
        entries.encoded(encoding)?;
        entries.encoded(encoding)?;
        let pad = entries.encoded(encoding)?;
        entries.uleb()?;
        if pad != 0 {
            pads.push(base.wrapping_add(pad));
        }
    }
    Some(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    address: u64,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        self.address = self.address.wrapping_add(N as u64);
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn uleb(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..).step_by(7) {
            let byte = self.u8()?;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn sleb(&mut self) -> Option<i64> {
        let mut value = 0i64;
        let mut shift = 0;
        loop {
            let byte = self.u8()?;
            if shift < 64 {
                value |= i64::from(byte & 0x7f) << shift;
            }
            shift += 7;
            if byte & 0x80 == 0 {
                if shift < 64 && byte & 0x40 != 0 {
                    value |= -1 << shift;
                }
                return Some(value);
            }
        }
    }

    /// A pointer in the `DW_EH_PE` encoding given; indirect ones are not followed.
    fn encoded(&mut self, encoding: u8) -> Option<u64> {
        let place = self.address;
        let value = match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => u64::from_le_bytes(self.take()?),
            0x01 => self.uleb()?,
            0x02 => u64::from(u16::from_le_bytes(self.take()?)),
            0x03 => u64::from(u32::from_le_bytes(self.take()?)),
            0x09 => self.sleb()? as u64,
            0x0a => i64::from(i16::from_le_bytes(self.take()?)) as u64,
            0x0b => i64::from(i32::from_le_bytes(self.take()?)) as u64,
            _ => return None,
        };
        match encoding & 0x70 {
            0x00 => Some(value),
            0x10 if value != 0 => Some(place.wrapping_add(value)),
            0x10 => Some(0),
            _ => None,
        }
    }
}
