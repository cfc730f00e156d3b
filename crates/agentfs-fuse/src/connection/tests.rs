//! A server without a kernel: what is said at the other end of its device.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::lower::MemoryLower;
use agentfs_core::storage::MemoryStorage;
use agentfs_core::types::{Clock, Timestamp};
use agentfs_core::{Overlay, OverlayConfig, Owner};
use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::counters::{Counters, Operation};
use crate::interest::{Directories, Unchanging};
use crate::mount::FuseConfig;
use crate::notify::{self, Abilities};
use crate::protocol::request_bytes;

const INIT: u32 = 26;
const GETATTR: u32 = 3;

struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::new(0, 0)
    }
}

/// The kernel's end of a device: a message is a request or an answer.
struct Kernel {
    socket: OwnedFd,
    fs: AgentFs<MemoryStorage, MemoryLower>,
    device: Arc<Device>,
}

impl Kernel {
    fn new() -> Self {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::empty());
        let (socket, device) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let base = MemoryLower::new();
        base.file("f", 0o644, "content").unwrap();
        base.dir("d", 0o755).unwrap();
        let config = OverlayConfig {
            clock: Arc::new(Epoch),
            hidden: Vec::new(),
            root_owner: Owner::default(),
        };
        let overlay = Overlay::open(MemoryStorage::new(4096), base, config).unwrap();
        let interest = Arc::new(Unchanging);
        let (notifier, _) = notify::pair();
        let config = FuseConfig {
            writeback: false,
            ..FuseConfig::new(Arc::<Unchanging>::clone(&interest))
        };
        let fs = AgentFs::new(
            Arc::new(overlay),
            Arc::new(Directories::new(interest, Duration::from_secs(1))),
            Arc::new(Counters::default()),
            notifier,
            Arc::new(Abilities::default()),
            config,
        );
        Self {
            socket,
            fs,
            device: Arc::new(Device::new(device)),
        }
    }

    fn ask(&self, unique: u64, opcode: u32, ino: u64, arguments: &[u8]) {
        let request = request_bytes(unique, opcode, ino, arguments);
        rustix::io::write(&self.socket, &request).unwrap();
    }

    /// Has the server answer what has been asked.
    fn serve(&self) {
        let mut memory = RequestMemory::new();
        let request = next_request(&self.device, &mut memory).unwrap().unwrap();
        self.fs.answer(&request, &self.device, &mut Answer::new());
    }

    /// The next answer: the request that it names, its error and its body.
    fn answered(&self) -> (u64, i32, Vec<u8>) {
        let mut bytes = vec![0; 2 << 20];
        let len = rustix::io::read(&self.socket, &mut bytes).unwrap();
        let number = |at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!(number(0) as usize, len, "the length it says");
        let unique = u64::from_ne_bytes(*bytes[8..].first_chunk().unwrap());
        (unique, -number(4).cast_signed(), bytes[16..len].to_vec())
    }
}

fn init(major: u32, minor: u32) -> Vec<u8> {
    let flags: u32 = 1 << 17 | 1 << 24;
    [major, minor, 131_072, flags, 0]
        .map(u32::to_ne_bytes)
        .concat()
}

#[test]
fn what_is_offered_is_agreed_on() {
    let mut kernel = Kernel::new();
    kernel.ask(1, INIT, 0, &init(7, 45));
    agree(&mut kernel.fs, &kernel.device).unwrap();
    let (unique, errno, body) = kernel.answered();
    assert_eq!((unique, errno, body.len()), (1, 0, 64));
    let number = |at: usize| u32::from_ne_bytes(*body[at..].first_chunk().unwrap());
    assert_eq!((number(0), number(8)), (7, 131_072));
    assert_eq!(number(12), 1 << 17 | 1 << 24, "nothing that is not offered");
}

#[test]
fn a_kernel_of_another_major_offers_again() {
    let mut kernel = Kernel::new();
    kernel.ask(1, INIT, 0, &init(8, 0));
    kernel.ask(2, INIT, 0, &init(7, 40));
    agree(&mut kernel.fs, &kernel.device).unwrap();
    let (unique, errno, body) = kernel.answered();
    assert_eq!((unique, errno), (1, 0));
    assert_eq!(body[..4], 7_u32.to_ne_bytes());
    assert_eq!(kernel.answered().0, 2);
}

#[test]
fn an_old_kernel_and_a_wrong_beginning_are_refused() {
    for (opcode, body, refusal) in [
        (INIT, init(7, 30), libc::EPROTO),
        (INIT, vec![7], libc::EIO),
        (GETATTR, vec![0; 16], libc::EIO),
    ] {
        let mut kernel = Kernel::new();
        kernel.ask(1, opcode, 1, &body);
        let error = agree(&mut kernel.fs, &kernel.device).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(refusal));
        assert_eq!(kernel.answered(), (1, refusal, vec![]));
    }
}

#[test]
fn what_is_dropped_is_answered() {
    let kernel = Kernel::new();
    drop(crate::protocol::Later::new(&kernel.device, 5));
    assert_eq!(kernel.answered(), (5, libc::EIO, vec![]));
    crate::protocol::Later::new(&kernel.device, 6).offset(Ok(7));
    assert_eq!(kernel.answered(), (6, 0, 7_u64.to_ne_bytes().to_vec()));
}

/// Arguments that mean something now and then: numbers, then strings.
fn arguments() -> impl Strategy<Value = Vec<u8>> {
    let number = prop::sample::select(vec![0, 1, 2, 3, 8, 4096, 1 << 20, 1 << 63, u64::MAX]);
    let numbers = prop::collection::vec(number, 0..8);
    let text = prop::sample::select(vec!["", "f", "d", "new", "user.a", "..", "a/b"]);
    let texts = prop::collection::vec(text, 0..3);
    (numbers, texts, any::<bool>()).prop_map(|(numbers, texts, ends)| {
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_ne_bytes).collect();
        bytes.extend_from_slice(texts.join("\0").as_bytes());
        bytes.extend(ends.then_some(0));
        bytes
    })
}

proptest! {
    /// Whatever comes, it is answered once, or not at all where the kernel waits for
    /// none, and what comes next is answered as ever.
    #[test]
    fn each_request_has_one_answer(
        asked in prop::collection::vec((0_u32..60, 0_u64..4, arguments()), 1..20),
    ) {
        let kernel = Kernel::new();
        for (unique, (opcode, ino, arguments)) in (1..).zip(asked) {
            kernel.ask(unique, opcode, ino, &arguments);
            kernel.serve();
            kernel.ask(0, GETATTR, 1, &[0; 16]);
            kernel.serve();
            let waits_for_none = matches!(
                Operation::from_opcode(opcode),
                Some(Operation::Forget | Operation::BatchForget)
            );
            let mut answers = HashSet::new();
            loop {
                let (of, errno, body) = kernel.answered();
                prop_assert!(errno == 0 || body.is_empty());
                if of == 0 {
                    prop_assert_eq!((errno, body.len()), (0, 104));
                    break;
                }
                prop_assert_eq!(of, unique);
                prop_assert!(answers.insert(of), "twice");
            }
            prop_assert!(waits_for_none || answers.len() == 1, "never");
        }
    }
}
