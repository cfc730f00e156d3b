//! For the fuzz target of the command line: everything that is made of a user's
//! words before a database is opened. No part of the interface of this crate.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use agentfs_core::Timestamp;
use agentfs_core::audit::Audit;
use agentfs_core::kv::Kv;
use agentfs_core::storage::MemoryStorage;
use clap::Parser;

use crate::args::{Cli, Command, KvCommand, RecordArgs, ToolCommand};
use crate::cmd::tool;
use crate::locate::{self, HOLDER};
use crate::output;

/// Reads a command line (without the program's name) as given in the directory
/// `from`, and looks for the sessions that it names. Nothing is created.
///
/// # Panics
/// When a session's database would lie where its name must not lead, or a text
/// for people holds what a terminal obeys.
pub fn read_words(words: impl IntoIterator<Item = OsString>, from: &Path) {
    let words: Vec<OsString> = words.into_iter().collect();
    for word in &words {
        let shown = output::quote(word.as_encoded_bytes());
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
    let program = std::iter::once(OsString::from("agentfs"));
    match Cli::try_parse_from(program.chain(words)) {
        Ok(cli) => understand(&cli.command, from),
        // Help and refusals are texts too.
        Err(refusal) => drop(refusal.to_string()),
    }
}

fn understand(command: &Command, from: &Path) {
    match command {
        Command::Run(args) => args.session.iter().for_each(|name| session(name, from)),
        Command::Diff(args) => session(&args.name, from),
        Command::Fs(args) => {
            session(&args.first, from);
            session(&args.second, from);
        }
        Command::Init(args) => args.name.iter().for_each(|name| session(name, from)),
        Command::Mount(args) => session(&args.name, from),
        Command::Check(args) => session(&args.name, from),
        Command::Export(args) => session(&args.name, from),
        Command::Kv(args) => key_value(&args.command, from),
        Command::Tool(args) => {
            let ToolCommand::Record(args) = &args.command;
            record(args, from);
        }
        Command::Timeline(args) => session(&args.name, from),
        Command::Stop(args) => session(&args.name, from),
        Command::Ps(_) | Command::Umount(_) | Command::Server(_) => {}
    }
}

/// A name leads into an `.agentfs` and no further; a path to where it says.
fn session(word: &OsStr, from: &Path) {
    let Ok(located) = locate::find(word, from) else {
        return;
    };
    assert!(located.db.is_absolute(), "{}", located.db.display());
    let is_path = word.as_encoded_bytes().ends_with(b".db");
    if !is_path {
        let dir = located.db.parent();
        let holder = dir.and_then(Path::file_name);
        assert_eq!(holder, Some(OsStr::new(HOLDER)), "{word:?}");
        let above = dir.and_then(Path::parent);
        let is_above = above.is_some_and(|above| from.starts_with(above));
        assert!(is_above, "{word:?} leads to {}", located.db.display());
    }
}

fn key_value(command: &KvCommand, from: &Path) {
    let storage = MemoryStorage::new(4096);
    let kv = Kv::new(&storage);
    match command {
        KvCommand::Get { name, key } | KvCommand::Delete { name, key } => {
            session(name, from);
            let _ = kv.get(key);
            let _ = kv.delete(key);
        }
        KvCommand::Set { name, key, value } => {
            session(name, from);
            if kv.set(key, value, 0).is_ok() {
                let stored = kv.get(key).ok().flatten();
                assert!(stored.is_some(), "{key:?} is set and not there");
            }
        }
        KvCommand::List { name, prefix, .. } => {
            session(name, from);
            let _ = kv.list(prefix.as_deref().unwrap_or_default(), &mut |_| {});
        }
    }
}

fn record(args: &RecordArgs, from: &Path) {
    session(&args.name, from);
    if let Ok(call) = tool::call(args, Timestamp::new(0, 0)) {
        let _ = Audit::new(&MemoryStorage::new(4096)).record(&call);
    }
}
