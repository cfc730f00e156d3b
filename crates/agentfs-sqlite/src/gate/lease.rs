//! What can be done with a [`Lease`]: queries, repeated on newer snapshots while
//! another engine holds the file.

use std::time::Duration;

use agentfs_core::StorageError;
use rusqlite::Connection;

use super::{Lease, Purpose, READERS_KEPT, SNAPSHOT_ATTEMPTS};
use crate::connection;
use crate::error::{io_error, refined};
use crate::stamp::Stamp;

impl Lease<'_> {
    /// Runs a query. While another engine holds the file it may run more than
    /// once, each time on a newer state.
    pub(crate) fn query<T>(
        &self,
        f: impl Fn(&Connection) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.snapshot.borrow().is_none() {
            let conn = self.conn.borrow();
            let conn = conn
                .as_ref()
                .ok_or_else(|| StorageError::Io("no connection".into()))?;
            return f(conn).map_err(|error| {
                self.failed
                    .set(self.failed.get() || error != StorageError::Busy);
                refined(error, conn)
            });
        }
        let mut last = StorageError::Busy;
        for _ in 0..SNAPSHOT_ATTEMPTS {
            let paths = &self.gate.paths;
            let before =
                Stamp::at_paths(&self.gate.database, &paths.wal).map_err(|e| io_error(&e))?;
            if *self.snapshot.borrow() != Some(before) {
                drop(self.conn.borrow_mut().take());
                match connection::open_snapshot(paths) {
                    Ok(conn) => *self.conn.borrow_mut() = Some(conn),
                    Err(error) => {
                        last = error;
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    }
                }
                *self.snapshot.borrow_mut() = Some(before);
            }
            let result = match self.conn.borrow().as_ref() {
                Some(conn) => f(conn),
                None => continue,
            };
            let after =
                Stamp::at_paths(&self.gate.database, &paths.wal).map_err(|e| io_error(&e))?;
            if before == after {
                return result;
            }
            if let Err(error) = result {
                last = error;
            }
        }
        Err(last)
    }

    /// Whether this lease reads past another engine's lock.
    pub(crate) fn is_snapshot(&self) -> bool {
        self.snapshot.borrow().is_some()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let conn = self.conn.borrow_mut().take();
        let snapshot = *self.snapshot.borrow();
        // No transaction is left, neither one that only read nor one that failed
        // half-way.
        let mut rolled_back = false;
        let tidy = conn.as_ref().is_none_or(|conn| {
            rolled_back = !conn.is_autocommit();
            let roll_back = || conn.prepare_cached("ROLLBACK")?.execute([]);
            !rolled_back || roll_back().is_ok()
        });
        // What is left of it in the VFS must not be written later, see `vfs::gather`.
        let may_write = tidy && !rolled_back && !self.failed.get();
        let mut inner = self.gate.inner.lock();
        let mut spent = None;
        if let Some(conn) = conn {
            match (snapshot, inner.open.as_mut()) {
                (Some(stamp), _) => inner.snapshots.push((conn, stamp)),
                (None, Some(open)) if may_write && self.purpose == Purpose::Write => {
                    open.writer = Some(conn);
                }
                (None, Some(open))
                    if tidy
                        && self.purpose != Purpose::Write
                        && open.readers.len() < READERS_KEPT =>
                {
                    open.readers.push(conn);
                }
                _ => spent = Some(conn),
            }
        }
        inner.leases -= 1;
        if inner.leases == 0 {
            self.gate.release(&mut inner);
        }
        // SQLite keeps the descriptor, and so the lock, until the last connection to
        // the file is closed.
        drop(spent);
    }
}
