//! The environment of programs inside: what tells them where they are, and
//! without what would lead them to sockets that are not there.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::protocol::{Inside, Place, PlaceKind};
use crate::request::SessionName;

/// Variables that name a socket by path; kept when the path is writable inside
/// (given by `--allow`).
const SOCKETS: [&str; 4] = [
    "SSH_AUTH_SOCK",
    "GPG_AGENT_INFO",
    "NVIM",
    "VSCODE_IPC_HOOK_CLI",
];
/// Variables that lead to the desktop, the bus or a multiplexer outside.
const FOREIGN: [&str; 9] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "SESSION_MANAGER",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "SSH_TTY",
];
/// Variables that name a directory for temporary files.
const TEMPORARY: [&str; 3] = ["TMPDIR", "TMP", "TEMP"];

/// The changes for a command of this session; `None` removes a variable.
pub(crate) fn changes(session: &SessionName, inside: &Inside) -> Vec<(OsString, Option<OsString>)> {
    let mut changes: Vec<(OsString, Option<OsString>)> = vec![
        ("AGENTFS".into(), Some("1".into())),
        ("AGENTFS_SANDBOX".into(), Some("linux-namespace".into())),
        ("AGENTFS_SESSION".into(), Some(session.as_str().into())),
    ];
    let reachable = |path: &Path| inside.places.iter().any(|place| within(path, place));
    for name in FOREIGN {
        changes.push((name.into(), None));
    }
    // What is private to the session has none of the sockets outside.
    let allowed = |path: &Path| {
        let mut real = inside
            .places
            .iter()
            .filter(|place| place.kind == PlaceKind::Real);
        real.any(|place| within(path, place))
    };
    for name in SOCKETS {
        if env::var_os(name).is_some_and(|path| !allowed(Path::new(&path))) {
            changes.push((name.into(), None));
        }
    }
    for name in TEMPORARY {
        if env::var_os(name).is_some_and(|path| {
            !reachable(Path::new(&path)) || !under_shared_temp(Path::new(&path))
        }) {
            changes.push((name.into(), Some("/tmp".into())));
        }
    }
    if let Some(display) = env::var_os("DISPLAY")
        && display.to_string_lossy().starts_with([':', 'u'])
    {
        changes.push(("DISPLAY".into(), None));
    }
    if env::var_os("XDG_RUNTIME_DIR").is_some() {
        let own = format!("/run/user/{}", rustix::process::geteuid().as_raw());
        changes.push(("XDG_RUNTIME_DIR".into(), Some(own.into())));
    }
    if let (Some(_), Some(tty)) = (env::var_os("GPG_TTY"), &inside.tty) {
        changes.push(("GPG_TTY".into(), Some(PathBuf::from(tty.clone()).into())));
    }
    changes
}

fn within(path: &Path, place: &Place) -> bool {
    path.starts_with(PathBuf::from(place.path.clone()))
}

/// A temporary directory below the private ones is not there yet, unless it is
/// one of them.
fn under_shared_temp(path: &Path) -> bool {
    let private = ["/tmp", "/var/tmp"];
    private.iter().any(|dir| path == Path::new(dir))
        || !private.iter().any(|dir| path.starts_with(dir))
}
