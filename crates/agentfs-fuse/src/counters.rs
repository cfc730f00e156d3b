//! Counts requests by kind: what an operation costs is first of all the number
//! of requests it takes. Must stay cheap enough to be always on.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! operations {
    ($($opcode:literal $variant:ident $name:literal),* $(,)?) => {
        /// A kind of request the kernel makes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // Their names are those of the FUSE protocol.
        pub enum Operation { $($variant),* }

        impl Operation {
            const NAMES: &'static [&'static str] = &[$($name),*];
            const ALL: &'static [Operation] = &[$(Operation::$variant),*];

            /// What a number in a request means (`enum fuse_opcode`); `None` for what
            /// is not answered.
            pub(crate) fn from_opcode(opcode: u32) -> Option<Self> {
                match opcode {
                    $($opcode => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

operations! {
    1 Lookup "LOOKUP", 2 Forget "FORGET", 42 BatchForget "BATCH_FORGET",
    3 Getattr "GETATTR", 4 Setattr "SETATTR", 5 Readlink "READLINK", 8 Mknod "MKNOD",
    9 Mkdir "MKDIR", 10 Unlink "UNLINK", 11 Rmdir "RMDIR", 6 Symlink "SYMLINK",
    12 Rename "RENAME", 45 Rename2 "RENAME2", 13 Link "LINK", 14 Open "OPEN",
    15 Read "READ", 16 Write "WRITE", 25 Flush "FLUSH", 18 Release "RELEASE",
    20 Fsync "FSYNC", 27 Opendir "OPENDIR", 28 Readdir "READDIR",
    44 Readdirplus "READDIRPLUS", 29 Releasedir "RELEASEDIR", 30 Fsyncdir "FSYNCDIR",
    17 Statfs "STATFS", 21 Setxattr "SETXATTR", 22 Getxattr "GETXATTR",
    23 Listxattr "LISTXATTR", 24 Removexattr "REMOVEXATTR", 34 Access "ACCESS",
    35 Create "CREATE", 39 Ioctl "IOCTL", 43 Fallocate "FALLOCATE", 46 Lseek "LSEEK",
    47 CopyFileRange "COPY_FILE_RANGE", 51 Tmpfile "TMPFILE",
    38 Destroy "DESTROY",
}

impl Operation {
    /// The name in the FUSE protocol, without its prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// How many requests of each kind have come in.
#[derive(Debug)]
pub struct Counters([AtomicU64; Operation::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    pub(crate) fn count(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests of one kind so far.
    #[must_use]
    pub fn get(&self, operation: Operation) -> u64 {
        self.0[operation as usize].load(Ordering::Relaxed)
    }

    /// All requests so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        Operation::ALL
            .iter()
            .map(|&operation| self.get(operation))
            .sum()
    }

    /// Starts counting from zero.
    pub fn reset(&self) {
        for counter in &self.0 {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// `LOOKUP 3, MKNOD 1`: the kinds that occurred, in the protocol's order.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for &operation in Operation::ALL {
            let count = self.get(operation);
            if count > 0 {
                write!(f, "{separator}{} {count}", operation.name())?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_kind_and_starts_anew() {
        let counters = Counters::default();
        counters.count(Operation::CopyFileRange);
        counters.count(Operation::Lookup);
        counters.count(Operation::Lookup);
        assert_eq!(counters.to_string(), "LOOKUP 2, COPY_FILE_RANGE 1");
        assert_eq!(counters.total(), 3);
        counters.reset();
        assert_eq!(counters.to_string(), "");
    }
}
