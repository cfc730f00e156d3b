//! Extended attributes of the base.
//!
//! Goes through `/proc/self/fd/N/NAME` with the calls that do not follow a last
//! symbolic link: no file has to be opened for it, and N cannot be replaced.

use std::os::fd::{AsRawFd, BorrowedFd};

use agentfs_core::Name;
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

/// The limits of Linux (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`), in bytes.
const LIST_MAX_BYTES: usize = 64 * 1024;
const VALUE_MAX_BYTES: usize = 64 * 1024;
/// Most values are small.
const VALUE_FIRST_BYTES: usize = 256;

/// Labels of Linux security modules: they belong to the host's own policy and
/// mean nothing on our file system.
const HOST_LABELS: [&[u8]; 5] = [
    b"security.selinux",
    b"security.apparmor",
    b"security.ima",
    b"security.evm",
    b"security.SMACK64",
];

/// Name and value.
type Attribute = (Vec<u8>, Vec<u8>);

/// All attributes that show in the view, of `name` in `dir`, or of `dir`.
pub(crate) fn all(dir: BorrowedFd<'_>, name: Option<&Name>) -> Result<Vec<Attribute>, Errno> {
    let path = path(dir, name);
    let list = match sized(LIST_MAX_BYTES, |buffer| llistxattr(&path, buffer)) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        list => list?,
    };
    let mut found = Vec::new();
    for attribute in list
        .split(|&b| b == 0)
        .filter(|attribute| is_shown(attribute))
    {
        match value(&path, attribute) {
            Ok(value) => found.push((attribute.to_vec(), value)),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// One attribute of `name` in `dir`, or of `dir`.
pub(crate) fn one(
    dir: BorrowedFd<'_>,
    name: Option<&Name>,
    attribute: &[u8],
) -> Result<Option<Vec<u8>>, Errno> {
    if !is_shown(attribute) {
        return Ok(None);
    }
    match value(&path(dir, name), attribute) {
        Ok(value) => Ok(Some(value)),
        // EPERM: user.* on a symbolic link or a special file.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn is_shown(attribute: &[u8]) -> bool {
    attribute.starts_with(b"user.")
        || (attribute.starts_with(b"security.")
            && !HOST_LABELS.iter().any(|label| attribute.starts_with(label)))
}

fn value(path: &[u8], attribute: &[u8]) -> Result<Vec<u8>, Errno> {
    sized(VALUE_MAX_BYTES, |buffer| lgetxattr(path, attribute, buffer))
}

/// Tries a small buffer first, then the largest that can be needed.
fn sized(
    max_bytes: usize,
    get: impl Fn(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; VALUE_FIRST_BYTES];
    let len = match get(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(max_bytes, 0);
            get(&mut buffer)?
        }
        len => len?,
    };
    buffer.truncate(len);
    Ok(buffer)
}

fn path(dir: BorrowedFd<'_>, name: Option<&Name>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.map_or(b".", Name::as_bytes));
    path
}
