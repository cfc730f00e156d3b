//! `agentfs kv`: the key-value store of a session.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};

use agentfs_core::kv::{Kv, VALUE_MAX_BYTES};
use agentfs_core::storage::KvRow;
use agentfs_core::types::Clock as _;
use agentfs_hostdir::HostClock;
use agentfs_session::{Note, Noted};
use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::{KvArgs, KvCommand};
use crate::locate;
use crate::output::{JsonArray, Out, json_or_text, quote, say};
use crate::store::{self, Store};

pub(crate) fn kv(args: &KvArgs) -> Result<u8> {
    match &args.command {
        KvCommand::Get { name, key } => get(name, key),
        KvCommand::Set { name, key, value } => set(name, key, value),
        KvCommand::Delete { name, key } => delete(name, key),
        KvCommand::List { name, prefix, json } => {
            list(name, prefix.as_deref().unwrap_or_default(), *json)
        }
    }
}

fn get(name: &OsStr, key: &str) -> Result<u8> {
    let store = Store::read(&locate::existing(name)?)?;
    let Some(row) = Kv::new(&store.storage).get(key)? else {
        return Ok(no_such_key(key));
    };
    let mut out = Out::new();
    writeln!(out, "{}", row.value)?;
    out.finish()?;
    Ok(0)
}

fn set(name: &OsStr, key: &str, value: &str) -> Result<u8> {
    let mut text = String::new();
    let value = if value == "-" {
        // One byte over the limit is enough to be refused.
        let limit = VALUE_MAX_BYTES as u64 + 1;
        let read = std::io::stdin()
            .lock()
            .take(limit)
            .read_to_string(&mut text);
        read.context("the value cannot be read from standard input")?;
        &text
    } else {
        value
    };
    let note = Note::SetKey {
        key: key.to_owned(),
        value: value.to_owned(),
        now: HostClock.now().secs,
    };
    store::note(&locate::existing(name)?, &note)?;
    Ok(0)
}

fn delete(name: &OsStr, key: &str) -> Result<u8> {
    let note = Note::DeleteKey {
        key: key.to_owned(),
    };
    let noted = store::note(&locate::existing(name)?, &note)?;
    Ok(if noted == Noted::Deleted(true) {
        0
    } else {
        no_such_key(key)
    })
}

fn no_such_key(key: &str) -> u8 {
    say(format_args!("there is no key {}", quote(key.as_bytes())));
    1
}

fn list(name: &OsStr, prefix: &str, json: bool) -> Result<u8> {
    let store = Store::read(&locate::existing(name)?)?;
    let mut rows = Vec::new();
    Kv::new(&store.storage).list(prefix, &mut |row| rows.push(row))?;
    let mut out = Out::new();
    if json {
        out.json(&JsonArray(&rows, Entry::new))?;
    } else {
        for row in &rows {
            // One line each: JSON needs no line breaks, nor what a terminal obeys,
            // which another program may have stored.
            let value = row.value.replace(char::is_control, " ");
            writeln!(out, "{}\t{value}", quote(row.key.as_bytes()))?;
        }
    }
    out.finish()?;
    Ok(0)
}

#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    value: Option<Box<RawValue>>,
    /// Unix seconds.
    created_at: i64,
    /// Unix seconds.
    updated_at: i64,
}

impl<'a> Entry<'a> {
    fn new(row: &'a KvRow) -> Self {
        Self {
            key: &row.key,
            value: json_or_text(Some(&row.value)),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
