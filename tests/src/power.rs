//! What a power failure may leave of a [`crate::disk`], by its record.
//!
//! What was synced is there. Of what came after, for each file: all, nothing, some
//! of the writes, or some of their sectors. A file's name is there when its
//! *directory* was synced since it was made; of later changes of names, a prefix.
//! That is less than the file systems of Linux promise, and all that POSIX does.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::disk::{Event, Mark, index, put};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What is left: names and bytes.
pub type Image = BTreeMap<OsString, Vec<u8>>;

/// Whether the disk does what a sync asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// It does.
    Kept,
    /// It only says so: for tests of the tests.
    Ignored,
}

/// What was not synced, when the power fails.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    Dropped,
    /// Each write is kept or dropped as a whole.
    Picked,
    /// Each sector is.
    Torn,
}

/// Numbers without order (`SplitMix64`), the same for the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next one.
    #[allow(clippy::should_implement_trait)] // it never ends
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

/// What is left when the power fails after `events`.
#[must_use]
pub fn image(events: &[Event], syncs: Syncs, random: &mut Random) -> Image {
    let mut files: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut unsynced: HashMap<u64, Vec<&Event>> = HashMap::new();
    let mut names: BTreeMap<OsString, u64> = BTreeMap::new();
    let mut unsynced_names: Vec<&Event> = Vec::new();
    for event in events {
        match event {
            Event::Create { file, .. } => {
                files.insert(*file, Vec::new());
                unsynced_names.push(event);
            }
            Event::Unlink { .. } | Event::Rename { .. } => unsynced_names.push(event),
            Event::Write { file, .. } | Event::Resize { file, .. } => {
                unsynced.entry(*file).or_default().push(event);
            }
            Event::Sync { file } if syncs == Syncs::Kept => {
                let bytes = files.entry(*file).or_default();
                for event in unsynced.remove(file).into_iter().flatten() {
                    apply(bytes, event, Fate::Kept, random);
                }
            }
            Event::Lost { file } => {
                unsynced.remove(file);
            }
            Event::SyncNames if syncs == Syncs::Kept => {
                for event in unsynced_names.drain(..) {
                    change(&mut names, event);
                }
            }
            Event::Sync { .. } | Event::SyncNames | Event::Mark(_) => {}
        }
    }
    let kept = match random.below(3) {
        0 => 0,
        1 => unsynced_names.len(),
        _ => random.below(unsynced_names.len() + 1),
    };
    for event in &unsynced_names[..kept] {
        change(&mut names, event);
    }
    let mut numbers: Vec<_> = unsynced.keys().copied().collect();
    numbers.sort_unstable();
    for number in numbers {
        let fate = [Fate::Kept, Fate::Dropped, Fate::Picked, Fate::Torn][random.below(4)];
        let bytes = files.entry(number).or_default();
        for event in unsynced.remove(&number).into_iter().flatten() {
            apply(bytes, event, fate, random);
        }
    }
    names
        .into_iter()
        .map(|(name, number)| (name, files.get(&number).cloned().unwrap_or_default()))
        .collect()
}

fn change(names: &mut BTreeMap<OsString, u64>, event: &Event) {
    match event {
        Event::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        Event::Unlink { name } => {
            names.remove(name);
        }
        Event::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        _ => {}
    }
}

fn apply(bytes: &mut Vec<u8>, event: &Event, fate: Fate, random: &mut Random) {
    let whole = match fate {
        Fate::Kept => true,
        Fate::Dropped => return,
        Fate::Picked => {
            if !random.coin() {
                return;
            }
            true
        }
        Fate::Torn => false,
    };
    match event {
        Event::Write { offset, data, .. } if whole => put(bytes, *offset, data),
        Event::Write { offset, data, .. } => {
            let mut at = index(*offset);
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                let (now, later) =
                    rest.split_at((SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len()));
                if random.coin() {
                    put(bytes, at as u64, now);
                }
                at += now.len();
                rest = later;
            }
        }
        Event::Resize { size, .. } if whole || random.coin() => bytes.resize(index(*size), 0),
        _ => {}
    }
}

/// How far whoever wrote had come: the last operation that was promised to be
/// durable, and the last that was begun.
#[must_use]
pub fn progress(events: &[Event]) -> (usize, usize) {
    let mut progress = (0, 0);
    for event in events {
        match event {
            Event::Mark(Mark::Promised(operation)) => progress.0 = *operation,
            Event::Mark(Mark::Begun(operation)) => progress.1 = *operation,
            _ => {}
        }
    }
    progress
}

/// Puts an image into an empty directory.
///
/// # Panics
/// When the host refuses.
pub fn restore(image: &Image, dir: &Path) {
    for (name, bytes) in image {
        fs::write(dir.join(name), bytes).expect("a scratch directory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: u64, data: &[u8]) -> Event {
        Event::Write {
            file,
            offset: 0,
            data: data.to_vec(),
        }
    }

    fn create(name: &str, file: u64) -> Event {
        Event::Create {
            name: name.into(),
            file,
        }
    }

    /// All images of a few hundred seeds.
    fn images(events: &[Event]) -> Vec<Image> {
        let mut images: Vec<_> = (0..300)
            .map(|seed| image(events, Syncs::Kept, &mut Random(seed)))
            .collect();
        images.sort();
        images.dedup();
        images
    }

    #[test]
    fn what_was_synced_is_in_every_image() {
        let synced = [
            create("a", 2),
            Event::SyncNames,
            write(2, b"new"),
            Event::Sync { file: 2 },
        ];
        assert_eq!(
            images(&synced),
            [BTreeMap::from([("a".into(), b"new".to_vec())])]
        );
    }

    #[test]
    fn what_was_not_synced_is_there_or_not() {
        let bytes = |image: &Image| image.get(&OsString::from("a")).cloned();
        let nameless = images(&[create("a", 2), write(2, b"new"), Event::Sync { file: 2 }]);
        let found: Vec<_> = nameless.iter().map(bytes).collect();
        assert_eq!(found, [None, Some(b"new".to_vec())]);
        let torn = images(&[create("a", 2), Event::SyncNames, write(2, &[1; 1024])]);
        let mut sizes: Vec<_> = torn.iter().filter_map(bytes).map(|b| b.len()).collect();
        sizes.dedup();
        sizes.sort_unstable();
        sizes.dedup();
        assert_eq!(sizes, [0, 512, 1024]);
        assert!(
            torn.iter()
                .filter_map(bytes)
                .any(|b| b == [[0; 512], [1; 512]].concat())
        );
    }
}
