//! Gathers what SQLite appends to a `-wal` into few large writes.
//!
//! SQLite writes each frame of a transaction with two system calls, a header of 24
//! bytes and a page, none of them on a boundary of the host's pages. Half the time
//! of writing a large file went there. Here they are put together in memory and
//! written at once, at the latest when the transaction commits.
//!
//! A transaction ends within a page of the host's, which the host would have to read first
//! where it does not have it. So the rest of that page is written with it, as zeros: behind the
//! last frame is nothing that counts (see `wal::room`), and only who may write to the file
//! writes there. Whether the file has that page is not asked: who asks for the times of a file,
//! as `fstat` does, has the next write change them (Linux 6.13), and the next sync write them.
//!
//! What is gathered is one range that lies over the file. Must be written before
//! anybody may look for it: when the last frame of a transaction is there (SQLite
//! tells others right afterwards), and before the file is read, synced, measured or
//! cut. Whatever could not be written stays gathered, so that no transaction can
//! commit without it.

/// SQLite's "WAL-mode File Format": the header of a frame.
const FRAME_HEADER_BYTES: usize = 24;
/// Where it says how large the database is after a commit; 0: no commit.
const COMMIT_AT: std::ops::Range<usize> = 4..8;
/// More than this is not gathered.
const GATHERED_MAX_BYTES: usize = 1 << 20;
/// A page of the host's, or a part of one.
const HOST_PAGE_BYTES: u64 = 4096;

/// Writes bytes at an offset of the file.
pub(super) trait Sink {
    /// Why a write failed.
    type Error;

    /// That an earlier one did.
    const FAILED_BEFORE: Self::Error;

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Self::Error>;
}

/// The range, and where the next write belongs to it.
#[derive(Debug, Default)]
pub(super) struct Gather {
    bytes: Vec<u8>,
    /// Where `bytes` begin in the file.
    start: u64,
    /// The end of the last write.
    next: u64,
    /// Where the page of a commit frame will be written, once its header was.
    commit_page: Option<u64>,
    /// Something gathered could not be written.
    is_spoiled: bool,
}

impl Gather {
    /// Takes a write of SQLite's.
    ///
    /// # Errors
    /// Those of `sink`.
    pub(super) fn write<S: Sink>(
        &mut self,
        bytes: &[u8],
        offset: u64,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let commit_header = is_commit_header(bytes);
        let ends = self.commit_page.take() == Some(offset);
        if self.is_spoiled || !self.covers(offset) {
            self.flush(sink)?;
        }
        // A commit header alone may be the last that SQLite writes: it corrects
        // checksums after a transaction.
        let begins = offset == self.next && !commit_header;
        if self.bytes.is_empty() && !begins {
            sink.write(bytes, offset)?;
        } else {
            self.put(bytes, offset);
        }
        self.next = offset + bytes.len() as u64;
        if commit_header {
            self.commit_page = Some(self.next);
        }
        if ends {
            self.fill_page();
        }
        if ends || self.bytes.len() >= GATHERED_MAX_BYTES {
            self.flush(sink)?;
        }
        Ok(())
    }

    /// Gathers zeros up to the end of the host's page.
    fn fill_page(&mut self) {
        if !self.bytes.is_empty() && self.next == self.end() {
            let room = self.next.next_multiple_of(HOST_PAGE_BYTES) - self.next;
            let len = self.bytes.len() + usize::try_from(room).unwrap_or(0);
            self.bytes.resize(len, 0);
        }
    }

    /// Writes all that is gathered.
    ///
    /// # Errors
    /// Those of `sink`.
    pub(super) fn flush<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        if self.is_spoiled {
            return Err(S::FAILED_BEFORE);
        }
        if !self.bytes.is_empty() {
            let written = sink.write(&self.bytes, self.start);
            self.is_spoiled = written.is_err();
            self.bytes.clear();
            written?;
        }
        Ok(())
    }

    /// Whether a write at `offset` can be laid over what is gathered.
    fn covers(&self, offset: u64) -> bool {
        (self.start..=self.end()).contains(&offset)
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn put(&mut self, bytes: &[u8], offset: u64) {
        if self.bytes.is_empty() {
            self.start = offset;
        }
        // Below the length: `covers`, or the range is empty.
        let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let over = bytes.len().min(self.bytes.len() - at);
        self.bytes[at..at + over].copy_from_slice(&bytes[..over]);
        self.bytes.extend_from_slice(&bytes[over..]);
    }
}

fn is_commit_header(bytes: &[u8]) -> bool {
    bytes.len() == FRAME_HEADER_BYTES && bytes[COMMIT_AT] != [0; 4]
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small numbers
mod tests {
    use super::*;

    /// A file in memory that counts writes and can refuse them.
    #[derive(Default)]
    struct File {
        bytes: Vec<u8>,
        writes: usize,
        is_full: bool,
    }

    impl Sink for File {
        type Error = ();
        const FAILED_BEFORE: () = ();

        fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), ()> {
            if self.is_full {
                return Err(());
            }
            let (from, to) = (offset as usize, offset as usize + bytes.len());
            self.bytes.resize(self.bytes.len().max(to), 0);
            self.bytes[from..to].copy_from_slice(bytes);
            self.writes += 1;
            Ok(())
        }
    }

    const PAGE: usize = 512;
    const FRAME: u64 = (FRAME_HEADER_BYTES + PAGE) as u64;

    fn header(commit: u8) -> [u8; FRAME_HEADER_BYTES] {
        let mut header = [7; FRAME_HEADER_BYTES];
        header[COMMIT_AT].copy_from_slice(&[0, 0, 0, commit]);
        header
    }

    fn frame(gather: &mut Gather, file: &mut File, number: u64, commit: u8, fill: u8) {
        let at = 32 + number * FRAME;
        gather.write(&header(commit), at, file).unwrap();
        gather
            .write(&[fill; PAGE], at + FRAME_HEADER_BYTES as u64, file)
            .unwrap();
    }

    fn pages(file: &File) -> Vec<u8> {
        let frames = file.bytes.get(32..).unwrap_or_default();
        frames
            .chunks_exact(FRAME as usize)
            .take_while(|frame| frame[0] != 0)
            .map(|frame| frame[FRAME as usize - 1])
            .collect()
    }

    #[test]
    fn a_transaction_is_written_at_once_when_it_commits() {
        let (mut gather, mut file) = (Gather::default(), File::default());
        gather.write(&[1; 32], 0, &mut file).unwrap();
        for number in 0..5 {
            frame(&mut gather, &mut file, number, 0, number as u8);
        }
        assert_eq!(file.bytes.len(), 0);
        frame(&mut gather, &mut file, 5, 9, 5);
        assert_eq!(pages(&file), [0, 1, 2, 3, 4, 5]);
        assert_eq!(file.writes, 1);
    }

    /// So that the host need not read what of it is not written.
    #[test]
    fn a_transaction_ends_with_a_page() {
        let (mut gather, mut file) = (Gather::default(), File::default());
        let page = HOST_PAGE_BYTES as usize;
        file.bytes = vec![9; page + 1];
        frame(&mut gather, &mut file, 0, 0, 1);
        frame(&mut gather, &mut file, 1, 1, 1);
        let end = (32 + 2 * FRAME) as usize;
        assert!(file.bytes[end..page].iter().all(|&byte| byte == 0));
        assert_eq!(file.bytes[page..], [9]);
        // The next is laid over that.
        frame(&mut gather, &mut file, 2, 1, 2);
        assert_eq!(pages(&file)[..3], [1, 1, 2]);
        assert_eq!(file.bytes.len(), page + 1);
        let last = HOST_PAGE_BYTES / FRAME;
        (3..=last).for_each(|number| frame(&mut gather, &mut file, number, 1, 3));
        assert_eq!(file.bytes.len(), 2 * page);
    }

    #[test]
    fn a_commit_of_one_frame_is_there_at_once() {
        let (mut gather, mut file) = (Gather::default(), File::default());
        frame(&mut gather, &mut file, 0, 1, 1);
        frame(&mut gather, &mut file, 1, 1, 2);
        assert_eq!(pages(&file), [1, 2]);
    }

    #[test]
    fn a_page_is_replaced_while_it_is_gathered_and_after() {
        let (mut gather, mut file) = (Gather::default(), File::default());
        frame(&mut gather, &mut file, 0, 3, 0);
        frame(&mut gather, &mut file, 1, 0, 1);
        frame(&mut gather, &mut file, 2, 0, 2);
        let page_of_1 = 32 + FRAME + FRAME_HEADER_BYTES as u64;
        gather.write(&[8; PAGE], page_of_1, &mut file).unwrap();
        gather.flush(&mut file).unwrap();
        assert_eq!(pages(&file), [0, 8, 2]);
        gather.write(&[9; PAGE], page_of_1, &mut file).unwrap();
        frame(&mut gather, &mut file, 3, 5, 3);
        assert_eq!(pages(&file), [0, 9, 2, 3]);
    }

    #[test]
    fn checksums_corrected_after_a_commit_do_not_wait() {
        let (mut gather, mut file) = (Gather::default(), File::default());
        for number in 0..4 {
            frame(&mut gather, &mut file, number, u8::from(number == 3), 1);
        }
        for number in 1..4 {
            let mut corrected = header(u8::from(number == 3));
            corrected[20] = 99;
            gather.flush(&mut file).unwrap(); // it reads the frame
            gather
                .write(&corrected, 32 + number * FRAME, &mut file)
                .unwrap();
        }
        for number in 1..4_u64 {
            assert_eq!(file.bytes[(32 + number * FRAME) as usize + 20], 99);
        }
    }

    #[test]
    fn after_what_could_not_be_written_comes_nothing() {
        let (mut gather, mut file) = (Gather::default(), File::default());
        frame(&mut gather, &mut file, 0, 3, 0);
        frame(&mut gather, &mut file, 1, 0, 1);
        let written = file.bytes.clone();
        file.is_full = true;
        gather.flush(&mut file).unwrap_err();
        file.is_full = false;
        // Neither the rest of the transaction nor another.
        for number in [2, 1] {
            let at = 32 + number * FRAME;
            gather.write(&header(3), at, &mut file).unwrap_err();
            let page = at + FRAME_HEADER_BYTES as u64;
            gather.write(&[2; PAGE], page, &mut file).unwrap_err();
        }
        gather.flush(&mut file).unwrap_err();
        assert_eq!(file.bytes, written);
    }

    #[test]
    fn much_is_written_before_the_commit() {
        let (mut gather, mut file) = (Gather::default(), File::default());
        let frames = (3 * GATHERED_MAX_BYTES as u64) / FRAME;
        for number in 0..frames {
            frame(&mut gather, &mut file, number, 0, 1);
        }
        assert!(file.bytes.len() > GATHERED_MAX_BYTES);
        assert!(gather.bytes.len() < GATHERED_MAX_BYTES + PAGE);
        assert!(file.writes <= 3);
    }
}
