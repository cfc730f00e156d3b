//! Which paths of the host are writable inside, and how. Looks at the host;
//! changes nothing.

use std::path::{Path, PathBuf};

use crate::protocol::{BuildPlan, StartConfig};
use crate::runtime;
use crate::sockets;

/// Agents' own state under `$HOME`: writable for real where it exists.
pub(crate) const AGENT_STATE: [&str; 5] = [".amp", ".claude", ".claude.json", ".codex", ".gemini"];

/// Caches of toolchains under `$HOME`: on the session's layer where they exist.
pub(crate) const CACHES: [&str; 20] = [
    ".bun",
    ".bundle",
    ".cache",
    ".cargo",
    ".conda",
    ".deno",
    ".gem",
    ".gradle",
    ".ivy2",
    ".java",
    ".local",
    ".m2",
    ".node-gyp",
    ".npm",
    ".nuget",
    ".nvm",
    ".pnpm-store",
    ".pyenv",
    ".rustup",
    ".yarn",
];
/// Directories without a dot that toolchains use as caches.
pub(crate) const MORE_CACHES: [&str; 1] = ["go"];

/// Directories under `$HOME` in which agents with keys and container engines make their
/// sockets, also such as nobody has made yet.
const SOCKET_DIRECTORIES: [&str; 4] =
    [".1password", ".docker/desktop", ".docker/run", ".ssh/agent"];

/// What the holder is to build for this session.
pub(crate) fn build_plan(config: &StartConfig) -> BuildPlan {
    let base = PathBuf::from(config.base.clone());
    let home = config
        .home
        .clone()
        .map(PathBuf::from)
        .filter(|_| config.default_allows);
    let mut real: Vec<PathBuf> = config.allow.iter().cloned().map(Into::into).collect();
    let mut caches = Vec::new();
    if let Some(home) = &home {
        for name in AGENT_STATE {
            let path = home.join(name);
            // What lies in the base is the view's; a link leads elsewhere.
            if !path.starts_with(&base) && is_plain(&path) && !real.contains(&path) {
                real.push(path);
            }
        }
        for name in CACHES.iter().chain(&MORE_CACHES) {
            let path = home.join(name);
            // The view covers it, or it is writable for real already.
            let taken =
                path.starts_with(&base) || real.iter().any(|allowed| path.starts_with(allowed));
            if !taken && path.is_dir() && is_plain(&path) {
                caches.push(PathBuf::from(name));
            }
        }
    }
    let runtime = PathBuf::from(config.runtime.clone());
    let mut hidden = runtime::all_roots();
    hidden.extend(runtime.parent().map(Path::to_owned));
    hidden.dedup();
    if let Some(home) = config.home.clone().map(PathBuf::from) {
        let directories = SOCKET_DIRECTORIES.iter().map(|name| home.join(name));
        let is_allowed = |path: &PathBuf| real.iter().any(|allowed| allowed.starts_with(path));
        hidden.extend(directories.filter(|path| is_plain(path) && !is_allowed(path)));
    }
    BuildPlan {
        base: config.base.clone(),
        db: config.db.clone(),
        log: runtime.join(runtime::LOG).into(),
        hidden: hidden.into_iter().map(Into::into).collect(),
        home: home.map(Into::into),
        temp: config.temp.clone(),
        real: real.into_iter().map(Into::into).collect(),
        caches: if crate::serve::HAS_HOME_VOLUME {
            caches.into_iter().map(Into::into).collect()
        } else {
            Vec::new()
        },
        sockets: sockets::by_relative_path()
            .into_iter()
            .map(Into::into)
            .collect(),
    }
}

fn is_plain(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_symlink())
}
