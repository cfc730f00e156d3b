//! The reading half of a transaction: layers over SQLite, row by row.
//!
//! A row that a layer speaks of is never looked up in an older one.

use std::collections::BTreeMap;

use agentfs_core::storage::{Chunk, InodeRow, KvRow, ReadTxn, ToolCallRow, copy_chunk};
use agentfs_core::{Ino, LowerPath, Name};

use super::{Result, Txn};
use crate::pending::{Patch, Put, Said, Set, VolumeDelta};
use crate::rows;

impl ReadTxn for Txn<'_> {
    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        match self.said(|delta| delta.inode(ino)) {
            Said::Row(row) => Ok(row.cloned()),
            Said::Nothing => self.clean_inode(ino),
        }
    }

    fn inodes(&self, from: Ino, f: &mut dyn FnMut(Ino)) -> Result<()> {
        let sql = self.sql();
        let clean = self.query(Vec::new(), |conn| rows::inodes_from(conn, sql, from))?;
        let mut all: BTreeMap<Ino, bool> = clean.into_iter().map(|ino| (ino, true)).collect();
        for delta in self.volumes().rev() {
            let changed = delta.inodes.iter().filter(|(ino, _)| **ino >= from);
            all.extend(changed.map(|(ino, row)| (*ino, row.is_some())));
        }
        let discarded = self.discarded();
        all.iter()
            .filter(|(ino, exists)| **exists && !discarded.contains(ino))
            .for_each(|(ino, _)| f(*ino));
        Ok(())
    }

    fn orphans(&self, f: &mut dyn FnMut(Ino)) -> Result<()> {
        let sql = self.sql();
        let clean = self.query(Vec::new(), |conn| rows::orphans(conn, sql))?;
        let mut all: BTreeMap<Ino, bool> = clean.into_iter().map(|ino| (ino, true)).collect();
        for delta in self.volumes().rev() {
            for (ino, row) in &delta.inodes {
                all.insert(*ino, row.as_ref().is_some_and(|row| row.nlink == 0));
            }
        }
        let discarded = self.discarded();
        all.iter()
            .filter(|(ino, orphan)| **orphan && !discarded.contains(ino))
            .for_each(|(ino, _)| f(*ino));
        Ok(())
    }

    fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Ino>> {
        match self.said(|delta| delta.dentry(parent, name)) {
            Said::Row(ino) => Ok(ino),
            Said::Nothing => self.clean_dentry(parent, name),
        }
    }

    fn dentries(&self, parent: Ino, f: &mut dyn FnMut(Name, Ino)) -> Result<()> {
        let mut dir = self.clean_dentries(parent)?;
        for changes in self
            .volumes()
            .rev()
            .filter_map(|delta| delta.dentries.get(&parent))
        {
            for (name, ino) in changes {
                match ino {
                    Some(ino) => dir.insert(name.clone(), *ino),
                    None => dir.remove(name),
                };
            }
        }
        dir.into_iter().for_each(|(name, ino)| f(name, ino));
        Ok(())
    }

    fn whiteout(&self, dir: &LowerPath, name: &Name) -> Result<bool> {
        if let Said::Row(row) = self.said(|delta| delta.whiteout(dir, name)) {
            return Ok(row.is_some());
        }
        match self.cache().whiteout(dir, name) {
            Some(hidden) => Ok(hidden),
            None => Ok(self.clean_whiteouts(dir)?.contains(name)),
        }
    }

    fn whiteouts(&self, dir: &LowerPath, f: &mut dyn FnMut(Name)) -> Result<()> {
        let mut names = self.clean_whiteouts(dir)?;
        for changes in self
            .volumes()
            .rev()
            .filter_map(|delta| delta.whiteouts.get(dir))
        {
            for (name, since) in changes {
                match since {
                    Some(_) => names.insert(name.clone()),
                    None => names.remove(name),
                };
            }
        }
        names.into_iter().for_each(f);
        Ok(())
    }

    fn whiteout_dirs(&self, f: &mut dyn FnMut(LowerPath)) -> Result<()> {
        let sql = self.sql();
        let clean = self.query(Vec::new(), |conn| rows::whiteout_dirs(conn, sql))?;
        let mut dirs: Set<LowerPath> = clean.into_iter().collect();
        let changed: Set<&LowerPath> = self
            .volumes()
            .flat_map(|delta| delta.whiteouts.keys())
            .collect();
        for dir in changed {
            let mut any = false;
            self.whiteouts(dir, &mut |_| any = true)?;
            match any {
                true => dirs.insert(dir.clone()),
                false => dirs.remove(dir),
            };
        }
        dirs.into_iter().for_each(f);
        Ok(())
    }

    fn chunk(&self, ino: Ino, index: u64) -> Result<Option<Chunk>> {
        let mut patches: Vec<&Patch> = Vec::new();
        let mut base = Said::Nothing;
        for delta in self.volumes() {
            base = match delta.chunk(ino, index) {
                Said::Nothing => continue,
                Said::Row(None) => Said::Row(None),
                Said::Row(Some(Put::Whole(chunk))) => Said::Row(Some(chunk.clone())),
                Said::Row(Some(Put::Patch(patch))) => {
                    patches.push(patch);
                    continue;
                }
            };
            break;
        }
        let base = match base {
            Said::Row(chunk) => chunk,
            Said::Nothing => self.clean_chunk(ino, index)?,
        };
        // What SQLite has may be the newer state already; patches do no harm
        // twice.
        Ok(patches.iter().rev().fold(base, |base, patch| {
            Some(patch.applied_to(base.as_deref().unwrap_or_default()))
        }))
    }

    fn read_chunk(&self, ino: Ino, index: u64, skip: usize, buf: &mut [u8]) -> Result<bool> {
        let is_whole = skip == 0 && buf.len() == self.shared.chunk_size_bytes() as usize;
        if is_whole && self.is_clean_chunk(ino, index) {
            return self.read_clean_chunk(ino, index, buf);
        }
        Ok(copy_chunk(self.chunk(ino, index)?.as_deref(), skip, buf))
    }

    fn next_chunk(&self, ino: Ino, from: u64) -> Result<Option<u64>> {
        let mut from = from;
        let clean = self.clean_next_chunk(ino, from)?;
        loop {
            let changed = self
                .volumes()
                .filter_map(|delta| delta.chunks.get(&ino)?.puts.range(from..).next())
                .map(|(index, _)| *index)
                .min();
            let Some(index) = changed.filter(|index| clean.is_none_or(|clean| *index < clean))
            else {
                return Ok(clean);
            };
            if matches!(
                self.said(|delta| delta.chunk(ino, index)),
                Said::Row(Some(_))
            ) {
                return Ok(Some(index));
            }
            // Put in an older layer, erased in a newer one.
            from = index + 1;
        }
    }

    fn symlink(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        if let Said::Row(target) = self.said(|delta| delta.symlink(ino)) {
            return Ok(target.cloned());
        }
        let sql = self.sql();
        self.query(None, |conn| rows::symlink(conn, sql, ino))
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Said::Row(value) = self.said(|delta| delta.xattr(ino, name)) {
            return Ok(value.cloned());
        }
        if !self.may_have_xattrs(ino)? {
            return Ok(None);
        }
        let sql = self.sql();
        self.query(None, |conn| rows::xattr(conn, sql, ino, name))
    }

    fn xattrs(&self, ino: Ino, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        let sql = self.sql();
        let hidden = |delta: &VolumeDelta| {
            delta.is_fresh(ino) || delta.xattrs.get(&ino).is_some_and(|xattrs| xattrs.wiped)
        };
        let mut all: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        if !self.volumes().any(hidden) && self.may_have_xattrs(ino)? {
            all.extend(self.query(Vec::new(), |conn| rows::xattrs(conn, sql, ino))?);
        }
        for delta in self.volumes().rev() {
            if hidden(delta) {
                all.clear();
            }
            for (name, value) in delta
                .xattrs
                .get(&ino)
                .iter()
                .flat_map(|xattrs| &xattrs.puts)
            {
                match value {
                    Some(value) => all.insert(name.clone(), value.clone()),
                    None => all.remove(name),
                };
            }
        }
        all.iter().for_each(|(name, value)| f(name, value));
        Ok(())
    }

    fn kv(&self, key: &str) -> Result<Option<KvRow>> {
        match self.layers().find_map(|delta| delta.kvs.get(key)) {
            Some(row) => Ok(row.clone()),
            None => self.query_any(|conn| rows::kv(conn, key)),
        }
    }

    fn kvs(&self, f: &mut dyn FnMut(KvRow)) -> Result<()> {
        let mut changes: BTreeMap<&str, &Option<KvRow>> = BTreeMap::new();
        for delta in self.layers().rev() {
            changes.extend(delta.kvs.iter().map(|(key, row)| (key.as_str(), row)));
        }
        let mut changes = changes.into_iter().peekable();
        let mut after: Option<String> = None;
        loop {
            let page = self.query_any(|conn| rows::kvs_after(conn, after.as_deref()))?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for clean in page {
                while let Some((_, row)) = changes.next_if(|(key, _)| **key < *clean.key) {
                    row.iter().cloned().for_each(&mut *f);
                }
                match changes.next_if(|(key, _)| **key == *clean.key) {
                    Some((_, row)) => row.iter().cloned().for_each(&mut *f),
                    None => f(clean),
                }
            }
        }
        for (_, row) in changes {
            row.iter().cloned().for_each(&mut *f);
        }
        Ok(())
    }

    fn tool_calls(&self, f: &mut dyn FnMut(ToolCallRow) -> bool) -> Result<()> {
        let mut below = i64::MAX;
        for call in self
            .layers()
            .flat_map(|delta| delta.tool_calls.iter().rev())
        {
            below = call.id;
            if !f(call.clone()) {
                return Ok(());
            }
        }
        loop {
            let page = self.query_any(|conn| rows::tool_calls_below(conn, below))?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            below = last.id;
            for call in page {
                if !f(call) {
                    return Ok(());
                }
            }
        }
    }
}
