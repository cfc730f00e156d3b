//! What has to be known of the whole upper layer before the walk: what was
//! moved, and which lower directories hold a change that no upper row leads to.
//!
//! Takes memory for the upper layer's directories, renames and whiteouts, never
//! for the lower tree.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use foldhash::fast::RandomState;

use super::content::{Layers, LowerObject};
use crate::error::{FsError, StorageError};
use crate::lower::{LowerAttr, LowerLayer};
use crate::overlay::merge;
use crate::storage::InodeRow;
use crate::types::{FileKind, Ino, LowerPath, Name};

/// What the walk looks up.
#[derive(Default)]
pub(super) struct Plan {
    /// Lower objects that show at another place, given as directory and name:
    /// where they were is empty, or holds something else.
    moved: HashMap<LowerPath, (Ino, Name), RandomState>,
    /// Names in lower directories that must be looked at although the upper
    /// layer has no entry for them.
    dirty: HashMap<LowerPath, BTreeSet<Name>, RandomState>,
    base_dev: u64,
}

impl Plan {
    pub(super) fn make<L: LowerLayer>(
        layers: &Layers<'_, L>,
        hidden: &[Name],
    ) -> Result<Self, FsError> {
        let mut plan = Self::default();
        if let Some(root) = layers.lower.stat(&LowerPath::root())? {
            plan.base_dev = root.id.dev;
        }
        plan.find_moved(layers)?;
        plan.find_whiteouts(layers)?;
        plan.find_hard_links(layers, hidden)?;
        Ok(plan)
    }

    /// Whether the lower object at this path shows elsewhere.
    pub(super) fn is_moved(&self, path: &LowerPath) -> bool {
        self.moved.contains_key(path)
    }

    /// Whether this upper entry is where the lower object at the path went.
    pub(super) fn moved_to(&self, path: &LowerPath, dir: Ino, name: &Name) -> bool {
        self.moved
            .get(path)
            .is_some_and(|(at, as_name)| *at == dir && as_name == name)
    }

    /// Names to look at in a lower directory.
    pub(super) fn dirty(&self, dir: &LowerPath) -> impl Iterator<Item = &Name> {
        self.dirty.get(dir).into_iter().flatten()
    }

    /// Whether something changed beneath a lower directory (or in it).
    pub(super) fn is_dirty(&self, dir: &LowerPath) -> bool {
        self.dirty.contains_key(dir)
    }

    /// The copied-up inode that the lower object is another name of.
    pub(super) fn copied_up<L: LowerLayer>(
        &self,
        layers: &Layers<'_, L>,
        attr: &LowerAttr,
    ) -> Result<Option<(Ino, InodeRow)>, FsError> {
        if attr.kind.is_dir() || attr.nlink < 2 {
            return Ok(None);
        }
        // As the overlay numbers it: the first free number ends the search.
        for ino in merge::candidate_inos(self.base_dev, attr.id).take(64) {
            match layers.txn.inode(ino)? {
                Some(row) if merge::is_hard_link_of(&row, attr) => return Ok(Some((ino, row))),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    fn find_moved<L: LowerLayer>(&mut self, layers: &Layers<'_, L>) -> Result<(), FsError> {
        let mut home = HashSet::with_hasher(RandomState::default());
        let mut away = BTreeMap::new();
        each_upper_entry(layers, &mut |entry| {
            let Some(origin) = &entry.row.origin else {
                return Ok(());
            };
            let place = entry.lower_place();
            if place.as_ref() != Some(&origin.path) {
                if let Some(place) = place
                    && origin.fingerprint.nlink > 1
                    && let Some(attr) = layers.lower.stat(&place)?
                    && merge::is_hard_link_of(entry.row, &attr)
                {
                    return Ok(()); // Another name of it in the base: in its place.
                }
                // Of several names that are all new, one is the new name.
                let place = (entry.dir, entry.name.clone());
                away.entry(origin.path.clone())
                    .or_insert((entry.ino, place));
            } else if entry.row.nlink > 1 {
                home.insert(entry.ino);
            }
            Ok(())
        })?;
        away.retain(|_, (ino, _)| !home.contains(ino));
        if away.is_empty() {
            return Ok(());
        }
        // Lower places that an upper entry stands in front of.
        let mut covered = HashSet::with_hasher(RandomState::default());
        each_upper_entry(layers, &mut |entry| {
            if let Some(place) = entry.lower_place().filter(|at| entry.beneath != Some(at)) {
                covered.insert(place);
            }
            Ok(())
        })?;
        // An SDK can rename an entry without hiding the lower name, which then
        // shows again: that made a copy, not a rename. Shorter paths come first,
        // so what was moved above a path is known.
        for (path, (_, place)) in away {
            let mut at = path.clone();
            let gone = loop {
                let Some((dir, name)) = at.split() else {
                    break false;
                };
                if covered.contains(&at) || layers.txn.whiteout(&dir, &name)? {
                    // Beneath a directory that was moved it shows all the same.
                    break at == path || !self.moved.contains_key(&at);
                }
                at = dir;
            };
            if gone {
                self.moved.insert(path, place);
            }
        }
        Ok(())
    }

    fn find_whiteouts<L: LowerLayer>(&mut self, layers: &Layers<'_, L>) -> Result<(), FsError> {
        let mut dirs = Vec::new();
        layers.txn.whiteout_dirs(&mut |dir| dirs.push(dir))?;
        for dir in dirs {
            let names = self.dirty.entry(dir.clone()).or_default();
            layers.txn.whiteouts(&dir, &mut |name| {
                names.insert(name);
            })?;
            self.mark(dir);
        }
        Ok(())
    }

    /// Makes the walk come to a lower path.
    fn mark(&mut self, mut path: LowerPath) {
        while let Some((dir, name)) = path.split() {
            if !self.dirty.entry(dir.clone()).or_default().insert(name) {
                return;
            }
            path = dir;
        }
    }

    /// Other names of changed base files that have several: nothing in the
    /// upper layer leads to them, so the lower tree is searched, if there is
    /// such a file at all.
    fn find_hard_links<L: LowerLayer>(
        &mut self,
        layers: &Layers<'_, L>,
        hidden: &[Name],
    ) -> Result<(), FsError> {
        let mut inos = Vec::new();
        layers.txn.inodes(Ino::ROOT, &mut |ino| inos.push(ino))?;
        let mut wanted = HashMap::with_hasher(RandomState::default());
        for ino in inos {
            let Some(row) = layers.txn.inode(ino)? else {
                continue;
            };
            let Some(origin) = &row.origin else { continue };
            if row.kind.is_dir() || origin.fingerprint.nlink < 2 {
                continue;
            }
            let Some(object) = LowerObject::find(layers.lower, &origin.path)? else {
                continue;
            };
            if layers.differ(ino, &row, &object, true)? {
                wanted.insert(origin.fingerprint.id.ino, object.attr.nlink);
            }
        }
        let mut dirs = vec![LowerPath::root()];
        while let Some(dir) = dirs.pop() {
            if wanted.is_empty() {
                return Ok(());
            }
            for entry in layers.lower.read_dir(&dir)? {
                if dir.is_root() && hidden.contains(&entry.name) {
                    continue;
                }
                let path = dir.join(&entry.name);
                if entry.kind == FileKind::Directory {
                    dirs.push(path);
                } else if let Some(left) = wanted.get_mut(&entry.ino) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        wanted.remove(&entry.ino);
                    }
                    self.mark(path);
                }
            }
        }
        Ok(())
    }
}

/// An entry of an upper directory.
struct UpperEntry<'a> {
    dir: Ino,
    /// The lower directory that shows through `dir`.
    dir_lower: Option<&'a LowerPath>,
    name: &'a Name,
    ino: Ino,
    row: &'a InodeRow,
    /// The lower directory that shows through the entry, if it is a directory.
    beneath: Option<&'a LowerPath>,
}

impl UpperEntry<'_> {
    /// The lower path at the place of the entry.
    fn lower_place(&self) -> Option<LowerPath> {
        self.dir_lower.map(|dir| dir.join(self.name))
    }
}

/// Calls `f` for every entry of every directory reachable in the upper layer.
fn each_upper_entry<L: LowerLayer>(
    layers: &Layers<'_, L>,
    f: &mut dyn FnMut(&UpperEntry<'_>) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let mut seen = HashSet::with_hasher(RandomState::default());
    let mut dirs = vec![(Ino::ROOT, Some(LowerPath::root()))];
    while let Some((dir, lower)) = dirs.pop() {
        if !seen.insert(dir) {
            return Err(corrupt(format!(
                "directory {dir} is in more than one place"
            )));
        }
        let mut entries = Vec::new();
        layers
            .txn
            .dentries(dir, &mut |name, ino| entries.push((name, ino)))?;
        entries.sort();
        for (name, ino) in entries {
            let row = require_row(layers, dir, &name, ino)?;
            let beneath = if row.kind.is_dir() {
                merge::lower_dir_beneath(layers.txn, layers.lower, lower.as_ref(), &name, &row)?
            } else {
                None
            };
            f(&UpperEntry {
                dir,
                dir_lower: lower.as_ref(),
                name: &name,
                ino,
                row: &row,
                beneath: beneath.as_ref(),
            })?;
            if row.kind.is_dir() {
                dirs.push((ino, beneath));
            }
        }
    }
    Ok(())
}

/// The row an upper entry leads to.
pub(super) fn require_row<L>(
    layers: &Layers<'_, L>,
    dir: Ino,
    name: &Name,
    ino: Ino,
) -> Result<InodeRow, FsError> {
    layers.txn.inode(ino)?.ok_or_else(|| {
        corrupt(format!(
            "entry {name:?} of directory {dir} leads to inode {ino}, which is not there"
        ))
    })
}

fn corrupt(what: String) -> FsError {
    StorageError::Corrupt(what).into()
}
