//! Numbers in as few bytes as they need, for rows that are packed in memory.
//!
//! Never leaves the process: what is read was written here.

/// Appends a number, seven bits a byte, the lowest first.
#[allow(clippy::cast_possible_truncation)] // The bits above are appended next.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number that is small on either side of zero.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value << 1 ^ value >> 63).cast_unsigned());
}

/// What is left to read; zeros when nothing is.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(super) fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// A number that was put in as a `u32`.
    pub(super) fn varint32(&mut self) -> u32 {
        u32::try_from(self.varint()).unwrap_or(0)
    }

    pub(super) fn signed(&mut self) -> i64 {
        let value = self.varint();
        (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
    }

    pub(super) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let unsigned = [0, 1, 127, 128, 16_383, 16_384, u64::MAX >> 1, u64::MAX];
        let signed = [0, -1, 1, -64, 64, i64::MIN, i64::MAX];
        let mut out = Vec::new();
        unsigned.iter().for_each(|value| put(&mut out, *value));
        signed.iter().for_each(|value| put_signed(&mut out, *value));
        let mut bytes = Bytes(&out);
        assert_eq!(unsigned.map(|_| bytes.varint()), unsigned);
        assert_eq!(signed.map(|_| bytes.signed()), signed);
        assert_eq!((bytes.0.len(), bytes.byte(), bytes.varint()), (0, 0, 0));
        assert_eq!(Bytes(b"abc").take(2), b"ab");
        assert_eq!(Bytes(b"a").take(2), b"a");
    }
}
