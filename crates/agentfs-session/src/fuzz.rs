//! For the fuzz target of the protocol: what a peer that says anything at all
//! brings about. No part of the interface of this crate.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::{
    Channel, HolderReply, HolderRequest, Reply, Request, StartConfig, StartReply,
};

/// More than a socket takes without a reader is not sent.
const SENT_MAX_BYTES: usize = 64 << 10;

/// Says `bytes` to each side of each conversation and listens to the end; what
/// was understood is said and understood again.
///
/// # Panics
/// When a message does not survive that, or a descriptor arrives unasked.
pub fn conversation(bytes: &[u8]) {
    let bytes = bytes.get(..SENT_MAX_BYTES).unwrap_or(bytes);
    listen::<Request>(bytes);
    listen::<Reply>(bytes);
    listen::<HolderRequest>(bytes);
    listen::<HolderReply>(bytes);
    listen::<StartConfig>(bytes);
    listen::<StartReply>(bytes);
}

fn listen<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Some((peer, ours)) = pair() else { return };
    // In two pieces: a message need not come at once.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut channel = Channel::new(ours, false);
    send(&peer, first);
    let mut understood = Vec::new();
    while let Ok(Some(message)) = channel.try_receive::<T>() {
        understood.push(message);
    }
    send(&peer, second);
    // It fails on a socket that has ended already, which is as good.
    let _ = shutdown(&peer, Shutdown::Write);
    while let Ok(message) = channel.receive::<T>() {
        understood.push(message);
    }
    assert!(channel.take_fds().is_empty(), "a descriptor was taken");
    for message in understood {
        repeat(&message);
    }
}

/// What is sent is received, and is the same.
fn repeat<T: Serialize + DeserializeOwned>(message: &T) {
    let Some((a, b)) = pair() else { return };
    let (from, mut to) = (Channel::new(a, false), Channel::new(b, false));
    let Ok(()) = from.send(message, &[]) else {
        return;
    };
    let again = to.receive::<T>().ok();
    let text = |message: &T| serde_json::to_string(message).ok();
    assert_eq!(
        again.as_ref().and_then(text),
        text(message),
        "a message changes on its way"
    );
}

fn send(peer: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(peer.as_fd(), bytes) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(_) => return,
        }
    }
}

fn pair() -> Option<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()
}
