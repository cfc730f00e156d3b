//! What core's own rules cost: operations of an overlay on a storage and a base
//! in memory. Must never touch the host.
//!
//! `cargo bench -p agentfs-core`

#![allow(clippy::unwrap_used, missing_docs)] // A benchmark that fails shall stop.

use std::ops::ControlFlow;
use std::sync::Arc;

use agentfs_core::lower::MemoryLower;
use agentfs_core::overlay::{NewNode, RenameMode};
use agentfs_core::storage::MemoryStorage;
use agentfs_core::types::ManualClock;
use agentfs_core::{FileKind, Ino, Name, Overlay, OverlayConfig, Owner};
use divan::{AllocProfiler, Bencher};

/// Bytes and allocations are shown beside the times.
#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const FILES: usize = 1_000;
const CHUNK_SIZE_BYTES: u32 = 65_536;

type View = Overlay<MemoryStorage, MemoryLower>;

fn main() {
    divan::main();
}

fn name(number: usize) -> Name {
    Name::new(format!("file-{number}").as_bytes()).unwrap()
}

/// A view of a base with `files` files of `bytes` bytes.
fn view(files: usize, bytes: usize) -> View {
    let base = MemoryLower::new();
    for number in 0..files {
        let path = format!("file-{number}");
        base.file(path, 0o644, vec![7; bytes]).unwrap();
    }
    let config = OverlayConfig {
        clock: Arc::new(ManualClock::default()),
        hidden: Vec::new(),
        root_owner: Owner::default(),
    };
    Overlay::open(MemoryStorage::new(CHUNK_SIZE_BYTES), base, config).unwrap()
}

fn create(view: &View, number: usize) -> Ino {
    let node = NewNode {
        kind: FileKind::Regular,
        perm: 0o644,
        rdev: 0,
    };
    let made = view.mknod(Ino::ROOT, &name(number), node, Owner::default());
    made.unwrap().ino
}

/// A view with `FILES` new files, all referenced.
fn made() -> View {
    let view = view(0, 0);
    for number in 0..FILES {
        create(&view, number);
    }
    view
}

#[divan::bench]
fn lookup_base(bencher: Bencher<'_, '_>) {
    let view = view(FILES, 10);
    let mut number = 0;
    bencher.bench_local(|| {
        number = (number + 1) % FILES;
        view.lookup(Ino::ROOT, &name(number)).unwrap()
    });
}

#[divan::bench]
fn lookup_new(bencher: Bencher<'_, '_>) {
    let view = made();
    let mut number = 0;
    bencher.bench_local(|| {
        number = (number + 1) % FILES;
        view.lookup(Ino::ROOT, &name(number)).unwrap()
    });
}

#[divan::bench]
fn lookup_missing(bencher: Bencher<'_, '_>) {
    let view = view(FILES, 10);
    let missing = name(FILES);
    bencher.bench_local(|| view.lookup(Ino::ROOT, &missing).is_err());
}

/// What one referenced inode takes in memory is the greatest number of bytes
/// allocated, divided by the count: the table grows with what the kernel holds.
#[divan::bench(args = [10_000, 100_000], sample_count = 1, sample_size = 1)]
fn reference_inodes(bencher: Bencher<'_, '_>, count: usize) {
    let view = view(count, 0);
    bencher.bench_local(|| {
        for number in 0..count {
            view.lookup(Ino::ROOT, &name(number)).unwrap();
        }
    });
}

#[divan::bench(sample_count = 20)]
fn create_1000(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(|| view(0, 0)).bench_local_refs(|view| {
        for number in 0..FILES {
            create(view, number);
        }
    });
}

#[divan::bench(sample_count = 20)]
fn unlink_and_forget_1000(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(made).bench_local_refs(|view| {
        for number in 0..FILES {
            let ino = view.lookup(Ino::ROOT, &name(number)).unwrap().ino;
            view.unlink(Ino::ROOT, &name(number)).unwrap();
            view.forget(ino, 2);
        }
    });
}

#[divan::bench]
fn rename_new(bencher: Bencher<'_, '_>) {
    let view = made();
    let (mut from, mut to) = (name(0), name(FILES));
    bencher.bench_local(|| {
        view.rename(Ino::ROOT, &from, Ino::ROOT, &to, RenameMode::Replace)
            .unwrap();
        std::mem::swap(&mut from, &mut to);
    });
}

/// The first rename of a base file copies its attributes up and hides its name.
#[divan::bench(sample_count = 20)]
fn rename_base_1000(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(|| view(FILES, 10))
        .bench_local_refs(|view| {
            for number in 0..FILES {
                let (from, to) = (name(number), name(FILES + number));
                view.lookup(Ino::ROOT, &from).unwrap();
                view.rename(Ino::ROOT, &from, Ino::ROOT, &to, RenameMode::Replace)
                    .unwrap();
            }
        });
}

/// One listing with attributes, of a directory in which a name has changed since
/// the last one.
#[divan::bench(args = [100, 10_000])]
fn read_dir_plus(bencher: Bencher<'_, '_>, entries: usize) {
    let view = view(entries, 0);
    let changing = entries;
    create(&view, changing);
    let (mut from, mut to) = (name(changing), name(changing + 1));
    bencher.bench_local(|| {
        view.rename(Ino::ROOT, &from, Ino::ROOT, &to, RenameMode::Replace)
            .unwrap();
        std::mem::swap(&mut from, &mut to);
        let mut seen = 0;
        view.read_dir_plus(Ino::ROOT, 0, &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        seen
    });
}

#[divan::bench(args = [100, 65_536])]
fn write_at_start(bencher: Bencher<'_, '_>, bytes: usize) {
    let view = view(0, 0);
    let ino = create(&view, 0);
    let data = vec![1; bytes];
    bencher.bench_local(|| view.write(ino, 0, &data, false).unwrap());
}

#[divan::bench(args = [100, 65_536])]
fn read_at_start(bencher: Bencher<'_, '_>, bytes: usize) {
    let view = view(0, 0);
    let ino = create(&view, 0);
    view.write(ino, 0, &vec![1; 65_536], false).unwrap();
    bencher.bench_local(|| view.read(ino, 0, bytes).unwrap());
}

/// One byte into each of a hundred base files of 1 MiB: one chunk is filled, the
/// rest stays the base's.
#[divan::bench(sample_count = 20)]
fn copy_up_100(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(|| view(100, 1 << 20))
        .bench_local_refs(|view| {
            for number in 0..100 {
                let ino = view.lookup(Ino::ROOT, &name(number)).unwrap().ino;
                view.write(ino, 500_000, b"x", false).unwrap();
            }
        });
}
