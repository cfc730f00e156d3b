//! Whether an upper inode differs from a lower object of the same kind.
//!
//! Compares in pieces of bounded size and reads no byte that cannot differ.
//! Times and link counts are not compared.

use crate::error::FsError;
use crate::lower::{LowerAttr, LowerFile, LowerLayer};
use crate::overlay::merge;
use crate::storage::{Chunk, InodeRow, ReadTxn};
use crate::types::{FileKind, Ino, LowerPath};

/// Bytes compared at a time.
const PIECE_BYTES: usize = 128 << 10;

/// The two layers, and the unit in which the upper stores bytes.
pub(super) struct Layers<'a, L> {
    pub(super) txn: &'a dyn ReadTxn,
    pub(super) lower: &'a L,
    pub(super) chunk_size_bytes: u32,
}

/// An object of the lower layer.
#[derive(Clone, Debug)]
pub(super) struct LowerObject {
    pub(super) path: LowerPath,
    pub(super) attr: LowerAttr,
}

impl LowerObject {
    /// What lies at a path, if anything does.
    pub(super) fn find(lower: &impl LowerLayer, path: &LowerPath) -> Result<Option<Self>, FsError> {
        let attr = lower.stat(path)?;
        Ok(attr.map(|attr| Self {
            path: path.clone(),
            attr,
        }))
    }
}

impl<L: LowerLayer> Layers<'_, L> {
    /// Whether permissions, owner, extended attributes or content differ.
    /// `same_source`: `row` was copied up from this very object.
    pub(super) fn differ(
        &self,
        ino: Ino,
        row: &InodeRow,
        object: &LowerObject,
        same_source: bool,
    ) -> Result<bool, FsError> {
        let attr = &object.attr;
        if row.kind != attr.kind
            || row.perm != attr.perm
            || row.uid != attr.uid
            || row.gid != attr.gid
        {
            return Ok(true);
        }
        let content_differs = match row.kind {
            FileKind::Regular => self.bytes_differ(ino, row, object, same_source)?,
            FileKind::Symlink => {
                self.txn.symlink(ino)?.unwrap_or_default() != self.lower.read_link(&object.path)?
            }
            FileKind::CharDevice | FileKind::BlockDevice => row.rdev != attr.rdev,
            FileKind::Directory | FileKind::Fifo | FileKind::Socket => false,
        };
        Ok(content_differs || self.xattrs_differ(ino, &object.path)?)
    }

    fn xattrs_differ(&self, ino: Ino, path: &LowerPath) -> Result<bool, FsError> {
        let mut theirs = self.lower.xattrs(path)?;
        theirs.sort();
        let mut ours = Vec::with_capacity(theirs.len());
        self.txn.xattrs(ino, &mut |name, value| {
            ours.push((name.to_vec(), value.to_vec()));
        })?;
        ours.sort();
        Ok(ours != theirs)
    }

    fn bytes_differ(
        &self,
        ino: Ino,
        row: &InodeRow,
        object: &LowerObject,
        same_source: bool,
    ) -> Result<bool, FsError> {
        if row.size != object.attr.size {
            return Ok(true);
        }
        if row.size == 0 {
            return Ok(false);
        }
        let inherited = match self.inherited(row, object, same_source)? {
            Ok(inherited) => inherited,
            Err(BaseChanged) => return Ok(true),
        };
        let theirs = self.lower.open(&object.path)?;
        let mut compare = Compare {
            theirs: &*theirs,
            piece: Vec::new(),
            other: Vec::new(),
        };
        let mut segments = Segments {
            layers: self,
            ino,
            size: row.size,
            inherited_len: 0,
            at: 0,
        };
        segments.inherited_len = inherited.as_ref().map_or(0, |i| i.len);
        while let Some(segment) = segments.next()? {
            let Segment { start, end, source } = segment;
            let differs = match source {
                Source::Stored(chunk) => compare.stored(start, end, &chunk)?,
                Source::Zero => compare.zero(start, end)?,
                Source::Inherited => match inherited.as_ref().and_then(|i| i.file.as_deref()) {
                    Some(ours) => compare.file(start, end, ours)?,
                    None => false,
                },
            };
            if differs {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where bytes that no chunk holds come from, for as long as they can be had.
    fn inherited(
        &self,
        row: &InodeRow,
        object: &LowerObject,
        same_source: bool,
    ) -> Result<Result<Option<Inherited>, BaseChanged>, FsError> {
        let Some(origin) = row.origin.as_ref().filter(|o| o.data_len_bytes > 0) else {
            return Ok(Ok(None));
        };
        let len = origin.data_len_bytes.min(row.size);
        if same_source {
            let unchanged = merge::same_content(&origin.fingerprint, &object.attr);
            return Ok(if unchanged {
                Ok(Some(Inherited { len, file: None }))
            } else {
                Err(BaseChanged)
            });
        }
        match self.lower.stat(&origin.path)? {
            Some(attr)
                if attr.kind == FileKind::Regular
                    && merge::same_content(&origin.fingerprint, &attr) =>
            {
                let file = Some(self.lower.open(&origin.path)?);
                Ok(Ok(Some(Inherited { len, file })))
            }
            _ => Ok(Err(BaseChanged)),
        }
    }
}

/// The bytes below `len` that no chunk holds.
struct Inherited {
    len: u64,
    /// The file they come from; `None` when it is the one compared with.
    file: Option<Box<dyn LowerFile>>,
}

/// The base file is not what it was at copy-up: its bytes cannot be had.
struct BaseChanged;

/// A run of bytes of an upper file that have one source.
struct Segment {
    start: u64,
    end: u64,
    source: Source,
}

enum Source {
    Stored(Chunk),
    Inherited,
    Zero,
}

struct Segments<'a, L> {
    layers: &'a Layers<'a, L>,
    ino: Ino,
    size: u64,
    inherited_len: u64,
    at: u64,
}

impl<L> Segments<'_, L> {
    fn next(&mut self) -> Result<Option<Segment>, FsError> {
        if self.at >= self.size {
            return Ok(None);
        }
        let chunk_size = u64::from(self.layers.chunk_size_bytes.max(1));
        let index = self.at / chunk_size;
        let start = self.at;
        let txn = self.layers.txn;
        let stored = match txn.next_chunk(self.ino, index)? {
            Some(next) if next == index => txn.chunk(self.ino, index)?,
            Some(next) => {
                return Ok(Some(self.gap(start, next.saturating_mul(chunk_size))));
            }
            None => None,
        };
        let Some(chunk) = stored else {
            return Ok(Some(self.gap(start, self.size)));
        };
        self.at = (index + 1).saturating_mul(chunk_size).min(self.size);
        Ok(Some(Segment {
            start,
            end: self.at,
            source: Source::Stored(chunk),
        }))
    }

    fn gap(&mut self, start: u64, end: u64) -> Segment {
        let end = end.min(self.size);
        let (end, source) = if start < self.inherited_len {
            (end.min(self.inherited_len), Source::Inherited)
        } else {
            (end, Source::Zero)
        };
        self.at = end;
        Segment { start, end, source }
    }
}

/// Compares runs of bytes with those of a lower file.
struct Compare<'a> {
    theirs: &'a dyn LowerFile,
    piece: Vec<u8>,
    other: Vec<u8>,
}

impl Compare<'_> {
    fn stored(&mut self, start: u64, end: u64, chunk: &Chunk) -> Result<bool, FsError> {
        let mut ours: &[u8] = chunk;
        let mut at = start;
        while at < end {
            let len = self.read_theirs(at, end)?;
            let Some(len) = len else { return Ok(true) };
            let (now, rest) = ours.split_at(len.min(ours.len()));
            let (held, past) = self.piece[..len].split_at(now.len());
            // Bytes past a short chunk are zero.
            if now != held || past.iter().any(|&b| b != 0) {
                return Ok(true);
            }
            ours = rest;
            at += len as u64;
        }
        Ok(false)
    }

    fn zero(&mut self, start: u64, end: u64) -> Result<bool, FsError> {
        let mut at = start;
        while at < end {
            // Their holes need not be read.
            match self.theirs.seek(at, false)? {
                Some(data) if data < end => at = data.max(at),
                _ => return Ok(false),
            }
            let Some(len) = self.read_theirs(at, end)? else {
                return Ok(true);
            };
            if self.piece[..len].iter().any(|&b| b != 0) {
                return Ok(true);
            }
            at += len as u64;
        }
        Ok(false)
    }

    fn file(&mut self, start: u64, end: u64, ours: &dyn LowerFile) -> Result<bool, FsError> {
        let mut at = start;
        while at < end {
            let Some(len) = self.read_theirs(at, end)? else {
                return Ok(true);
            };
            self.other.resize(len, 0);
            if ours.read_at(&mut self.other, at)? != len || self.other != self.piece[..len] {
                return Ok(true);
            }
            at += len as u64;
        }
        Ok(false)
    }

    /// Fills the piece from `at`, at most to `end`; `None` when their file ends
    /// before that (it is being truncated).
    fn read_theirs(&mut self, at: u64, end: u64) -> Result<Option<usize>, FsError> {
        let len = usize::try_from(end - at).map_or(PIECE_BYTES, |len| len.min(PIECE_BYTES));
        self.piece.resize(PIECE_BYTES, 0);
        let got = self.theirs.read_at(&mut self.piece[..len], at)?;
        Ok((got == len).then_some(len))
    }
}
