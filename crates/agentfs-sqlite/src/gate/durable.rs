//! What is on stable storage, what may not be, and what is lost.
//!
//! Takes no lease and runs no statement. Must never say that something is on the
//! disk because it cannot be found.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

use agentfs_core::StorageError;

use super::{Files, Gate, Open};
use crate::error::io_error;
use crate::stamp;
use crate::sys;
use crate::wal;

impl Gate {
    /// Has the disk begin to write what is in the `-wal`, without waiting.
    pub(crate) fn start_writing_wal(&self) {
        self.with_wal(|wal, _| sys::start_writing(wal));
    }

    /// Puts the `-wal` on stable storage. No lease is needed: whoever moved its
    /// content to the database file meanwhile has synced that, or it is done here. An
    /// error is told once by the kernel, so it is remembered here.
    ///
    /// # Errors
    /// The host's; [`StorageError::Io`] when the `-wal` was removed by hand, once for what that lost.
    pub(crate) fn sync_wal(&self) -> Result<(), StorageError> {
        let wal = {
            let mut inner = self.inner.lock();
            let mut wal = None;
            if let Some(open) = &mut inner.open
                && !self.note_removal(open)
            {
                wal = Some(open.files.wal.try_clone().map_err(|e| io_error(&e))?);
            }
            wal
        };
        if self.lost.swap(false, Ordering::AcqRel) {
            let words = "its -wal was removed while it was in use: what was written last is lost";
            return Err(StorageError::Io(words.into()));
        }
        let synced = match wal {
            Some(wal) => wal.sync_data(),
            // With `synchronous` off, others move it and do not sync.
            None => self.sync_by_path(),
        };
        synced.map_err(|e| {
            self.doubt();
            io_error(&e)
        })
    }

    /// The `-wal` that is there now, and the database.
    fn sync_by_path(&self) -> io::Result<()> {
        match File::open(&self.paths.wal) {
            Ok(wal) => wal.sync_data()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.database.sync_data()
    }

    /// Whether the `-wal` has been removed. Takes note when that lost anything: SQLite
    /// folds it first, and says so in the `-shm`.
    pub(super) fn note_removal(&self, open: &mut Open) -> bool {
        let files = &open.files;
        if !stamp::is_removed(&files.wal) {
            return false;
        }
        let left = wal::fill_of(&files.wal, &files.shm).unfolded_bytes;
        if left > open.lost_bytes {
            tracing::error!(
                path = %self.paths.wal.display(),
                left,
                "the -wal was removed while it held what the database does not"
            );
            open.lost_bytes = left;
            self.lost.store(true, Ordering::Release);
        }
        true
    }

    /// Says that a sync has failed: of the `-wal`, or of the database while the one
    /// was folded into the other.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    /// Says that what was doubted has been written and synced once more.
    pub(crate) fn trust(&self) {
        self.doubted.store(false, Ordering::Release);
    }

    /// Whether a sync has failed since the `-wal` was last known to be on the disk.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }
}

impl Files {
    /// Goes on with the descriptor of before where it is that of the same file: a sync
    /// that fails is told once to each.
    pub(super) fn keep_wal(&mut self, before: Option<File>) {
        if let Some(before) = before
            && stamp::is_same(before.metadata(), self.wal.metadata())
        {
            self.wal = before;
        }
    }
}
