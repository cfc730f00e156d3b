//! What eight processes do in one directory, so that afterwards everything can be
//! accounted for: each keeps a [`Ledger`] of what it did, and [`verify`] holds the
//! directory against all of them.
//!
//! A call may be refused only as a plain directory may refuse it while others are
//! at work: that a name is there already, no longer, or a directory not empty.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Files that all append to.
const LOGS: u64 = 4;
/// Files that all replace by renaming.
const REPLACED: u64 = 3;
/// Files that all move between two directories.
const TOKENS: u64 = 16;
/// Directories that all make, fill, rename and remove.
const DIRS: u64 = 5;
/// Bytes that each process owns in a file: pages and chunks are shared.
const SLOT_BYTES: usize = 1_000;
/// The longest text of a record: more than a page, and than a chunk.
const TEXT_BYTES: u64 = 9_000;

type Done = Result<(), String>;

/// What a process did: how often, by kind and name.
#[derive(Default)]
pub(super) struct Ledger(BTreeMap<String, u64>);

impl Ledger {
    fn add(&mut self, what: String) -> u64 {
        let count = self.0.entry(what).or_default();
        *count += 1;
        *count
    }

    fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// The names of a kind.
    fn names<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .keys()
            .filter_map(move |key| key.strip_prefix(kind)?.strip_prefix(' '))
    }

    /// Writes it; it is there whole or not at all.
    pub(super) fn save(&self, path: &Path) {
        let lines: String = self
            .0
            .iter()
            .map(|(what, n)| format!("{n} {what}\n"))
            .collect();
        let new = path.with_extension("new");
        fs::write(&new, lines).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub(super) fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let entries = text.lines().map(|line| {
            let (count, what) = line.split_once(' ').unwrap();
            (what.to_owned(), count.parse().unwrap())
        });
        Self(entries.collect())
    }
}

/// A text that only its writer and number give, as one line.
fn record(writer: u32, number: u64) -> String {
    let mixed = number
        .wrapping_add(u64::from(writer) << 32)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = usize::try_from((mixed >> 20) % TEXT_BYTES).unwrap();
    let letter = char::from(b'a' + u8::try_from(mixed % 26).unwrap());
    format!("{writer} {number} {}\n", letter.to_string().repeat(length))
}

/// The writer and number of a record; an error when it is not whole.
fn parse(line: &str) -> Result<(u32, u64), String> {
    let start: String = line.chars().take(60).collect();
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (Some(writer), Some(number)) = (number(), number()) else {
        return Err(format!("not a record: {start:?}"));
    };
    let writer = u32::try_from(writer).map_err(|error| error.to_string())?;
    if record(writer, number) != line {
        return Err(format!(
            "the record {start:?}, {} bytes, is not whole",
            line.len()
        ));
    }
    Ok((writer, number))
}

/// Fills a directory of the base.
pub(super) fn make_base(dir: &Path) {
    for made in [
        "logs", "replaced", "here", "there", "claims", "links", "dirs",
    ] {
        fs::create_dir_all(dir.join(made)).unwrap();
    }
    for name in 0..REPLACED {
        fs::write(dir.join(format!("replaced/{name}")), record(99, name)).unwrap();
    }
    for token in 0..TOKENS {
        fs::write(dir.join(format!("here/{token}")), record(98, token)).unwrap();
    }
    // One log begins in the base.
    fs::write(dir.join("logs/0"), record(97, 1)).unwrap();
    fs::write(dir.join("counter"), "0").unwrap();
    fs::write(dir.join("anchor"), "many names\n").unwrap();
    fs::write(dir.join("slots"), [b'.'; 16 * SLOT_BYTES]).unwrap();
}

/// One process in the shared directory.
pub(super) struct Shared {
    dir: PathBuf,
    number: u32,
    random: u64,
    pub(super) ledger: Ledger,
    /// Claims tried so far.
    claims: u64,
}

impl Shared {
    pub(super) fn new(dir: PathBuf, number: u32, seed: u64) -> Self {
        Self {
            dir,
            number,
            random: (seed ^ (u64::from(number) << 32)) | 1,
            ledger: Ledger::default(),
            claims: 0,
        }
    }

    /// xorshift64*.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Does one thing.
    pub(super) fn step(&mut self) -> Done {
        let kind = self.below(9);
        let (what, done) = match kind {
            0 => ("append", self.append()),
            1 => ("replace", self.replace()),
            2 => ("read what is replaced", self.read_replaced()),
            3 => ("claim", self.claim()),
            4 => ("move", self.move_token()),
            5 => ("count", self.count()),
            6 => ("link", self.link()),
            7 => ("directories", self.directories()),
            _ => ("slot", self.slot()),
        };
        done.map_err(|error| format!("{what}: {error}"))
    }

    /// A record at the end of a file, in one call.
    fn append(&mut self) -> io::Result<()> {
        let log = format!("logs/{}", self.below(LOGS));
        let number = self.ledger.add(format!("appended {log}"));
        let text = record(self.number, number);
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(log))?;
        match file.write(text.as_bytes())? {
            all if all == text.len() => Ok(()),
            part => Err(io::Error::other(format!("wrote {part} of {}", text.len()))),
        }
    }

    /// As an editor saves: there is always a file of that name, and it is whole.
    fn replace(&mut self) -> io::Result<()> {
        let number = self.ledger.add("replaced".to_owned());
        let new = self.path(format!("replaced/.new-{}", self.number));
        fs::write(&new, record(self.number, number))?;
        let name = self.below(REPLACED);
        fs::rename(new, self.path(format!("replaced/{name}")))
    }

    fn read_replaced(&mut self) -> io::Result<()> {
        let name = self.below(REPLACED);
        let text = fs::read_to_string(self.path(format!("replaced/{name}")))?;
        parse(&text).map(drop).map_err(io::Error::other)
    }

    /// All try for the same names, in the same order: one gets each.
    fn claim(&mut self) -> io::Result<()> {
        let name = format!("claims/{}", self.claims);
        self.claims += 1;
        match File::create_new(self.path(&name)) {
            Ok(mut file) => {
                self.ledger.add(format!("claimed {name}"));
                write!(file, "{}", self.number)
            }
            Err(error) => unless(error, &[ErrorKind::AlreadyExists]),
        }
    }

    fn move_token(&mut self) -> io::Result<()> {
        let token = self.below(TOKENS);
        let (here, there) = (format!("here/{token}"), format!("there/{token}"));
        let (from, to) = if self.below(2) == 0 {
            (here, there)
        } else {
            (there, here)
        };
        allowing(
            fs::rename(self.path(from), self.path(to)),
            &[ErrorKind::NotFound],
        )
    }

    fn count(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path("counter"))?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let count: u64 = text.parse().map_err(io::Error::other)?;
        file.seek(SeekFrom::Start(0))?;
        write!(file, "{}", count + 1)?;
        self.ledger.add("counted".to_owned());
        Ok(())
    }

    fn link(&mut self) -> io::Result<()> {
        let number = self.ledger.add("linked".to_owned());
        let name = format!("links/{}-{number}", self.number);
        fs::hard_link(self.path("anchor"), self.path(&name))?;
        if self.below(2) == 0 {
            return fs::remove_file(self.path(name));
        }
        self.ledger.add(format!("kept {name}"));
        Ok(())
    }

    /// A file in a directory that others rename and remove.
    fn directories(&mut self) -> io::Result<()> {
        let dir = format!("dirs/{}", self.below(DIRS));
        allowing(fs::create_dir(self.path(&dir)), &[ErrorKind::AlreadyExists])?;
        let number = self.ledger.add("filed".to_owned());
        let name = format!("{}-{number}", self.number);
        let file = self.path(&dir).join(&name);
        let made = File::create_new(&file).and_then(|mut made| write!(made, "{name}"));
        match made {
            Ok(()) if self.below(3) == 0 => {
                self.ledger.add(format!("filed {name}"));
            }
            Ok(()) => match fs::remove_file(&file) {
                Ok(()) => {}
                // The directory has another name now, and the file is in it.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.ledger.add(format!("filed {name}"));
                }
                Err(error) => return Err(error),
            },
            Err(error) => unless(error, &[ErrorKind::NotFound])?,
        }
        for listed in fs::read_dir(self.path("dirs"))? {
            listed?;
        }
        let busy = [ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty];
        let to = format!("dirs/{}", self.below(DIRS));
        allowing(fs::rename(self.path(&dir), self.path(to)), &busy)?;
        allowing(fs::remove_dir(self.path(dir)), &busy)
    }

    /// Bytes between those of others.
    fn slot(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path("slots"))?;
        let at = u64::from(self.number) * SLOT_BYTES as u64;
        let expected = slot(self.number, self.ledger.get("slot"));
        let mut read = [0; SLOT_BYTES];
        file.read_exact_at(&mut read, at)?;
        if read != expected {
            return Err(io::Error::other("the bytes are not those last written"));
        }
        let number = self.ledger.add("slot".to_owned());
        file.write_all_at(&slot(self.number, number), at)
    }
}

/// What a process has in its slot after writing it so often.
fn slot(writer: u32, number: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [b'.'; SLOT_BYTES];
    if number > 0 {
        let text = format!("{writer}:{number};");
        for (byte, letter) in bytes.iter_mut().zip(text.bytes().cycle()) {
            *byte = letter;
        }
    }
    bytes
}

fn allowing(done: io::Result<()>, allowed: &[ErrorKind]) -> io::Result<()> {
    done.or_else(|error| unless(error, allowed))
}

fn unless(error: io::Error, allowed: &[ErrorKind]) -> io::Result<()> {
    if allowed.contains(&error.kind()) {
        Ok(())
    } else {
        Err(error)
    }
}

/// Whether the directory is what the ledgers of all processes add up to.
pub(super) fn verify(dir: &Path, ledgers: &[Ledger]) -> Done {
    let sum = |what: &str| ledgers.iter().map(|ledger| ledger.get(what)).sum::<u64>();
    for log in 0..LOGS {
        logged(dir, &format!("logs/{log}"), ledgers)?;
    }
    for name in 0..REPLACED {
        let text = read(&dir.join(format!("replaced/{name}")))?;
        parse(&text)?;
    }
    for token in 0..TOKENS {
        let places = ["here", "there"].map(|place| dir.join(format!("{place}/{token}")));
        let found: Vec<_> = places.iter().filter(|path| path.exists()).collect();
        let [place] = found[..] else {
            return Err(format!("token {token} is in {found:?}"));
        };
        same("a token", read(place)?, record(98, token))?;
    }
    same(
        "the counter",
        read(&dir.join("counter"))?,
        sum("counted").to_string(),
    )?;

    let claimed: Vec<_> = ledgers
        .iter()
        .enumerate()
        .flat_map(|(writer, ledger)| ledger.names("claimed").map(move |name| (name, writer)))
        .collect();
    for (name, writer) in &claimed {
        same(name, read(&dir.join(name))?, writer.to_string())?;
    }
    same("claims", names(&dir.join("claims"))?.len(), claimed.len())?;

    let kept = |kind| -> BTreeSet<String> {
        let names = ledgers.iter().flat_map(|ledger| ledger.names(kind));
        names.map(str::to_owned).collect()
    };
    let links: BTreeSet<_> = names(&dir.join("links"))?
        .into_iter()
        .map(|name| format!("links/{name}"))
        .collect();
    let anchor = fs::metadata(dir.join("anchor")).map_err(|error| format!("anchor: {error}"))?;
    same("links of a file", anchor.nlink(), 1 + links.len() as u64)?;
    same("links", links, kept("kept"))?;

    let mut filed = BTreeSet::new();
    for under in names(&dir.join("dirs"))? {
        for name in names(&dir.join("dirs").join(&under))? {
            same(
                "a filed file",
                &read(&dir.join("dirs").join(&under).join(&name))?,
                &name,
            )?;
            filed.insert(name);
        }
    }
    same("filed files", filed, kept("filed"))?;

    let slots = read(&dir.join("slots"))?;
    for (ledger, (writer, bytes)) in ledgers
        .iter()
        .zip((0..).zip(slots.as_bytes().chunks(SLOT_BYTES)))
    {
        if bytes != slot(writer, ledger.get("slot")) {
            return Err(format!("slot {writer} is not what was last written"));
        }
    }
    Ok(())
}

/// Each record of each process is there once, whole and in its order.
fn logged(dir: &Path, log: &str, ledgers: &[Ledger]) -> Done {
    let what = format!("appended {log}");
    let mut seen = vec![0; ledgers.len()];
    let path = dir.join(log);
    if ledgers.iter().all(|ledger| ledger.get(&what) == 0) && !path.exists() {
        return Ok(());
    }
    for line in read(&path)?.split_inclusive('\n') {
        let (writer, number) = parse(line).map_err(|error| format!("{log}: {error}"))?;
        if let Some(count) = seen.get_mut(writer as usize) {
            *count += 1;
            same(&format!("{log}, writer {writer}"), number, *count)?;
        }
    }
    let written: Vec<_> = ledgers.iter().map(|ledger| ledger.get(&what)).collect();
    same(log, seen, written)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn names(dir: &Path) -> Result<Vec<String>, String> {
    let listed = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    listed
        .map(|entry| {
            let entry = entry.map_err(|error| format!("{}: {error}", dir.display()))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

#[allow(clippy::needless_pass_by_value)] // what is compared is made for it
fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Done {
    if is == should {
        return Ok(());
    }
    Err(format!("{what}: is {is:?}, should be {should:?}"))
}
