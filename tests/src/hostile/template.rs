//! The sound database that hostile ones are made from, and the base beneath.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use agentfs_core::lower::MemoryLower;
use agentfs_core::overlay::{NewNode, XattrMode};
use agentfs_core::types::{Clock, FileKind, ManualClock};
use agentfs_core::{FsError, Ino, LowerLayer, Name, Overlay, OverlayConfig, Owner, Timestamp};
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};

/// How views of hostile databases are opened.
#[must_use]
pub fn config() -> OverlayConfig {
    let clock = ManualClock::new(Timestamp::new(1_800_000_000, 0));
    OverlayConfig {
        clock: Arc::new(clock) as Arc<dyn Clock>,
        hidden: Vec::new(),
        root_owner: Owner::default(),
    }
}

/// A small base: a directory in a directory, files, a link, a sparse file.
///
/// # Panics
/// Never: the tree is a constant.
#[must_use]
pub fn base() -> MemoryLower {
    let base = MemoryLower::new();
    plant(&base).expect("a tree without conflicts");
    base
}

fn plant(base: &MemoryLower) -> Result<(), FsError> {
    base.dir("dir", 0o755)?.dir("dir/sub", 0o755)?;
    base.file("dir/a", 0o644, "aaaa")?
        .file("dir/sub/b", 0o600, vec![7; 5000])?
        .file("file", 0o644, "text")?
        .sparse_file("sparse", 0o644, 1 << 40)?
        .write_at("sparse", 1 << 30, b"far")?
        .symlink("link", "dir/a")?
        .hard_link("dir/a", "other")?;
    Ok(())
}

/// The bytes of a sound session database over [`base`]: one of everything.
///
/// # Panics
/// When there is no temporary directory.
#[must_use]
pub fn template() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("template.db");
        make(&path).expect("a sound database");
        std::fs::read(&path).expect("a sound database")
    })
}

fn make(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let options = OpenOptions::new()
        .create(true)
        .page_size_bytes(512)
        .chunk_size_bytes(512);
    let database = Database::open(path, &options)?;
    fill(&Overlay::open(
        database.volume(Volume::View),
        base(),
        config(),
    )?)?;
    fill(&Overlay::open(
        database.volume(Volume::Home),
        base(),
        config(),
    )?)?;
    database.set_base_path("/nowhere")?;
    database.close()?;
    Ok(())
}

fn fill<L: LowerLayer>(view: &Overlay<SqliteStorage, L>) -> Result<(), FsError> {
    let owner = Owner::default();
    let name = |bytes: &str| Name::new(bytes.as_bytes());
    let node = NewNode {
        kind: FileKind::Regular,
        perm: 0o644,
        rdev: 0,
    };
    let new = view.mkdir(Ino::ROOT, &name("new")?, 0o755, owner)?.ino;
    let file = view.mknod(new, &name("f")?, node, owner)?.ino;
    view.write(file, 0, &[9; 1200], false)?;
    view.setxattr(file, b"user.a", b"value", XattrMode::Set)?;
    view.link(file, Ino::ROOT, &name("second")?)?;
    view.symlink(new, &name("s")?, b"f", owner)?;
    let sub = view.lookup(Ino::ROOT, &name("dir")?)?.ino;
    let base_file = view.lookup(sub, &name("sub")?)?.ino;
    let base_file = view.lookup(base_file, &name("b")?)?.ino;
    view.write(base_file, 600, b"changed", false)?;
    view.unlink(Ino::ROOT, &name("link")?)?;
    view.rename(
        Ino::ROOT,
        &name("file")?,
        new,
        &name("moved")?,
        agentfs_core::overlay::RenameMode::Replace,
    )?;
    agentfs_core::Storage::write(view.storage(), |txn| {
        txn.put_kv("key", "{\"a\": 1}", 1_700_000_000)
    })?;
    Ok(())
}
