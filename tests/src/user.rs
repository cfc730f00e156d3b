//! Who runs a test's programs: the current user, or an ordinary one beside root.
//!
//! Running the tests as root may add the user `agentfs-test` and open
//! `/dev/fuse` to everyone (as distributions ship it); nothing else on the
//! machine is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::child::Run;

/// The name of the ordinary user that root makes.
pub const ORDINARY_USER: &str = "agentfs-test";

/// A user to run programs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Root; only where the tests themselves run as root.
    Root,
    /// An ordinary user: `agentfs-test` where the tests run as root, else the
    /// user who runs them.
    Ordinary,
}

/// The ids of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Who {
    /// Whoever runs the tests.
    #[must_use]
    pub fn current() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else {
            Self::Ordinary
        }
    }

    /// The account behind it, made on first use; an error says what is missing.
    ///
    /// # Errors
    /// A sentence for [`crate::skip!`].
    pub fn account(self) -> Result<Account, String> {
        match (self, rustix::process::geteuid().is_root()) {
            (Self::Root, true) => Ok(Account {
                name: "root".into(),
                uid: 0,
                gid: 0,
            }),
            (Self::Root, false) => Err("the tests do not run as root".into()),
            (Self::Ordinary, true) => {
                static MADE: OnceLock<Result<Account, String>> = OnceLock::new();
                MADE.get_or_init(make_ordinary_user).clone()
            }
            (Self::Ordinary, false) => Ok(Account {
                name: std::env::var("USER").unwrap_or_else(|_| "user".into()),
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
            }),
        }
    }
}

fn make_ordinary_user() -> Result<Account, String> {
    open_fuse_to_all()?;
    if find(ORDINARY_USER).is_none() {
        let useradd = Run::new("useradd")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["--create-home", "--shell", "/bin/sh", ORDINARY_USER])
            .finish();
        // Another test process may have been quicker.
        if useradd.code() != 0 && find(ORDINARY_USER).is_none() {
            return Err(format!("no second user can be made: {}", useradd.err()));
        }
    }
    find(ORDINARY_USER).ok_or_else(|| format!("no user {ORDINARY_USER}"))
}

/// Distributions ship `/dev/fuse` open to all; a container may not.
fn open_fuse_to_all() -> Result<(), String> {
    let fuse = Path::new("/dev/fuse");
    let mode = fs::metadata(fuse)
        .map_err(|e| format!("no /dev/fuse: {e}"))?
        .permissions()
        .mode();
    if mode & 0o666 != 0o666 {
        fs::set_permissions(fuse, fs::Permissions::from_mode(0o666))
            .map_err(|e| format!("/dev/fuse cannot be opened to ordinary users: {e}"))?;
    }
    Ok(())
}

fn find(name: &str) -> Option<Account> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let fields = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields
        .into_iter()
        .find(|fields| fields.first() == Some(&name))?;
    Some(Account {
        name: name.to_owned(),
        uid: found.get(2)?.parse().ok()?,
        gid: found.get(3)?.parse().ok()?,
    })
}

/// The Rust toolchain of this machine at a place everybody can read: root's own
/// lies under a home directory that nobody else may enter.
///
/// # Errors
/// A sentence for [`crate::skip!`].
pub fn public_toolchain() -> Result<&'static Path, String> {
    static TOOLCHAIN: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    TOOLCHAIN
        .get_or_init(|| {
            let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let sysroot = std::process::Command::new(rustc)
                .args(["--print", "sysroot"])
                .current_dir(crate::agentfs::workspace_root())
                .output()
                .map_err(|e| format!("rustc does not run: {e}"))?;
            let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
            if !rustix::process::geteuid().is_root() {
                return Ok(sysroot);
            }
            let version = sysroot.file_name().ok_or("rustc names no sysroot")?;
            let public = crate::world::scratch_root().join("toolchain").join(version);
            if !public.join("bin/cargo").exists() {
                share(&sysroot, &public)?;
            }
            Ok(public)
        })
        .as_deref()
        .map_err(Clone::clone)
}

/// Hard links where possible, a copy where not; in place at once.
fn share(sysroot: &Path, public: &Path) -> Result<(), String> {
    let staging = public.with_extension(std::process::id().to_string());
    fs::create_dir_all(&staging).map_err(|e| format!("{}: {e}", staging.display()))?;
    for part in ["bin", "lib"] {
        let copy = |how: &str| {
            Run::new("cp")
                .env("PATH", "/usr/bin:/bin")
                .arg(how)
                .arg(sysroot.join(part))
                .arg(&staging)
                .finish()
                .code()
        };
        if copy("-al") != 0 && copy("-a") != 0 {
            return Err(format!("{} cannot be copied", sysroot.display()));
        }
    }
    match fs::rename(&staging, public) {
        Ok(()) => Ok(()),
        // Another test process was quicker.
        Err(_) if public.join("bin/cargo").exists() => {
            fs::remove_dir_all(&staging).map_err(|e| format!("{}: {e}", staging.display()))
        }
        Err(e) => Err(format!("{}: {e}", public.display())),
    }
}
