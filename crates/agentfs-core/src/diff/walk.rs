//! The walk over every path that is, or was, and may have changed.
//!
//! Iterative, so that no depth of directories can exhaust the stack; within a
//! directory the order is that of whole paths (`a`, `a-b`, `a/x`).

use std::collections::BTreeMap;
use std::vec;

use super::content::{Layers, LowerObject};
use super::plan::{Plan, require_row};
use super::{Change, Entry};
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::overlay::merge;
use crate::storage::InodeRow;
use crate::types::{FileKind, Ino, LowerPath, Name};

/// A directory to compare: what is at its path now and what was.
#[derive(Clone, Debug, Default)]
struct Dir {
    /// Its path in the view, `/` at the end.
    path: Vec<u8>,
    /// Its upper directory.
    upper: Option<Ino>,
    /// The lower directory that shows through it.
    lower: Option<LowerPath>,
    /// What it was before; most often the same as `lower`.
    base: Option<LowerPath>,
    /// For (what lies in) a directory that was moved to where another one was:
    /// that other one.
    replaced: Option<LowerPath>,
}

/// What is at a path now.
enum Now {
    Nothing,
    /// An inode of the upper layer. `named`: by an upper entry, not only as
    /// another name of a base file.
    Upper {
        ino: Ino,
        row: InodeRow,
        named: bool,
    },
    /// The lower object of that name in the lower directory that shows.
    Lower(LowerObject),
}

/// A step of the walk within one directory, by its key.
enum Step {
    Report(Entry),
    Enter(Dir),
}

pub(super) fn walk<L: LowerLayer>(
    layers: &Layers<'_, L>,
    plan: &Plan,
    hidden: &[Name],
    sink: &mut dyn FnMut(Entry),
) -> Result<(), FsError> {
    let walk = Walk {
        layers,
        plan,
        hidden,
    };
    if let Some(entry) = walk.root()? {
        sink(entry);
    }
    let root = Some(LowerPath::root());
    let root = Dir {
        path: b"/".to_vec(),
        upper: Some(Ino::ROOT),
        lower: root.clone(),
        base: root,
        replaced: None,
    };
    let mut stack: Vec<vec::IntoIter<Step>> = vec![walk.steps(&root)?];
    while let Some(steps) = stack.last_mut() {
        match steps.next() {
            Some(Step::Report(entry)) => sink(entry),
            Some(Step::Enter(dir)) => stack.push(walk.steps(&dir)?),
            None => {
                stack.pop();
            }
        }
    }
    Ok(())
}

struct Walk<'a, L> {
    layers: &'a Layers<'a, L>,
    plan: &'a Plan,
    hidden: &'a [Name],
}

impl<L: LowerLayer> Walk<'_, L> {
    /// The root directory itself. One without an origin was made before there
    /// was a base, by a program that knows of none: it says nothing.
    fn root(&self) -> Result<Option<Entry>, FsError> {
        let Some(row) = self.layers.txn.inode(Ino::ROOT)? else {
            return Ok(None);
        };
        if row.origin.is_none() {
            return Ok(None);
        }
        let Some(object) = self.object(&LowerPath::root())? else {
            return Ok(None);
        };
        let modified = self.layers.differ(Ino::ROOT, &row, &object, true)?;
        Ok(modified.then(|| Entry {
            change: Change::Modified { old_kind: None },
            kind: FileKind::Directory,
            path: b"/".to_vec(),
        }))
    }

    /// All steps of a directory, in order.
    fn steps(&self, dir: &Dir) -> Result<vec::IntoIter<Step>, FsError> {
        let mut steps: Vec<(Vec<u8>, Step)> = Vec::new();
        for (name, upper) in self.names(dir)? {
            if dir.path == b"/" && self.hidden.contains(&name) {
                continue;
            }
            let (entry, enter) = self.compare(dir, &name, upper)?;
            if let Some(entry) = entry {
                steps.push((name.as_bytes().to_vec(), Step::Report(entry)));
            }
            if let Some(enter) = enter {
                let mut key = name.as_bytes().to_vec();
                key.push(b'/');
                steps.push((key, Step::Enter(enter)));
            }
        }
        steps.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(steps
            .into_iter()
            .map(|(_, step)| step)
            .collect::<Vec<_>>()
            .into_iter())
    }

    /// The names to look at in a directory, with their upper inodes.
    fn names(&self, dir: &Dir) -> Result<BTreeMap<Name, Option<Ino>>, FsError> {
        let mut names = BTreeMap::new();
        if let Some(upper) = dir.upper {
            self.layers.txn.dentries(upper, &mut |name, ino| {
                names.insert(name, Some(ino));
            })?;
        }
        let mut list = |path: &LowerPath| -> Result<(), FsError> {
            for entry in self.layers.lower.read_dir(path)? {
                names.entry(entry.name).or_insert(None);
            }
            Ok(())
        };
        if let Some(replaced) = &dir.replaced {
            list(replaced)?;
        }
        if dir.lower != dir.base {
            for path in dir.lower.iter().chain(&dir.base) {
                list(path)?;
            }
        } else if let Some(lower) = &dir.lower {
            // What shows and was there before needs no look, but for these.
            for name in self.plan.dirty(lower) {
                names.entry(name.clone()).or_insert(None);
            }
        }
        Ok(names)
    }

    /// What happened to one name, and the directory to look into for more.
    fn compare(
        &self,
        dir: &Dir,
        name: &Name,
        upper: Option<Ino>,
    ) -> Result<(Option<Entry>, Option<Dir>), FsError> {
        let mut path = dir.path.clone();
        path.extend_from_slice(name.as_bytes());
        let base = self.before(dir.base.as_ref(), name)?;
        let replaced = self.before(dir.replaced.as_ref(), name)?;
        match self.now(dir, name, upper)? {
            Now::Nothing => {
                let enter = enter(
                    &path,
                    None,
                    None,
                    base.as_ref().and_then(directory),
                    replaced.as_ref().and_then(directory),
                );
                let gone = base.or(replaced);
                let entry = gone.map(|object| Entry {
                    change: Change::Deleted,
                    kind: object.attr.kind,
                    path,
                });
                Ok((entry, enter))
            }
            Now::Lower(object) => Ok(self.shown(path, &object, base, replaced)),
            Now::Upper { ino, row, named } => {
                let origin = row.origin.as_ref().map(|origin| &origin.path);
                let moved = origin.filter(|origin| {
                    named
                        && dir
                            .upper
                            .is_some_and(|at| self.plan.moved_to(origin, at, name))
                });
                if let Some(origin) = moved {
                    let source = self.object(origin)?;
                    return self.renamed(path, ino, &row, source, base.or(replaced).as_ref());
                }
                self.changed(dir, path, name, ino, &row, base, replaced)
            }
        }
    }

    /// A lower object that shows: no change, unless it shows at a second place,
    /// which only other programs bring about.
    fn shown(
        &self,
        path: Vec<u8>,
        object: &LowerObject,
        base: Option<LowerObject>,
        replaced: Option<LowerObject>,
    ) -> (Option<Entry>, Option<Dir>) {
        let beneath = directory(object);
        let base_dir = base.as_ref().and_then(directory);
        let replaced_dir = replaced.as_ref().and_then(directory);
        let look = beneath != base_dir
            || replaced_dir.is_some()
            || beneath.as_ref().is_some_and(|dir| self.plan.is_dirty(dir));
        let enter = if look {
            enter(&path, None, beneath, base_dir, replaced_dir)
        } else {
            None
        };
        let change = match base.or(replaced) {
            Some(before) if before.path == object.path => return (None, enter),
            // Not worth comparing two objects of the base.
            Some(before) => Change::Modified {
                old_kind: Some(before.attr.kind).filter(|&kind| kind != object.attr.kind),
            },
            None => Change::Added,
        };
        (
            Some(Entry {
                change,
                kind: object.attr.kind,
                path,
            }),
            enter,
        )
    }

    fn renamed(
        &self,
        path: Vec<u8>,
        ino: Ino,
        row: &InodeRow,
        source: Option<LowerObject>,
        replaced: Option<&LowerObject>,
    ) -> Result<(Option<Entry>, Option<Dir>), FsError> {
        let Some(source) = source else {
            // What it came from has gone from the base since.
            let beneath = replaced.and_then(directory);
            let enter = enter(&path, row.kind.is_dir().then_some(ino), None, beneath, None);
            let entry = Entry {
                change: Change::Added,
                kind: row.kind,
                path,
            };
            return Ok((Some(entry), enter));
        };
        let modified = self.layers.differ(ino, row, &source, true)?;
        let lower = directory(&source).filter(|_| row.kind.is_dir());
        let enter = enter(
            &path,
            row.kind.is_dir().then_some(ino),
            lower.clone(),
            lower,
            replaced.and_then(directory),
        );
        let mut old_path = b"/".to_vec();
        old_path.extend_from_slice(source.path.as_bytes());
        let change = Change::Renamed { old_path, modified };
        Ok((
            Some(Entry {
                change,
                kind: row.kind,
                path,
            }),
            enter,
        ))
    }

    #[allow(clippy::too_many_arguments)] // One call site; the parts of one comparison.
    fn changed(
        &self,
        dir: &Dir,
        path: Vec<u8>,
        name: &Name,
        ino: Ino,
        row: &InodeRow,
        base: Option<LowerObject>,
        replaced: Option<LowerObject>,
    ) -> Result<(Option<Entry>, Option<Dir>), FsError> {
        let is_dir = row.kind.is_dir();
        let lower = if is_dir {
            let (txn, below) = (self.layers.txn, self.layers.lower);
            merge::lower_dir_beneath(txn, below, dir.lower.as_ref(), name, row)?
        } else {
            None
        };
        let upper = is_dir.then_some(ino);
        let replaced_dir = replaced.as_ref().and_then(directory);
        let Some(object) = base.or(replaced) else {
            let enter = enter(&path, upper, lower, None, None);
            return Ok((
                Some(Entry {
                    change: Change::Added,
                    kind: row.kind,
                    path,
                }),
                enter,
            ));
        };
        let beneath = directory(&object);
        let other = replaced_dir.filter(|dir| Some(dir) != beneath.as_ref());
        let enter = enter(&path, upper, lower, beneath, other);
        let same_source = row.origin.as_ref().is_some_and(|origin| {
            origin.path == object.path || merge::is_hard_link_of(row, &object.attr)
        });
        let old_kind = (row.kind != object.attr.kind).then_some(object.attr.kind);
        let modified = old_kind.is_some() || self.layers.differ(ino, row, &object, same_source)?;
        let change = Change::Modified { old_kind };
        Ok((
            modified.then_some(Entry {
                change,
                kind: row.kind,
                path,
            }),
            enter,
        ))
    }

    fn now(&self, dir: &Dir, name: &Name, upper: Option<Ino>) -> Result<Now, FsError> {
        if let (Some(ino), Some(parent)) = (upper, dir.upper) {
            let row = require_row(self.layers, parent, name, ino)?;
            return Ok(Now::Upper {
                ino,
                row,
                named: true,
            });
        }
        let Some(lower) = &dir.lower else {
            return Ok(Now::Nothing);
        };
        if self.layers.txn.whiteout(lower, name)? {
            return Ok(Now::Nothing);
        }
        let Some(object) = self.object(&lower.join(name))? else {
            return Ok(Now::Nothing);
        };
        Ok(match self.plan.copied_up(self.layers, &object.attr)? {
            Some((ino, row)) => Now::Upper {
                ino,
                row,
                named: false,
            },
            None => Now::Lower(object),
        })
    }

    /// What was at a name, unless it was moved away.
    fn before(&self, dir: Option<&LowerPath>, name: &Name) -> Result<Option<LowerObject>, FsError> {
        let Some(dir) = dir else { return Ok(None) };
        if dir.is_root() && self.hidden.contains(name) {
            return Ok(None);
        }
        let path = dir.join(name);
        if self.plan.is_moved(&path) {
            return Ok(None);
        }
        self.object(&path)
    }

    fn object(&self, path: &LowerPath) -> Result<Option<LowerObject>, FsError> {
        LowerObject::find(self.layers.lower, path)
    }
}

fn directory(object: &LowerObject) -> Option<LowerPath> {
    object.attr.kind.is_dir().then(|| object.path.clone())
}

/// The directory to look into, when there is one now or was one before.
fn enter(
    path: &[u8],
    upper: Option<Ino>,
    lower: Option<LowerPath>,
    base: Option<LowerPath>,
    replaced: Option<LowerPath>,
) -> Option<Dir> {
    if upper.is_none() && lower.is_none() && base.is_none() && replaced.is_none() {
        return None;
    }
    let path = [path, b"/"].concat();
    Some(Dir {
        path,
        upper,
        lower,
        base,
        replaced,
    })
}
