//! What a worker does: numbered steps on a small tree, the same for the same seed,
//! in memory and on a file system.
//!
//! A step is one operation of the file system, so that it is there or not. Must
//! never look at a file system to know what comes next.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::random::Random;

/// So many names, and no new ones are made before some are gone.
const NAMES_MAX: usize = 40;
/// Files stay within a page: the kernel writes more than one when it likes.
const FILE_MAX_BYTES: usize = 4096;
const BASE_FILES: usize = 6;

/// What is at each path, as text.
pub(super) type Listing = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// By its number: it may have several names.
    File(usize),
    Dir,
    Link(String),
}

/// A tree in memory.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    names: BTreeMap<String, Node>,
    files: Vec<Vec<u8>>,
}

/// One operation.
#[derive(Debug)]
pub(super) enum Step {
    Create(String),
    Mkdir(String),
    Symlink(String, String),
    Link(String, String),
    Write(String, Vec<u8>),
    Append(String, Vec<u8>),
    Truncate(String, usize),
    Rename(String, String),
    Unlink(String),
    Rmdir(String),
}

impl Tree {
    /// What the base holds.
    pub(super) fn base() -> Self {
        let mut tree = Self {
            names: BTreeMap::from([("dir".to_owned(), Node::Dir)]),
            files: Vec::new(),
        };
        for number in 0..BASE_FILES {
            let place = if number % 2 == 0 { "" } else { "dir/" };
            tree.names
                .insert(format!("{place}base{number}"), Node::File(number));
            tree.files.push(format!("of the base, {number}\n").into());
        }
        tree
    }

    /// Makes it on the host.
    pub(super) fn make(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for (name, node) in &self.names {
            match node {
                Node::Dir => fs::create_dir(dir.join(name))?,
                Node::File(number) => fs::write(dir.join(name), &self.files[*number])?,
                Node::Link(target) => std::os::unix::fs::symlink(target, dir.join(name))?,
            }
        }
        Ok(())
    }

    /// The step of that number, from this state.
    pub(super) fn step(&self, seed: u64, number: usize) -> Step {
        let mut random = Random(seed ^ (number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let of = |wanted: fn(&Node) -> bool| -> Vec<&String> {
            let found = self.names.iter().filter(|(_, node)| wanted(node));
            found.map(|(name, _)| name).collect()
        };
        let files = of(|node| matches!(node, Node::File(_)));
        let dirs = of(|node| matches!(node, Node::Dir));
        let place = match random.below(dirs.len() + 2) {
            index if index < dirs.len() => format!("{}/", dirs[index]),
            _ => String::new(),
        };
        let new = format!("{place}n{number}");
        let kinds = if self.names.len() >= NAMES_MAX {
            8..10
        } else {
            0..10
        };
        // What is drawn may not be possible in this state: then the next draw.
        for _ in 0..20 {
            let kind = kinds.start + random.below(kinds.len());
            let file = || {
                files
                    .get(random_index(number, files.len()))
                    .map(|name| (*name).clone())
            };
            let step = match (kind, file()) {
                (0, _) => Some(Step::Create(new.clone())),
                (1, _) => Some(Step::Mkdir(new.clone())),
                (2, _) => Some(Step::Symlink(format!("to {number}"), new.clone())),
                (3, Some(file)) => Some(Step::Link(file, new.clone())),
                (4, Some(file)) => {
                    let mut data = format!("{number} ")
                        .repeat(1 + random.below(400))
                        .into_bytes();
                    data.truncate(FILE_MAX_BYTES);
                    Some(Step::Write(file, data))
                }
                (5, Some(file)) => {
                    let data = format!("+{number}\n").into_bytes();
                    (self.bytes(&file).len() + data.len() <= FILE_MAX_BYTES)
                        .then_some(Step::Append(file, data))
                }
                (6, Some(file)) => {
                    let size = random.below(FILE_MAX_BYTES);
                    (size != self.bytes(&file).len()).then_some(Step::Truncate(file, size))
                }
                (7, Some(file)) => {
                    let over = files[random.below(files.len())];
                    // Onto itself, by whichever name, a rename does nothing.
                    let same = self.names.get(over) == self.names.get(&file);
                    let to = if same { new.clone() } else { over.clone() };
                    Some(Step::Rename(file, to))
                }
                (8, _) => {
                    let gone = of(|node| !matches!(node, Node::Dir));
                    gone.get(random.below(gone.len()))
                        .map(|name| Step::Unlink((*name).clone()))
                }
                (9, _) => self.of_dir(&dirs, &mut random, &new),
                _ => None,
            };
            if let Some(step) = step {
                return step;
            }
        }
        Step::Create(format!("n{number}"))
    }

    /// Removes a directory that is empty, moves one that is not.
    fn of_dir(&self, dirs: &[&String], random: &mut Random, new: &str) -> Option<Step> {
        let dir = *dirs.get(random.below(dirs.len()))?;
        let below = format!("{dir}/");
        if !self.names.keys().any(|name| name.starts_with(&below)) {
            return Some(Step::Rmdir(dir.clone()));
        }
        (!new.starts_with(&below)).then(|| Step::Rename(dir.clone(), new.to_owned()))
    }

    fn bytes(&self, name: &str) -> &[u8] {
        match self.names.get(name) {
            Some(Node::File(number)) => &self.files[*number],
            _ => &[],
        }
    }

    fn file(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        match self.names.get(name) {
            Some(Node::File(number)) => self.files.get_mut(*number),
            _ => None,
        }
    }

    /// Does it in memory.
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(name) => {
                self.files.push(Vec::new());
                self.names
                    .insert(name.clone(), Node::File(self.files.len() - 1));
            }
            Step::Mkdir(name) => {
                self.names.insert(name.clone(), Node::Dir);
            }
            Step::Symlink(target, name) => {
                self.names.insert(name.clone(), Node::Link(target.clone()));
            }
            Step::Link(from, to) => {
                if let Some(node) = self.names.get(from).cloned() {
                    self.names.insert(to.clone(), node);
                }
            }
            Step::Write(name, data) => {
                if let Some(bytes) = self.file(name) {
                    let kept = bytes.split_off(data.len().min(bytes.len()));
                    *bytes = [data.as_slice(), &kept].concat();
                }
            }
            Step::Append(name, data) => {
                if let Some(bytes) = self.file(name) {
                    bytes.extend_from_slice(data);
                }
            }
            Step::Truncate(name, size) => {
                if let Some(bytes) = self.file(name) {
                    bytes.resize(*size, 0);
                }
            }
            Step::Rename(from, to) => self.rename(from, to),
            Step::Unlink(name) | Step::Rmdir(name) => {
                self.names.remove(name);
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let moved: Vec<_> = self
            .names
            .keys()
            .filter(|name| *name == from || name.starts_with(&below))
            .cloned()
            .collect();
        for name in moved {
            if let Some(node) = self.names.remove(&name) {
                self.names
                    .insert(format!("{to}{}", &name[from.len()..]), node);
            }
        }
    }

    /// What is at each path.
    pub(super) fn listing(&self) -> Listing {
        let text = |node: &Node| match node {
            Node::File(number) => as_text(&self.files[*number]),
            Node::Dir => DIRECTORY.to_owned(),
            Node::Link(target) => format!("-> {target}"),
        };
        self.names
            .iter()
            .map(|(name, node)| (name.clone(), text(node)))
            .collect()
    }
}

const DIRECTORY: &str = "a directory";

fn as_text(bytes: &[u8]) -> String {
    format!("{} bytes: {}", bytes.len(), String::from_utf8_lossy(bytes))
}

/// A file for a step, without drawing: kinds that are refused must not shift it.
fn random_index(number: usize, len: usize) -> usize {
    Random(number as u64).below(len)
}

impl Step {
    /// Does it below a directory. What closing has to say is not heard (there is no
    /// way to in safe Rust): when the server is gone, the next step tells.
    pub(super) fn perform(&self, dir: &Path) -> io::Result<()> {
        let at = |name: &String| dir.join(name);
        let write = |options: &mut OpenOptions, name, data| {
            let mut file: File = options.open(at(name))?;
            file.write_all(data)
        };
        match self {
            Self::Create(name) => File::create_new(at(name)).map(drop),
            Self::Mkdir(name) => fs::create_dir(at(name)),
            Self::Symlink(target, name) => std::os::unix::fs::symlink(target, at(name)),
            Self::Link(from, to) => fs::hard_link(at(from), at(to)),
            Self::Write(name, data) => write(OpenOptions::new().write(true), name, data),
            Self::Append(name, data) => write(OpenOptions::new().append(true), name, data),
            Self::Truncate(name, size) => {
                let file = OpenOptions::new().write(true).open(at(name))?;
                file.set_len(*size as u64)
            }
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::Unlink(name) => fs::remove_file(at(name)),
            Self::Rmdir(name) => fs::remove_dir(at(name)),
        }
    }
}

/// What is on the host, or in a view, at each path below a directory.
pub(super) fn listing_of(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::new();
    let mut left = vec![String::new()];
    while let Some(place) = left.pop() {
        for entry in fs::read_dir(dir.join(&place))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = if place.is_empty() {
                name
            } else {
                format!("{place}/{name}")
            };
            let kind = entry.file_type()?;
            let text = if kind.is_dir() {
                left.push(name.clone());
                DIRECTORY.to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(entry.path())?.display())
            } else {
                as_text(&fs::read(entry.path())?)
            };
            listing.insert(name, text);
        }
    }
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps in memory are the steps on a file system.
    #[test]
    fn memory_and_the_host_stay_the_same() -> io::Result<()> {
        let dir = std::env::temp_dir().join(format!("agentfs-steps-{}", std::process::id()));
        let mut tree = Tree::base();
        tree.make(&dir)?;
        for number in 1..=2000 {
            let step = tree.step(7, number);
            step.perform(&dir)?;
            tree.apply(&step);
            if number % 50 == 0 {
                assert_eq!(tree.listing(), listing_of(&dir)?, "{number}: {step:?}");
            }
        }
        fs::remove_dir_all(&dir)
    }
}
