//! `agentfs run`: a program in a session, started, resumed or joined.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use agentfs_session::{Facts, RunOutcome, RunRequest, SessionError};
use anyhow::{Context as _, Result, bail};

use crate::args::RunArgs;
use crate::locate::{self, Located};
use crate::output::{self, say};
use crate::{base, output::tell};

pub(crate) fn run(args: RunArgs) -> Result<u8> {
    if let Some(session) = std::env::var_os("AGENTFS_SESSION") {
        // Here its own database is hidden, so a name would lead nowhere.
        let session = session.to_string_lossy().into_owned();
        bail!(SessionError::AlreadyInside { session });
    }
    let located = match &args.session {
        Some(word) => locate::existing_or_new(word)?,
        None => locate::fresh()?,
    };
    if args.session.is_none() && !args.quiet {
        say(format_args!("session {}", located.name));
    }
    let cwd = std::env::current_dir().context("the current directory cannot be found")?;
    let base = base::prepare(&located, args.base.as_deref())?;
    let request = RunRequest {
        session: located.name.clone(),
        db: located.db.clone(),
        cwd: if cwd.starts_with(&base) {
            cwd.clone()
        } else {
            base.clone()
        },
        base,
        allow: args.allow.iter().map(|path| cwd.join(path)).collect(),
        default_allows: !args.no_default_allows,
        command: command_or_shell(args.command),
    };
    let talk = !args.quiet && output::talks_to_a_person();
    let outcome = agentfs_session::run(&request, |facts| {
        for path in &facts.not_allowed {
            say(format_args!(
                "{} stays read-only: --allow counts only for the run that starts the session",
                output::path(path)
            ));
        }
        if talk {
            tell(&banner(&located, facts, home().as_deref()));
        }
    })?;
    for sentence in outcome.exec_error.iter().chain(&outcome.server_lost) {
        say(sentence);
    }
    if talk {
        tell(&farewell(&located, &outcome));
    }
    Ok(outcome.exit_code)
}

fn command_or_shell(command: Vec<OsString>) -> Vec<OsString> {
    if !command.is_empty() {
        return command;
    }
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    vec![shell.unwrap_or_else(|| "bash".into())]
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
}

/// What holds inside, told when a program starts.
fn banner(located: &Located, facts: &Facts, home: Option<&Path>) -> String {
    let list = |paths: &[PathBuf]| {
        let mut words: Vec<String> = paths.iter().map(|path| short(path, home)).collect();
        words.sort();
        words.join(" ")
    };
    let name = &located.name;
    let did = if facts.started_session {
        "session"
    } else {
        "joined session"
    };
    let mut text = format!("agentfs: {did} {name} on {}\n", short(&facts.base, home));
    let mut line = |what: &str, which: &str| {
        if !which.is_empty() {
            text.push_str(&format!("  {what:<22}{which}\n"));
        }
    };
    let mut private = vec![facts.base.clone()];
    private.extend(
        facts
            .private
            .iter()
            .filter(|path| **path != facts.base)
            .cloned(),
    );
    line("kept in the session:", &list(&private));
    line("written for real:", &list(&facts.writable));
    line("read-only:", "everything else");
    line(
        "join from elsewhere:",
        &format!("agentfs run --session {name}"),
    );
    for limit in &facts.limits {
        line("note:", &limit.to_string());
    }
    text
}

/// What to do next, told when a program has ended.
fn farewell(located: &Located, outcome: &RunOutcome) -> String {
    let name = &located.name;
    let mut text = format!(
        "agentfs: left session {name}\n  see what it changed:  agentfs diff {name}\n  \
         go on:                agentfs run --session {name}\n"
    );
    if outcome.session_continues {
        text.push_str(&format!(
            "  still running inside: 'agentfs ps' shows it, 'agentfs stop {name}' ends it\n"
        ));
    }
    text
}

/// A path for people: with `~` for the home directory.
fn short(path: &Path, home: Option<&Path>) -> String {
    match home.and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) if rest.as_os_str().is_empty() => "~".to_owned(),
        Some(rest) => format!("~/{}", output::path(rest)),
        None => output::path(path).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use agentfs_session::SessionName;

    use super::*;

    fn located() -> Located {
        Located {
            name: SessionName::new("demo").unwrap(),
            db: PathBuf::from("/home/u/p/.agentfs/demo.db"),
            exists: true,
        }
    }

    #[test]
    fn the_banner_says_what_is_kept_where() {
        let facts = Facts {
            base: PathBuf::from("/home/u/p"),
            started_session: true,
            writable: vec![PathBuf::from("/home/u/.claude"), PathBuf::from("/srv/out")],
            private: vec![PathBuf::from("/tmp"), PathBuf::from("/home/u/.cache")],
            ..Facts::default()
        };
        assert_eq!(
            banner(&located(), &facts, Some(Path::new("/home/u"))),
            "agentfs: session demo on ~/p\n  \
             kept in the session:  /tmp ~/.cache ~/p\n  \
             written for real:     /srv/out ~/.claude\n  \
             read-only:            everything else\n  \
             join from elsewhere:  agentfs run --session demo\n"
        );
    }

    #[test]
    fn the_farewell_tells_of_what_still_runs() {
        let outcome = |session_continues| RunOutcome {
            exit_code: 0,
            exec_error: None,
            server_lost: None,
            session_continues,
        };
        let text = farewell(&located(), &outcome(false));
        assert!(
            text.contains("agentfs diff demo") && !text.contains("agentfs stop"),
            "{text}"
        );
        let text = farewell(&located(), &outcome(true));
        assert!(text.contains("agentfs stop demo"), "{text}");
    }
}
