//! Whether a `-wal` belongs to the database file beside it.
//!
//! SQLite takes any well-formed `-wal` for the database's own: nothing in the
//! two files ties them together. A `-wal` that a killed session left, beside a
//! database that was removed and replaced by a copy of another, would be laid
//! over it. So the first transaction in every `-wal` of ours replaces `wal_id`
//! by a new random one and records the one before as `wal_base`. The file
//! without its `-wal` then has either the `wal_id` that the `-wal` was begun on,
//! or, partly folded in, the very one that the `-wal` has.
//!
//! A `-wal` begun by another program carries no such mark and is believed, as
//! SQLite does.

mod mark;
mod mend;
mod room;

use std::fs::File;
use std::sync::atomic::Ordering;

use agentfs_core::StorageError;
use rusqlite::Connection;

use crate::error::{io_error, storage_error};
use crate::gate::{Gate, Purpose};
use crate::shared::Shared;
use crate::sql;
use crate::stamp;

pub(crate) use mark::Mark;

/// Whether the open transaction is the first in its `-wal`: nobody else can write to
/// it now. What cannot be told counts as a beginning, and so does what a fold beside has
/// just ended before; neither does harm.
fn begins(gate: &Gate) -> bool {
    let holds_frames = gate.with_wal(|wal, shm| {
        stamp::size_bytes(wal).is_ok_and(|size| size > 0)
            && matches!(room::is_folded(shm), Ok(false))
    });
    holds_frames != Some(true)
}

/// Keeps room for the next syncs, see [`room`]. A transaction must be open.
pub(crate) fn keep_room(gate: &Gate) {
    if let Some(Err(error)) = gate.with_wal(room::keep) {
        // The commit finds out by itself whether there is space.
        tracing::debug!(%error, "no room was made in the -wal");
    }
}

/// Whether room should be made while nothing else is to be done.
pub(crate) fn wants_room(shared: &Shared) -> bool {
    room::is_low(&fill(&shared.gate))
}

/// Makes room for the next sync while nothing else is to be done, and puts all on the
/// disk: what has grown since would have to be written with it. Whoever calls this must
/// have the committer's turn.
pub(crate) fn make_room(shared: &Shared) {
    let made = shared.lease(Purpose::Write).and_then(|lease| {
        lease.query(|conn| {
            run(conn, "BEGIN IMMEDIATE")?;
            keep_room(&shared.gate);
            // Nothing was done in it: the connection is as good as before.
            run(conn, "ROLLBACK")
        })
    });
    if let Err(error) = made.and_then(|()| sync(shared)) {
        tracing::debug!(%error, "no room was made in the -wal");
    }
}

/// Says that a batch will come soon. Whoever writes calls this: it waits for nobody.
pub(crate) fn expect(gate: &Gate) {
    gate.with_wal_at_once(room::expect);
}

/// Gives the room back: the disk is full.
pub(crate) fn give_back_room(shared: &Shared) -> Result<(), StorageError> {
    // The lease rolls the transaction back, in which nothing is done.
    shared.lease(Purpose::Write)?.query(|conn| {
        run(conn, "BEGIN IMMEDIATE")?;
        let given = shared.gate.with_wal(room::give_back);
        given.unwrap_or(Ok(())).map_err(|e| io_error(&e))
    })
}

/// How full a `-wal` is, in bytes. All 0 where that cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Of the file.
    pub(crate) size_bytes: u64,
    /// In use; what lies behind is room.
    pub(crate) used_bytes: u64,
    /// Of these, not yet in the database file.
    pub(crate) unfolded_bytes: u64,
}

/// How full the `-wal` is.
pub(crate) fn fill(gate: &Gate) -> Fill {
    gate.with_wal(fill_of).unwrap_or_default()
}

/// As [`fill`], of files that are open.
pub(crate) fn fill_of(wal: &File, shm: &File) -> Fill {
    room::fill(wal, shm).unwrap_or_default()
}

/// Puts the `-wal` on stable storage. Whoever calls this must have the committer's
/// turn.
pub(crate) fn sync(shared: &Shared) -> Result<(), StorageError> {
    match shared.gate.is_doubted() {
        true => mend(shared),
        false => shared.gate.sync_wal(),
    }?;
    shared.left_to_host_bytes.store(0, Ordering::Relaxed);
    Ok(())
}

/// After a sync has failed, makes the `-wal` durable by writing it once more, see
/// [`mend`]; until that has succeeded, nothing may be promised and nothing folded.
pub(crate) fn mend(shared: &Shared) -> Result<(), StorageError> {
    if !shared.gate.is_doubted() {
        return Ok(());
    }
    // A fold that is under way syncs what is not known to be there.
    let Some(_no_fold) = shared.mailbox.folding.try_lock() else {
        return Err(StorageError::Io("an earlier sync has failed".into()));
    };
    let lease = shared.lease(Purpose::Write)?;
    // The lease rolls the transaction back, in which nothing is done.
    lease.query(|conn| {
        run(conn, "BEGIN IMMEDIATE")?;
        let written = shared.gate.with_wal(mend::write_anew);
        written.unwrap_or(Ok(())).map_err(|e| io_error(&e))?;
        shared.gate.sync_wal()
    })?;
    shared.gate.trust();
    tracing::info!(path = %shared.path().display(), "what a failed sync left is on the disk now");
    Ok(())
}

/// The mark in a state of the database. Empty strings where there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tie {
    base: String,
    id: String,
}

/// Runs `f` as one transaction that writes, marking the `-wal` when it is the
/// first in it, or in it begun anew.
pub(crate) fn transaction<T>(
    gate: &Gate,
    conn: &Connection,
    f: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    run(conn, "BEGIN IMMEDIATE")?;
    if begins(gate) {
        begin(conn)?;
    }
    // On an error the lease rolls back what is left.
    let value = f()?;
    run(conn, "COMMIT")?;
    Ok(value)
}

fn run(conn: &Connection, sql: &str) -> Result<(), StorageError> {
    conn.prepare_cached(sql)
        .and_then(|mut statement| statement.execute([]))
        .map(|_| ())
        .map_err(|e| storage_error(&e))
}

fn begin(conn: &Connection) -> Result<(), StorageError> {
    conn.execute(sql::WAL_BEGIN, [])
        .map(|_| ())
        .map_err(|e| storage_error(&e))
}

/// Reads the mark; none where the database has no table for it.
pub(crate) fn tie(conn: &Connection) -> Option<Tie> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Tie {
            base: row.get(0)?,
            id: row.get(1)?,
        })
    };
    conn.query_row(sql::WAL_TIE, [], read).ok()
}

/// Whether the state `with` the `-wal` may have grown from the one `without`.
pub(crate) fn fits(without: Option<&Tie>, with: Option<&Tie>) -> bool {
    match (without, with) {
        // Not what the one grew from: a power failure while that is folded leaves a page
        // whose parts are of two ages, and there `wal_base` may be of another than
        // `wal_id`.
        (Some(without), Some(with)) => with.id == without.id || with.base == without.id,
        // A database without our tables is an SDK's; without the mark, nothing
        // can be told.
        (None, _) => true,
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_fits_what_it_was_begun_on() {
        let tie = |base: &str, id: &str| {
            Some(Tie {
                base: base.into(),
                id: id.into(),
            })
        };
        let check = |without: Option<Tie>, with: Option<Tie>, expected| {
            assert_eq!(
                fits(without.as_ref(), with.as_ref()),
                expected,
                "{without:?} {with:?}"
            );
        };
        check(tie("a", "b"), tie("b", "c"), true);
        check(tie("b", "c"), tie("b", "c"), true);
        check(tie("", "c"), tie("b", "c"), true);
        check(tie("b", "c"), tie("a", "b"), false);
        check(tie("a", "b"), tie("x", "y"), false);
        check(tie("a", "b"), None, false);
        check(None, tie("x", "y"), true);
        check(tie("", ""), tie("", "y"), true);
    }
}
