//! Content: reading, writing, sizes, holes, mappings.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use agentfs_core::lower::MemoryLower;
use rustix::fs::SeekFrom::{Data, Hole};
use rustix::fs::{FallocateFlags, Timespec, Timestamps};

use crate::{errno, host_view, memory_view};

fn base_with(content: &[u8]) -> MemoryLower {
    let base = MemoryLower::new();
    base.file("f", 0o644, content).unwrap();
    base
}

fn open_rw(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

#[test]
fn sizes_are_right_while_writes_are_gathered() {
    let Some(view) = memory_view(&base_with(&pattern(10_000))) else {
        return;
    };
    let f = view.at("f");
    let mut file = open_rw(&f);
    file.write_all_at(b"middle", 5000).unwrap();
    file.write_all_at(b"beyond", 20_000).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 20_006);
    assert_eq!(fs::metadata(&f).unwrap().size(), 20_006);
    let mut expected = pattern(10_000);
    expected[5000..5006].copy_from_slice(b"middle");
    expected.resize(20_000, 0);
    expected.extend_from_slice(b"beyond");
    assert_eq!(fs::read(&f).unwrap(), expected);
    file.set_len(5003).unwrap();
    file.set_len(6000).unwrap();
    expected.truncate(5003);
    expected.resize(6000, 0);
    let mut read = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut read).unwrap();
    assert_eq!(read, expected);
    file.sync_all().unwrap();
    drop(file);
    // What the storage got is what the kernel said.
    let attr = view
        .overlay
        .getattr(agentfs_core::Ino(fs::metadata(&f).unwrap().ino()))
        .unwrap();
    assert_eq!(attr.size, 6000);
    assert_eq!(view.overlay.read(attr.ino, 0, 10_000).unwrap(), expected);
    assert_eq!(attr.mtime.secs, fs::metadata(&f).unwrap().mtime());
    assert_eq!(
        i64::from(attr.mtime.nanos),
        fs::metadata(&f).unwrap().mtime_nsec()
    );
}

#[test]
fn two_processes_append_without_loss() {
    let Some(view) = memory_view(&base_with(b"")) else {
        return;
    };
    let script = "i=0; while [ $i -lt 300 ]; do echo \"$0 $i\" >> f; i=$((i+1)); done";
    let spawn = |id: &str| {
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", script, id])
            .current_dir(&*view)
            .spawn()
            .unwrap()
    };
    for mut child in [spawn("a"), spawn("b")] {
        assert!(child.wait().unwrap().success());
    }
    let text = fs::read_to_string(view.at("f")).unwrap();
    for id in ["a", "b"] {
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(id)?.trim().parse().ok());
        assert_eq!(lines.collect::<Vec<u32>>(), (0..300).collect::<Vec<_>>());
    }
    assert_eq!(text.lines().count(), 600);
}

#[test]
fn a_file_mapped_before_copy_up_stays_one_file() {
    let content = pattern(3 * 4096);
    let Some(view) = memory_view(&base_with(&content)) else {
        return;
    };
    let f = view.at("f");
    let ino = fs::metadata(&f).unwrap().ino();
    // Mapped by a process of its own, which says what it sees after each line.
    let script = "\
import mmap, sys
f = open('f', 'r+b'); m = mmap.mmap(f.fileno(), 0)
for line in sys.stdin:
    word = line.split()
    if word[0] == 'write': m[int(word[1]):int(word[1]) + 4] = b'mmap'
    print(m[int(word[1]):int(word[1]) + 4].hex(), flush=True)
";
    let mut child = match std::process::Command::new("python3")
        .args(["-c", script])
        .current_dir(&*view)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => return crate::skip(&format!("python3: {error}")),
    };
    let mut to = child.stdin.take().unwrap();
    let mut from = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |question: &str| {
        writeln!(to, "{question}").unwrap();
        from.next().unwrap().unwrap()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(ask("read 4096"), hex(&content[4096..4100]));
    let file = open_rw(&f);
    file.write_all_at(b"self", 4096).unwrap();
    assert_eq!(ask("read 4096"), hex(b"self"));
    assert_eq!(ask("write 8192"), hex(b"mmap"));
    let mut seen = [0; 4];
    file.read_exact_at(&mut seen, 8192).unwrap();
    assert_eq!(&seen, b"mmap");
    assert_eq!(fs::metadata(&f).unwrap().ino(), ino);
    drop(to);
    assert!(child.wait().unwrap().success());
    file.sync_all().unwrap();
    let mut expected = content;
    expected[4096..4100].copy_from_slice(b"self");
    expected[8192..8196].copy_from_slice(b"mmap");
    let stored = view
        .overlay
        .read(agentfs_core::Ino(ino), 0, 100_000)
        .unwrap();
    assert!(stored == expected);
}

#[test]
fn holes_and_allocation_do_as_on_ext4() {
    let base = MemoryLower::new();
    base.sparse_file("sparse", 0o644, 1 << 20).unwrap();
    base.write_at("sparse", 512 << 10, "data").unwrap();
    let Some(view) = memory_view(&base) else {
        return;
    };
    let seek = |file: &File, from| rustix::fs::seek(file, from).map_err(std::io::Error::from);
    let sparse = open_rw(&view.at("sparse"));
    let data = seek(&sparse, Data(0)).unwrap();
    assert!(data > 0 && data <= 512 << 10, "{data}");
    assert_eq!(seek(&sparse, Hole(0)).unwrap(), 0);
    assert_eq!(errno(seek(&sparse, Data(1 << 20))), libc::ENXIO);

    // Data that only the kernel has yet.
    let file = File::create(view.at("new")).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_all_at(b"late", 700_000).unwrap();
    let data = seek(&file, Data(0)).unwrap();
    assert!(data > 0 && data <= 700_000, "{data}");
    file.write_all_at(b"later", 2 << 20).unwrap();
    assert!(seek(&file, Data(1 << 20)).unwrap() <= 2 << 20);

    let allocate = |file: &File, flags, offset, len| {
        rustix::fs::fallocate(file, flags, offset, len).map_err(std::io::Error::from)
    };
    let f = view.at("f");
    fs::write(&f, pattern(20_000)).unwrap();
    let file = open_rw(&f);
    let mut expected = pattern(20_000);
    let keep = FallocateFlags::KEEP_SIZE;
    allocate(&file, keep, 10_000, 50_000).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 20_000);
    allocate(&file, FallocateFlags::empty(), 10_000, 20_000).unwrap();
    expected.resize(30_000, 0);
    assert_eq!(fs::read(&f).unwrap(), expected);
    allocate(&file, FallocateFlags::PUNCH_HOLE | keep, 100, 9000).unwrap();
    expected[100..9100].fill(0);
    assert_eq!(fs::read(&f).unwrap(), expected);
    allocate(&file, FallocateFlags::ZERO_RANGE, 15_000, 20_000).unwrap();
    expected[15_000..].fill(0);
    expected.resize(35_000, 0);
    assert_eq!(fs::read(&f).unwrap(), expected);
    let refused = errno(allocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096));
    assert_eq!(refused, libc::EOPNOTSUPP);
}

#[test]
fn copy_file_range_copies_between_layers() {
    let content = pattern(300_000);
    let Some(view) = memory_view(&base_with(&content)) else {
        return;
    };
    let (from, to) = (
        File::open(view.at("f")).unwrap(),
        File::create(view.at("t")).unwrap(),
    );
    let (mut at, mut put) = (1000, 5);
    let mut left = 290_000;
    while left > 0 {
        let copied =
            rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut put), left).unwrap();
        assert!(copied > 0);
        left -= copied;
    }
    let copy = fs::read(view.at("t")).unwrap();
    assert_eq!(copy[..5], [0; 5]);
    assert!(copy[5..] == content[1000..291_000]);
}

/// What a program is shown as the time of a change is what is stored, however
/// soon one change follows another.
#[test]
fn stored_times_are_those_that_were_shown() {
    use std::os::unix::fs::MetadataExt;
    let Some(view) = memory_view(&base_with(b"")) else {
        return;
    };
    for round in 0..200 {
        let path = view.at(&format!("t{round}"));
        fs::write(&path, pattern(10_000)).unwrap();
        for _ in 0..2 {
            let file = File::options().write(true).open(&path).unwrap();
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, 20_000 + round).unwrap();
            let source = File::open(&path).unwrap();
            let copy = File::create(view.at("copy")).unwrap();
            rustix::fs::copy_file_range(&source, Some(&mut 0), &copy, Some(&mut 0), 100).unwrap();
        }
        for path in [path, view.at("copy")] {
            let shown = fs::metadata(&path).unwrap();
            let stored = view
                .overlay
                .getattr(agentfs_core::Ino(shown.ino()))
                .unwrap();
            let shown = (shown.mtime(), u32::try_from(shown.mtime_nsec()).unwrap());
            assert_eq!((stored.mtime.secs, stored.mtime.nanos), shown, "{round}");
        }
    }
}

#[test]
fn large_files_and_large_offsets() {
    let Some(view) = memory_view(&base_with(b"")) else {
        return;
    };
    let big = view.at("big");
    let content = pattern(5 << 20);
    fs::write(&big, &content).unwrap();
    assert!(fs::read(&big).unwrap() == content);
    let file = open_rw(&big);
    file.write_all_at(b"far", 6 << 30).unwrap();
    assert_eq!(file.metadata().unwrap().size(), (6 << 30) + 3);
    let mut seen = [1; 8];
    assert_eq!(file.read_at(&mut seen, (6 << 30) - 2).unwrap(), 5);
    assert_eq!(&seen[..5], b"\0\0far");
}

#[test]
fn unlinked_but_open_base_file() {
    let Some(view) = host_view(|base| fs::write(base.join("f"), "from below").unwrap()) else {
        return;
    };
    let mut file = open_rw(&view.at("f"));
    fs::remove_file(view.at("f")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from below");
    file.write_all(b" and above").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    fs::write(view.at("f"), "another").unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from below and above");
    assert_eq!(fs::read(view.base.path().join("f")).unwrap(), b"from below");
}

/// The kernel keeps them; what it sends of them is stored nowhere.
#[test]
fn times_of_an_unlinked_file_show_to_who_has_it_open() {
    let Some(view) = host_view(|base| fs::write(base.join("f"), "from below").unwrap()) else {
        return;
    };
    fs::write(view.at("new"), "from above").unwrap();
    for name in ["f", "new"] {
        let mut file = open_rw(&view.at(name));
        fs::remove_file(view.at(name)).unwrap();
        let removed = file.metadata().unwrap();
        let modified_alone = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: 5,
                tv_nsec: 7,
            },
        };
        rustix::fs::futimens(&file, &modified_alone).unwrap();
        file.sync_all().unwrap();
        let told = file.metadata().unwrap();
        assert_eq!((told.mtime(), told.mtime_nsec()), (5, 7), "{name}");
        assert!(told.ctime() >= removed.ctime(), "{name}");
        // All else is stored as ever.
        file.set_permissions(fs::Permissions::from_mode(0o601))
            .unwrap();
        file.write_all(b"F").unwrap();
        file.sync_all().unwrap();
        let told = file.metadata().unwrap();
        assert_eq!((told.mode() & 0o7777, told.nlink()), (0o601, 0), "{name}");
        assert!(told.mtime() > 5, "{name}");
    }
}

/// What the kernel leaves to us under `HANDLE_KILLPRIV_V2`.
#[test]
fn a_write_without_privilege_takes_set_id_bits() {
    let Some(view) = memory_view(&base_with(b"content")) else {
        return;
    };
    fs::set_permissions(&*view, fs::Permissions::from_mode(0o777)).unwrap();
    for (command, left) in [
        ("printf x >> suid", 0o777),
        (": > suid", 0o777),
        ("truncate -s 3 suid", 0o777),
        ("cat suid", 0o6777),
    ] {
        let suid = view.at("suid");
        fs::write(&suid, "content").unwrap();
        fs::set_permissions(&suid, fs::Permissions::from_mode(0o6777)).unwrap();
        let status = std::process::Command::new("sh")
            .args(["-c", command])
            .current_dir(&*view)
            .stdout(std::process::Stdio::null())
            .uid(65534)
            .gid(65534)
            .status();
        assert!(status.unwrap().success(), "{command}");
        assert_eq!(
            fs::metadata(&suid).unwrap().mode() & 0o7777,
            left,
            "{command}"
        );
    }
}
