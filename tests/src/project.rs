//! Scratch projects of any number of files, the same every time.
//!
//! Written with plain host calls only: a project is what a session starts from,
//! so nothing of agentfs may take part in making it.

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Files per directory.
const FANOUT: usize = 24;

/// Makes a tree of `files` regular files of 0 to 8 KiB of text in nested
/// directories, and beside them one of each special thing: a sparse file, a
/// hard link, symbolic links (dangling, absolute, to a directory), an empty
/// directory, an executable, an unreadable file, names with blanks and accents.
///
/// # Errors
/// Those of the host.
pub fn generate(root: &Path, files: usize) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..files {
        let group = number / FANOUT;
        let dir = root.join(format!("src/part{:02}/module{group:03}", group % 20));
        if number % FANOUT == 0 {
            fs::create_dir_all(&dir)?;
        }
        let extension = ["rs", "c", "txt", "md", "json"][number % 5];
        fs::write(
            dir.join(format!("file{number:05}.{extension}")),
            text(&mut random),
        )?;
    }
    specials(root)
}

fn specials(root: &Path) -> io::Result<()> {
    let dir = root.join("special");
    fs::create_dir_all(dir.join("empty directory"))?;
    let mut sparse = fs::File::create(dir.join("sparse"))?;
    sparse.write_all(b"head")?;
    sparse.seek(SeekFrom::Start(5 << 20))?;
    sparse.write_all(b"tail")?;
    fs::write(dir.join("one name"), "two names, one inode\n")?;
    fs::hard_link(dir.join("one name"), dir.join("other name"))?;
    symlink("one name", dir.join("link"))?;
    symlink("nowhere", dir.join("dangling"))?;
    symlink("/usr/bin", dir.join("absolute"))?;
    symlink("../src", dir.join("to-directory"))?;
    fs::write(dir.join("run.sh"), "#!/bin/sh\necho ran\n")?;
    fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o755))?;
    fs::write(dir.join("read-only"), "do not write\n")?;
    fs::set_permissions(dir.join("read-only"), fs::Permissions::from_mode(0o444))?;
    fs::write(dir.join("überall €.txt"), "accents\n")?;
    fs::write(dir.join("x".repeat(255)), "a long name\n")
}

fn text(random: &mut Random) -> String {
    let length_bytes = random.below(8192);
    let mut text = String::with_capacity(length_bytes + 80);
    while text.len() < length_bytes {
        let words = 4 + random.below(8);
        for _ in 0..words {
            text.push_str(WORDS[random.below(WORDS.len())]);
            text.push(' ');
        }
        text.push('\n');
    }
    text
}

const WORDS: [&str; 16] = [
    "layer", "inode", "name", "chunk", "delta", "origin", "write", "read", "view", "base", "merge",
    "link", "entry", "commit", "page", "sync",
];

/// xorshift64*: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize;
        high % limit.max(1)
    }
}
