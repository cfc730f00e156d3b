//! The rowid that a chunk's row gets: a function of inode and chunk, so that a
//! cold read goes to the row without the index.
//!
//! A wish and no more. Rows keep the number that another program, an older
//! version or `VACUUM` gave them; whoever finds a row under its number must see
//! from its columns that it is the right one, and otherwise ask the index.

use agentfs_core::Ino;

const CHUNK_BITS: u32 = 22;
const INO_BITS: u32 = 39;
/// Above the numbers of copied-up inodes, in the order of inode numbers.
const BORN: u64 = 1 << (INO_BITS + CHUNK_BITS);

/// The number of a chunk's row, ascending by inode and by chunk; none for the few
/// (inode numbers of the host above 2^39, mapped ones, chunks from 2^22 on) that
/// SQLite is to number.
pub(crate) fn chunk_row_id(ino: Ino, index: u64) -> Option<i64> {
    let (class, ino) = if ino.is_born() {
        (BORN, ino.0 - Ino::FIRST_UPPER.0)
    } else {
        (0, ino.0)
    };
    let fits = ino < 1 << INO_BITS && index < 1 << CHUNK_BITS;
    fits.then(|| (class | ino << CHUNK_BITS | index).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positive_and_ascend_with_inode_and_chunk() {
        let born = Ino::FIRST_UPPER.0;
        let keys = [
            (1, 0),
            (1, 1),
            (1, (1 << CHUNK_BITS) - 1),
            (2, 0),
            ((1 << INO_BITS) - 1, (1 << CHUNK_BITS) - 1),
            (born, 0),
            (born, 1),
            (born + 1, 0),
            (born + (1 << INO_BITS) - 1, (1 << CHUNK_BITS) - 1),
        ];
        let numbers: Vec<i64> = keys
            .map(|(ino, index)| chunk_row_id(Ino(ino), index).expect("in range"))
            .into();
        assert!(numbers[0] > 0);
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        // SQLite numbers at random where the largest number is taken.
        assert!(*numbers.last().expect("not empty") < i64::MAX);
    }

    #[test]
    fn what_is_out_of_range_is_left_to_sqlite() {
        for (ino, index) in [
            (1 << INO_BITS, 0),
            (1, 1 << CHUNK_BITS),
            (Ino::FIRST_UPPER.0 + (1 << INO_BITS), 0),
            (Ino::FIRST_MAPPED.0, 0),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(chunk_row_id(Ino(ino), index), None, "{ino} {index}");
        }
    }
}
