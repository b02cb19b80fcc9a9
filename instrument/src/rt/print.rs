//! Emergency messages on descriptor 2: bounded, unbuffered, without formatting machinery.

use super::syscall;

/// Longest message, in bytes; the rest is cut.
const CAPACITY: usize = 512;

/// A message under construction.
pub struct Message {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Message {
    /// Starts with conprof's prefix.
    pub fn start() -> Message {
        Message { bytes: [0; CAPACITY], len: 0 }.text("conprof: ")
    }

    /// Appends bytes, as far as they fit.
    pub fn bytes(mut self, text: &[u8]) -> Message {
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        self
    }

    /// Appends text.
    pub fn text(self, text: &str) -> Message {
        self.bytes(text.as_bytes())
    }

    /// Appends a number in hexadecimal.
    pub fn hex(self, value: u64) -> Message {
        let mut message = self.text("0x");
        let digits = (64 - (value | 1).leading_zeros()).div_ceil(4);
        for position in (0..digits).rev() {
            let digit = (value >> (position * 4)) as u8 & 15;
            message = message.bytes(&[if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }]);
        }
        message
    }

    /// Writes the line to descriptor 2.
    pub fn send(self) {
        let line = self.bytes(b"\n");
        if let Some(bytes) = line.bytes.get(..line.len) {
            syscall::write(2, bytes);
        }
    }
}
