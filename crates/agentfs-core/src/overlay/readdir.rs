//! Listing directories, merged from both layers.
//!
//! A cookie is derived from the entry's name alone, so it stays valid whatever
//! is created or removed meanwhile, in this listing or another, without any
//! state kept per open directory. Lists that were asked for are kept and
//! patched by every mutation; a list that cannot be patched is thrown away.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use foldhash::fast::{FixedState, RandomState};
use lru::LruCache;

use super::inode_table::Node;
use super::lookup::lower_attr;
use super::request::DirEntry;
use super::{Overlay, merge};
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{LowerId, ReadTxn, Storage};
use crate::types::{Attr, FileKind, Ino, Name};

/// Cookies below are for `.`, `..` and the start.
const COOKIE_MIN: u64 = 3;
/// Entries kept in all lists together.
const ENTRIES_MAX: usize = 400_000;
/// Entries handed out between two looks at the list.
const PAGE_ENTRIES: usize = 256;

/// One listed directory, by cookie.
#[derive(Clone, Default)]
struct List(BTreeMap<u64, DirEntry>);

/// The lists that were asked for of late.
pub(super) struct Lists {
    by_dir: LruCache<Ino, Arc<List>>,
    entries: usize,
    /// Counts what could make a list that is being built wrong.
    changes: u64,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            by_dir: LruCache::unbounded(),
            entries: 0,
            changes: 0,
        }
    }
}

impl Lists {
    pub(super) fn insert(&mut self, dir: Ino, name: &Name, ino: Ino, kind: FileKind) {
        self.patch(dir, |list| list.insert(name.clone(), ino, kind));
    }

    pub(super) fn delete(&mut self, dir: Ino, name: &Name) {
        self.patch(dir, |list| list.delete(name));
    }

    pub(super) fn remove(&mut self, dir: Ino) {
        self.changes += 1;
        if let Some(list) = self.by_dir.pop(&dir) {
            self.entries -= list.0.len();
        }
    }

    fn patch(&mut self, dir: Ino, change: impl FnOnce(&mut List) -> bool) {
        self.changes += 1;
        let Some(list) = self.by_dir.peek_mut(&dir) else {
            return;
        };
        let before = list.0.len();
        let patched = change(Arc::make_mut(list));
        self.entries = self.entries - before + list.0.len();
        if !patched {
            self.remove(dir);
        }
    }

    fn keep(&mut self, dir: Ino, list: Arc<List>) {
        self.remove(dir);
        self.entries += list.0.len();
        self.by_dir.put(dir, list);
        while self.entries > ENTRIES_MAX && self.by_dir.len() > 1 {
            if let Some((_, oldest)) = self.by_dir.pop_lru() {
                self.entries -= oldest.0.len();
            }
        }
    }
}

impl List {
    /// Two names with one cookie take neighbouring ones.
    fn insert(&mut self, name: Name, ino: Ino, kind: FileKind) -> bool {
        let mut cookie = cookie_of(&name);
        while let Some(entry) = self.0.get(&cookie) {
            if entry.name == name {
                break;
            }
            cookie += 1;
        }
        self.0.insert(
            cookie,
            DirEntry {
                name,
                ino,
                kind,
                cookie,
            },
        );
        true
    }

    /// Whether the entry was found at its own cookie: behind a removed
    /// neighbour it may not be, and the list must be built anew.
    fn delete(&mut self, name: &Name) -> bool {
        let cookie = cookie_of(name);
        match self.0.get(&cookie) {
            Some(entry) if entry.name == *name => {
                self.0.remove(&cookie);
                !self.0.contains_key(&(cookie + 1))
            }
            Some(_) => false,
            None => true,
        }
    }
}

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Lists the entries after `cookie` (0: all) until `f` breaks. An entry
    /// that exists all the while is listed exactly once.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], [`FsError::StaleInode`], and those of the
    /// layers. A removed directory is empty.
    pub fn read_dir(
        &self,
        ino: Ino,
        cookie: u64,
        f: &mut dyn FnMut(&DirEntry) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let list = self.list(ino)?;
        for (_, entry) in list.0.range((Bound::Excluded(cookie), Bound::Unbounded)) {
            if f(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// As [`Self::read_dir`], with attributes. For each entry that `f` accepts
    /// (continues after) one reference is taken; for the one it breaks on,
    /// none. Entries that vanish meanwhile are left out.
    ///
    /// `f` runs with locks held for reading and must ask the overlay nothing: a second
    /// reading waits for a writer that waits for the first.
    ///
    /// # Errors
    /// As [`Self::read_dir`].
    pub fn read_dir_plus(
        &self,
        ino: Ino,
        cookie: u64,
        f: &mut dyn FnMut(&DirEntry, &Attr) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        self.read_dir_plus_as_seen(ino, cookie, &|_, _| false, f)
    }

    /// As [`Self::read_dir_plus`]; but for an entry of the lower layer alone that is
    /// referenced by this name, where it was last seen will do, if `is_told` says so, as
    /// with [`Self::getattr_as_seen`], of its type and number. `is_told` must ask the
    /// overlay nothing either.
    ///
    /// # Errors
    /// As [`Self::read_dir`].
    pub fn read_dir_plus_as_seen(
        &self,
        ino: Ino,
        cookie: u64,
        is_told: &dyn Fn(FileKind, Ino) -> bool,
        f: &mut dyn FnMut(&DirEntry, &Attr) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let list = self.list(ino)?;
        let mut rest = list
            .0
            .range((Bound::Excluded(cookie), Bound::Unbounded))
            .peekable();
        // Mutations get their turn between pages.
        while rest.peek().is_some() {
            let _namespace = self.namespace.read();
            let page = rest.by_ref().take(PAGE_ENTRIES);
            let ended = self.storage.read(|txn| {
                let moment = self.seen.moment();
                for (_, entry) in page {
                    // Referenced before the kernel can know the number, and given
                    // back when it will not.
                    let known = self.reference_as_seen(txn, ino, entry, is_told)?;
                    let attr = match known {
                        Some(attr) => attr,
                        None => {
                            let Some(child) = self.child(txn, ino, &entry.name)? else {
                                continue;
                            };
                            self.remember(ino, &entry.name, &child, moment);
                            child.attr()
                        }
                    };
                    let entry = DirEntry {
                        ino: attr.ino,
                        kind: attr.kind,
                        ..entry.clone()
                    };
                    if f(&entry, &attr).is_break() {
                        return Ok(Some(attr.ino));
                    }
                }
                Ok::<_, FsError>(None)
            })?;
            if let Some(refused) = ended {
                drop(_namespace);
                self.forget(refused, 1);
                break;
            }
        }
        Ok(())
    }

    /// Takes one reference on an entry that is referenced already, of which all is known
    /// without a look at the lower layer.
    fn reference_as_seen(
        &self,
        txn: &dyn ReadTxn,
        dir: Ino,
        entry: &DirEntry,
        is_told: &dyn Fn(FileKind, Ino) -> bool,
    ) -> Result<Option<Attr>, FsError> {
        // One that has been copied up is the storage's.
        if !is_told(entry.kind, entry.ino) || txn.inode(entry.ino)?.is_some() {
            return Ok(None);
        }
        let Some(seen) = self.seen.get(entry.ino) else {
            return Ok(None);
        };
        let mut table = self.table.lock();
        let named = table.get(entry.ino).and_then(Node::named_lower);
        let is_it = named.is_some_and(|(lower, parent, name)| {
            (lower.id, lower.kind) == (seen.id, seen.kind) && (parent, name) == (dir, &entry.name)
        });
        if is_it {
            table.reference(entry.ino);
        }
        Ok(is_it.then(|| lower_attr(entry.ino, &seen)))
    }

    fn list(&self, dir: Ino) -> Result<Arc<List>, FsError> {
        let _namespace = self.namespace.read();
        let changes = {
            let mut lists = self.lists.lock();
            if let Some(list) = lists.by_dir.get(&dir) {
                return Ok(Arc::clone(list));
            }
            lists.changes
        };
        let list = self.storage.read(|txn| match self.require_dir(txn, dir) {
            Ok(()) => self.build_list(txn, dir),
            Err(FsError::NotFound) => Ok(List::default()),
            Err(error) => Err(error),
        })?;
        let list = Arc::new(list);
        let mut lists = self.lists.lock();
        // The base may have changed while it was being read.
        if lists.changes == changes {
            lists.keep(dir, Arc::clone(&list));
        }
        Ok(list)
    }

    fn build_list(&self, txn: &dyn ReadTxn, dir: Ino) -> Result<List, FsError> {
        let mut list = List::default();
        let mut upper = Vec::new();
        txn.dentries(dir, &mut |name, ino| upper.push((name, ino)))?;
        let lower_dir = self.lower_dir_of(txn, dir)?;
        if let Some(path) = lower_dir {
            let mut hidden: HashSet<Name, RandomState> =
                upper.iter().map(|(name, _)| name.clone()).collect();
            txn.whiteouts(&path, &mut |name| {
                hidden.insert(name);
            })?;
            let dev = match self.lower.stat(&path)? {
                Some(attr) => attr.id.dev,
                None => self.base_dev,
            };
            for entry in self.lower.read_dir(&path)? {
                if hidden.contains(&entry.name) || self.is_hidden(dir, &entry.name) {
                    continue;
                }
                let id = LowerId {
                    dev,
                    ino: entry.ino,
                };
                let plain = merge::candidate_inos(self.base_dev, id).next();
                let (ino, kind) = match plain {
                    Some(ino) if txn.inode(ino)?.is_none() => (ino, entry.kind),
                    // Another name of a copied-up inode, or a number taken.
                    _ => match self.child(txn, dir, &entry.name)? {
                        Some(child) => (child.ino(), child.kind()),
                        None => continue,
                    },
                };
                list.insert(entry.name, ino, kind);
            }
        }
        for (name, ino) in upper {
            if let Some(row) = txn.inode(ino)?
                && !self.is_hidden(dir, &name)
            {
                list.insert(name, ino, row.kind);
            }
        }
        Ok(list)
    }
}

fn cookie_of(name: &Name) -> u64 {
    // 61 bits: room above for neighbours, and d_off must stay positive.
    let hash = FixedState::with_seed(0x6469_7273).hash_one(name.as_bytes());
    COOKIE_MIN + (hash >> 3)
}
