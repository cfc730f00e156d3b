//! The inputs: a project tree as a git repository, two large files, a C project
//! and an archive, the same on each run for one seed and one registry.
//!
//! Must never take anything from the network, and never be measured itself.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::host;

const SEED: u64 = 0x5eed_a6e7_7f5b_0001;
/// Raised when the same `Scale` gives other inputs than before.
const GENERATION: u32 = 2;
const MIB: usize = 1024 * 1024;
/// Sizes of project files lie between these, evenly on a logarithmic scale but
/// denser in the middle.
const FILE_BYTES: (f64, f64) = (205.0, 61_440.0);
/// Every so many files one has the line that `grep` looks for.
const NEEDLE_EVERY: usize = 97;
/// What `grep` looks for.
pub(super) const NEEDLE: &str = "needle in the hay of agentfs";
/// The directory that is moved; half the files are in it.
pub(super) const MOVED_DIRECTORY: &str = "vendor";

/// How much of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // each name says it
pub(super) struct Scale {
    pub(super) files: usize,
    pub(super) directories: usize,
    pub(super) base_file_mib: usize,
    pub(super) written_mib: usize,
    pub(super) edited_files: usize,
    pub(super) appends: usize,
    pub(super) small_files: usize,
    pub(super) fsyncs: usize,
    pub(super) transactions: usize,
    pub(super) random_read_mib: usize,
    pub(super) random_write_mib: usize,
    pub(super) c_files: usize,
}

impl Scale {
    /// The table.
    pub(super) const FULL: Scale = Scale {
        files: 4_000,
        directories: 600,
        base_file_mib: 256,
        written_mib: 512,
        edited_files: 200,
        appends: 20_000,
        small_files: 10_000,
        fsyncs: 200,
        transactions: 300,
        random_read_mib: 128,
        random_write_mib: 64,
        c_files: 60,
    };
    /// A tenth of it: proves the harness.
    pub(super) const QUICK: Scale = Scale {
        files: 400,
        directories: 60,
        base_file_mib: 32,
        written_mib: 64,
        edited_files: 40,
        appends: 2_000,
        small_files: 1_000,
        fsyncs: 30,
        transactions: 30,
        random_read_mib: 16,
        random_write_mib: 8,
        c_files: 8,
    };
}

/// What lies in the inputs directory, and what phases compare against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    generation: u32,
    /// How much of everything.
    pub(super) scale: Scale,
    /// Whether file contents come from the local registry's crates.
    pub(super) from_registry: bool,
    /// Bytes in the project's files.
    pub(super) tree_bytes: u64,
    /// Files that have [`NEEDLE`].
    pub(super) needles: usize,
    /// Files below [`MOVED_DIRECTORY`].
    pub(super) moved_files: usize,
    /// Files and directories of the whole base, without itself and `.git`.
    pub(super) entries: usize,
}

/// The inputs on disk.
pub(super) struct Inputs {
    /// Holds `base/` (what is copied for each target: `repo/`, `csrc/` and the
    /// two large files), `tree.tar` and `manifest.json`.
    pub(super) dir: PathBuf,
    /// What is in it.
    pub(super) manifest: Manifest,
}

impl Inputs {
    /// Opens inputs that [`prepare`] made.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(dir.join("manifest.json"))
            .with_context(|| format!("{} holds no inputs", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
            manifest: serde_json::from_str(&text)?,
        })
    }

    /// What is copied for each target.
    pub(super) fn base(&self) -> PathBuf {
        self.dir.join("base")
    }
}

/// Makes the inputs below `work`, or takes those that are there.
pub(super) fn prepare(work: &Path, scale: &Scale, quick: bool) -> anyhow::Result<Inputs> {
    let dir = work.join(if quick { "inputs-quick" } else { "inputs" });
    if let Ok(inputs) = Inputs::open(&dir)
        && inputs.manifest.generation == GENERATION
        && inputs.manifest.scale == *scale
    {
        return Ok(inputs);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let base = dir.join("base");
    let repo = base.join("repo");
    fs::create_dir_all(&repo)?;
    let mut random = Random(SEED);
    let corpus = Corpus::read(&mut random);
    let tree = write_tree(&repo, scale, &corpus, &mut random)?;
    for name in ["large-a.bin", "large-b.bin"] {
        write_large(&base.join(name), scale.base_file_mib, &mut random)?;
    }
    write_c_project(&base.join("csrc"), scale.c_files, &mut random)?;
    host::run(
        Command::new("tar")
            .arg("-cf")
            .arg(dir.join("tree.tar"))
            .args(["-C".as_ref(), repo.as_os_str()])
            .arg("."),
    )?;
    commit(&repo, &dir)?;
    let manifest = Manifest {
        generation: GENERATION,
        scale: scale.clone(),
        from_registry: corpus.from_registry,
        // repo, csrc, its Makefile, header, sources and main, two large files
        entries: scale.files + tree.directories + 2 + 2 + scale.c_files + 1 + 2,
        tree_bytes: tree.bytes,
        needles: tree.needles,
        moved_files: tree.moved_files,
    };
    fs::write(
        dir.join("manifest.json"),
        serde_json::to_string_pretty(&manifest)?,
    )?;
    host::run(&mut Command::new("sync"))?;
    Ok(Inputs { dir, manifest })
}

/// `SplitMix64`: the same numbers everywhere for the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    /// A number in 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Bytes that no compression makes smaller.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
    }
}

/// Text that file contents are cut from.
struct Corpus {
    text: Vec<u8>,
    from_registry: bool,
}

impl Corpus {
    const BYTES: usize = 16 * MIB;

    fn read(random: &mut Random) -> Self {
        let mut text = Vec::new();
        for source in registry_sources() {
            if text.len() >= Self::BYTES {
                break;
            }
            // A crate that cannot be read is no reason not to measure.
            text.extend(fs::read(source).unwrap_or_default());
        }
        let from_registry = text.len() >= MIB;
        if !from_registry {
            text.clear();
            while text.len() < Self::BYTES {
                for _ in 0..2 + random.below(10) {
                    text.extend_from_slice(WORDS[random.below(WORDS.len())].as_bytes());
                    text.push(b' ');
                }
                text.push(b'\n');
            }
        }
        Self {
            text,
            from_registry,
        }
    }

    fn cut(&self, bytes: usize, random: &mut Random) -> &[u8] {
        let start = random.below(self.text.len() - bytes);
        &self.text[start..start + bytes]
    }
}

/// Rust sources of the local registry's crates, sorted, a few per crate.
fn registry_sources() -> Vec<PathBuf> {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_default();
    let mut crates: Vec<_> = host::children(&cargo_home.join("registry/src"))
        .iter()
        .flat_map(|registry| host::children(registry))
        .collect();
    crates.sort();
    let sources = crates
        .iter()
        .flat_map(|one| host::children(&one.join("src")));
    sources
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

const TOP: [&str; 7] = ["api", "build", "cmd", "docs", "internal", "pkg", "test"];

const WORDS: [&str; 48] = [
    "admin",
    "agent",
    "auth",
    "batch",
    "bench",
    "buffer",
    "cache",
    "client",
    "cluster",
    "codec",
    "config",
    "controller",
    "cursor",
    "daemon",
    "driver",
    "engine",
    "event",
    "filter",
    "gateway",
    "handler",
    "index",
    "journal",
    "kernel",
    "ledger",
    "limit",
    "metrics",
    "module",
    "network",
    "object",
    "parser",
    "policy",
    "proxy",
    "query",
    "queue",
    "record",
    "registry",
    "router",
    "runtime",
    "schema",
    "server",
    "session",
    "shard",
    "storage",
    "stream",
    "table",
    "token",
    "volume",
    "worker",
];

struct Tree {
    directories: usize,
    bytes: u64,
    needles: usize,
    moved_files: usize,
}

fn write_tree(
    repo: &Path,
    scale: &Scale,
    corpus: &Corpus,
    random: &mut Random,
) -> anyhow::Result<Tree> {
    // Even directories grow below the one that is moved, odd ones elsewhere.
    let mut directories: Vec<Vec<PathBuf>> = vec![
        vec![PathBuf::from(MOVED_DIRECTORY)],
        TOP.iter().map(PathBuf::from).collect(),
    ];
    let total = |directories: &[Vec<PathBuf>]| directories.iter().map(Vec::len).sum::<usize>();
    while total(&directories) < scale.directories {
        let number = total(&directories);
        let half = &mut directories[number % 2];
        let parent = &half[random.below(half.len())];
        if parent.components().count() < 6 {
            let word = WORDS[random.below(WORDS.len())];
            let child = parent.join(format!("{word}{number}"));
            half.push(child);
        }
    }
    for directory in directories.iter().flatten() {
        fs::create_dir_all(repo.join(directory))?;
    }
    let mut tree = Tree {
        directories: total(&directories),
        bytes: 0,
        needles: 0,
        moved_files: 0,
    };
    for number in 0..scale.files {
        let half = &directories[number % 2];
        let directory = &half[random.below(half.len())];
        let words = (random.below(WORDS.len()), random.below(WORDS.len()));
        let name = format!("{}_{}_{number}.go", WORDS[words.0], WORDS[words.1]);
        let mut body = corpus.cut(file_bytes(random), random).to_vec();
        body.push(b'\n');
        if number % NEEDLE_EVERY == 0 {
            body.extend_from_slice(NEEDLE.as_bytes());
            body.push(b'\n');
            tree.needles += 1;
        }
        tree.bytes += body.len() as u64;
        tree.moved_files += usize::from(number % 2 == 0);
        fs::write(repo.join(directory).join(name), body)?;
    }
    Ok(tree)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between two small bounds
fn file_bytes(random: &mut Random) -> usize {
    let place = f64::midpoint(random.unit(), random.unit());
    (FILE_BYTES.0 * (FILE_BYTES.1 / FILE_BYTES.0).powf(place)) as usize
}

fn write_large(path: &Path, mib: usize, random: &mut Random) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut buffer = vec![0; MIB];
    for index in 0..mib {
        random.fill(&mut buffer);
        stamp(&mut buffer, index);
        file.write_all(&buffer)?;
    }
    Ok(())
}

/// Marks a block with its place, so that reading shows a wrong one.
pub(super) fn stamp(block: &mut [u8], index: usize) {
    block[..8].copy_from_slice(&(index as u64).to_le_bytes());
}

/// Whether [`stamp`] marked this block so.
pub(super) fn has_stamp(block: &[u8], index: usize) -> bool {
    block.get(..8) == Some(&(index as u64).to_le_bytes()[..])
}

fn write_c_project(dir: &Path, files: usize, random: &mut Random) -> anyhow::Result<()> {
    const FUNCTIONS: usize = 18;
    fs::create_dir_all(dir)?;
    let mut header = String::from(
        "#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <time.h>\n",
    );
    let mut main = String::from("#include \"all.h\"\nint main(void) {\n  long sum = 0;\n");
    for file in 0..files {
        writeln!(header, "long unit_{file}(long x);")?;
        writeln!(main, "  sum += unit_{file}({file}) & 0;")?;
        let mut source = BufWriter::new(File::create(dir.join(format!("unit_{file}.c")))?);
        writeln!(source, "#include \"all.h\"")?;
        for function in 0..FUNCTIONS {
            let (a, b) = (random.below(1000), 2 + random.below(30));
            writeln!(
                source,
                "static long step_{function}(long x) {{\n  char text[64];\n  long sum = {a};\n  \
                 for (long i = 0; i < {b}; i++) {{\n    snprintf(text, sizeof text, \"%ld\", x + i);\n    \
                 sum += (long)strlen(text) * (x % (i + 1)) + (long)sqrt((double)i);\n    \
                 if (sum & 1) sum ^= {a} + i; else sum += labs(x) / (i + {b});\n  }}\n  return sum;\n}}"
            )?;
        }
        writeln!(source, "long unit_{file}(long x) {{\n  long sum = 0;")?;
        for function in 0..FUNCTIONS {
            writeln!(source, "  sum += step_{function}(x + {function});")?;
        }
        writeln!(source, "  return sum;\n}}")?;
        source.flush()?;
    }
    main.push_str("  printf(\"%ld\\n\", sum + 42);\n  return 0;\n}\n");
    fs::write(dir.join("all.h"), header)?;
    fs::write(dir.join("main.c"), main)?;
    fs::write(
        dir.join("Makefile"),
        "objects := $(patsubst %.c,%.o,$(wildcard *.c))\n\
         program: $(objects)\n\t$(CC) -o $@ $^ -lm\n\
         %.o: %.c all.h\n\t$(CC) -O2 -c -o $@ $<\n",
    )?;
    Ok(())
}

/// Makes the tree a repository with one packed commit.
fn commit(repo: &Path, home: &Path) -> anyhow::Result<()> {
    let steps: [&[&str]; 4] = [
        &["init", "--quiet", "--initial-branch=main"],
        &["add", "--all"],
        &["commit", "--quiet", "--message=All"],
        &["gc", "--quiet"],
    ];
    for arguments in steps {
        let mut git = Command::new("git");
        git.args([
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@example.org",
        ])
        .args(["-c", "gc.auto=0"])
        .args(arguments)
        .current_dir(repo)
        .env("HOME", home)
        .env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z");
        host::run(&mut git)?;
    }
    ensure!(repo.join(".git").is_dir(), "git made no repository");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut other) = (Random(7), Random(7));
        let numbers: Vec<_> = (0..100).map(|_| one.next()).collect();
        assert!(numbers.iter().all(|number| *number == other.next()));
        assert_ne!(Random(8).next(), numbers[0]);
    }

    #[test]
    fn file_sizes_stay_between_their_bounds_and_average_a_few_kibibytes() {
        let mut random = Random(SEED);
        let sizes: Vec<_> = (0..4_000).map(|_| file_bytes(&mut random)).collect();
        assert!(sizes.iter().all(|size| (200..=61_440).contains(size)));
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((4_000..9_000).contains(&mean), "{mean}");
    }

    #[test]
    fn a_stamp_shows_a_block_at_the_wrong_place() {
        let mut block = [0xff; 16];
        stamp(&mut block, 258);
        assert!(has_stamp(&block, 258));
        assert!(!has_stamp(&block, 259));
        assert!(!has_stamp(&block[..4], 258));
    }
}
