//! An operation whose targets are decided: objects of the model.

use agentfs_core::overlay::{Fallocate, NewNode, RenameMode, SetAttr, XattrMode};
use agentfs_core::types::{Name, Owner};

use crate::model::NodeId;

/// One operation on objects of the model.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the operation of that name"
)]
pub enum Action {
    Mknod {
        dir: NodeId,
        name: Name,
        node: NewNode,
        owner: Owner,
    },
    Mkdir {
        dir: NodeId,
        name: Name,
        perm: u16,
        owner: Owner,
    },
    Symlink {
        dir: NodeId,
        name: Name,
        target: Vec<u8>,
        owner: Owner,
    },
    Tmpfile {
        dir: NodeId,
        perm: u16,
        owner: Owner,
    },
    Link {
        node: NodeId,
        dir: NodeId,
        name: Name,
    },
    Unlink {
        dir: NodeId,
        name: Name,
    },
    Rmdir {
        dir: NodeId,
        name: Name,
    },
    Rename {
        dir: NodeId,
        name: Name,
        new_dir: NodeId,
        new_name: Name,
        mode: RenameMode,
    },
    SetAttr {
        node: NodeId,
        set: SetAttr,
    },
    Read {
        node: NodeId,
        offset: u64,
        len: usize,
    },
    Write {
        node: NodeId,
        offset: u64,
        data: Vec<u8>,
        kill_suid_sgid: bool,
    },
    Fallocate {
        node: NodeId,
        mode: Fallocate,
        offset: u64,
        len: u64,
    },
    CopyRange {
        from: NodeId,
        from_offset: u64,
        to: NodeId,
        to_offset: u64,
        len: u64,
    },
    SetXattr {
        node: NodeId,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
    },
    RemoveXattr {
        node: NodeId,
        name: Vec<u8>,
    },
    Hold {
        node: NodeId,
    },
    Release {
        handle: usize,
    },
    Fsync {
        node: NodeId,
    },
    StreamOpen {
        dir: NodeId,
    },
    StreamStep {
        stream: usize,
        entries: usize,
    },
    ForgetAll,
    Invalidate {
        dir: NodeId,
    },
    Reopen,
}

impl Action {
    /// Whether a success of it changes nothing that is stored.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(
            self,
            Action::Read { .. }
                | Action::Hold { .. }
                | Action::StreamOpen { .. }
                | Action::StreamStep { .. }
                | Action::Invalidate { .. }
        )
    }

    /// Whether it changes names and attributes only, never content.
    #[must_use]
    pub fn is_namespace_only(&self) -> bool {
        match self {
            Action::SetAttr { set, .. } => set.size.is_none(),
            Action::Link { .. }
            | Action::Unlink { .. }
            | Action::Rmdir { .. }
            | Action::Rename { .. }
            | Action::SetXattr { .. }
            | Action::RemoveXattr { .. }
            | Action::Mkdir { .. }
            | Action::Mknod { .. }
            | Action::Symlink { .. }
            | Action::Tmpfile { .. } => true,
            other => other.is_read_only(),
        }
    }
}
