//! Owners that a mount's user namespace does not know.
//!
//! A mount made by an ordinary user knows one user and one group. The kernel
//! refuses to write to, rename or remove a file of any other (EACCES, EOVERFLOW),
//! though the base, on the host, lets the user do so in a directory of theirs.
//! So such a file is shown as the user's own, with the access that the user
//! really has as the owner's. Only what is shown changes: the overlay keeps
//! the true owner.

use agentfs_core::Attr;

/// The ids that the user namespace of a mount knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownIds {
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// All groups the user is in.
    pub groups: Vec<u32>,
}

impl KnownIds {
    /// Replaces owner and group where they are not known.
    pub(crate) fn apply(&self, attr: &mut Attr) {
        if attr.uid != self.uid {
            let in_group = attr.gid == self.gid || self.groups.contains(&attr.gid);
            let really = if in_group { attr.perm >> 3 } else { attr.perm } & 0o7;
            // A foreign set-user-ID bit would now mean the user.
            attr.perm = (attr.perm & !0o4700) | (really << 6);
            attr.uid = self.uid;
        }
        attr.gid = self.gid;
    }
}

#[cfg(test)]
mod tests {
    use agentfs_core::{FileKind, Ino, Timestamp};

    use super::*;

    fn check(uid: u32, gid: u32, perm: u16, expected: (u32, u32, u16)) {
        let ids = KnownIds {
            uid: 1000,
            gid: 1000,
            groups: vec![27, 1000],
        };
        let time = Timestamp::default();
        let mut shown = Attr {
            ino: Ino(5),
            kind: FileKind::Regular,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
        };
        ids.apply(&mut shown);
        assert_eq!(
            (shown.uid, shown.gid, shown.perm),
            expected,
            "{uid}:{gid} {perm:o}"
        );
    }

    #[test]
    fn foreign_owners_become_the_user_with_the_access_the_user_has() {
        check(1000, 1000, 0o755, (1000, 1000, 0o755));
        check(1000, 27, 0o640, (1000, 1000, 0o640));
        check(0, 0, 0o755, (1000, 1000, 0o555));
        check(0, 0, 0o600, (1000, 1000, 0o000));
        check(0, 27, 0o664, (1000, 1000, 0o664));
        check(0, 1000, 0o4750, (1000, 1000, 0o550));
    }
}
