//! The bytes of files.

use agentfs_core::lower::MemoryLower;
use agentfs_core::overlay::{Fallocate, SeekWhence, SetAttr, Times};
use agentfs_core::types::FILE_MAX_BYTES;

use super::project;
use super::view::View;

#[test]
fn files_over_4_gib() {
    const FAR: u64 = 5 << 30;
    let base = MemoryLower::new();
    base.sparse_file("big", 0o644, FAR).unwrap();
    base.write_at("big", FAR - 4, "tail").unwrap();
    let view = View::over(&base);
    let ino = view.ino("big");
    assert_eq!(view.overlay.read(ino, FAR - 4, 99).unwrap(), b"tail");
    view.write("big", FAR + 10, b"more");
    view.write("big", (4 << 30) - 1, b"ab");
    assert_eq!(view.attr("big").size, FAR + 14);
    assert_eq!(
        view.overlay.read(ino, FAR - 4, 99).unwrap(),
        b"tail\0\0\0\0\0\0\0\0\0\0more"
    );
    assert_eq!(view.overlay.read(ino, (4 << 30) - 2, 4).unwrap(), b"\0ab\0");
}

#[test]
fn holes_read_as_zeros() {
    let view = View::over(&project());
    view.create("sparse");
    view.write("sparse", 1 << 20, b"data");
    let ino = view.ino("sparse");
    assert_eq!(view.overlay.read(ino, 4096, 8).unwrap(), [0; 8]);
    let seek = |offset, whence| {
        view.overlay
            .lseek(ino, offset, whence)
            .map_err(|e| e.errno())
    };
    assert_eq!(seek(0, SeekWhence::Hole), Ok(0));
    let data = seek(0, SeekWhence::Data).unwrap();
    assert!(data > 0 && data <= 1 << 20, "{data}");
    assert_eq!(seek(1 << 20, SeekWhence::Hole), Ok((1 << 20) + 4));
    assert_eq!(seek((1 << 20) + 4, SeekWhence::Data), Err(libc::ENXIO));
    assert_eq!(seek((1 << 20) + 4, SeekWhence::Hole), Err(libc::ENXIO));
    // Shrunk and grown again, the old bytes do not come back.
    let set = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    view.set("README", &set(3));
    view.set("README", &set(6));
    assert_eq!(view.read("README"), b"rea\0\0\0");
}

#[test]
fn fallocate_modes() {
    let base = project();
    base.file("data", 0o644, vec![7; 20_000]).unwrap();
    let view = View::over(&base);
    let ino = view.ino("data");
    let before = view.attr("data");
    view.overlay
        .fallocate(ino, Fallocate::KeepSize, 0, 1 << 30, Times::Now)
        .unwrap();
    assert_eq!(
        view.attr("data"),
        before,
        "keeping the size changes nothing that can be seen"
    );
    view.overlay
        .fallocate(ino, Fallocate::PunchHole, 100, 10_000, Times::Now)
        .unwrap();
    let mut expected = vec![7; 20_000];
    expected[100..10_100].fill(0);
    assert_eq!(view.read("data"), expected);
    view.overlay
        .fallocate(
            ino,
            Fallocate::ZeroRange { keep_size: true },
            19_990,
            100,
            Times::Now,
        )
        .unwrap();
    expected[19_990..].fill(0);
    assert_eq!(view.read("data"), expected);
    view.overlay
        .fallocate(
            ino,
            Fallocate::ZeroRange { keep_size: false },
            19_990,
            100,
            Times::Now,
        )
        .unwrap();
    view.overlay
        .fallocate(ino, Fallocate::Allocate, 0, 20_100, Times::Now)
        .unwrap();
    expected.resize(20_100, 0);
    assert_eq!(view.read("data"), expected);
    let refused = view
        .overlay
        .fallocate(ino, Fallocate::Allocate, 5, 0, Times::Now)
        .unwrap_err();
    assert_eq!(refused.errno(), libc::EINVAL);
}

#[test]
fn copying_a_range() {
    let view = View::over(&project());
    view.create("copy");
    let (from, to) = (view.ino("README"), view.ino("copy"));
    let copied = view
        .overlay
        .copy_file_range(from, 5, to, 2, 100, Times::Now)
        .unwrap();
    assert_eq!((copied, view.read("copy")), (3, b"\0\0me\n".to_vec()));
    assert_eq!(
        view.overlay
            .copy_file_range(from, 8, to, 0, 100, Times::Now)
            .unwrap(),
        0
    );
    let refused = view
        .overlay
        .copy_file_range(from, 0, from, 2, 5, Times::Now)
        .unwrap_err();
    assert_eq!(refused.errno(), libc::EINVAL);
}

#[test]
fn a_file_has_at_most_2_63_bytes() {
    let view = View::over(&project());
    let ino = view.create("edge");
    let refused = view
        .overlay
        .write(ino, FILE_MAX_BYTES, b"x", false)
        .unwrap_err();
    assert_eq!(refused.errno(), libc::EFBIG);
    let set = SetAttr {
        size: Some(FILE_MAX_BYTES + 1),
        ..SetAttr::default()
    };
    assert_eq!(
        view.overlay.setattr(ino, &set).unwrap_err().errno(),
        libc::EFBIG
    );
    view.write("edge", FILE_MAX_BYTES - 1, b"x");
    assert_eq!(
        view.overlay.read(ino, FILE_MAX_BYTES - 2, 9).unwrap(),
        b"\0x"
    );
}
