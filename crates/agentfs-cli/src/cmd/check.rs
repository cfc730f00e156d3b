//! `agentfs check`: whether a session's database is sound.

use std::io::Write as _;

use agentfs_core::Storage as _;
use agentfs_core::check::{Severity, check as examine};
use agentfs_sqlite::Volume;
use anyhow::Result;
use serde::Serialize;

use crate::args::CheckArgs;
use crate::locate;
use crate::output::{self, Out, Progress, say};
use crate::store::{self, Store};

pub(crate) fn check(args: &CheckArgs) -> Result<u8> {
    let located = locate::existing(&args.name)?;
    let store = Store::read(&located)?;
    let progress = Progress::new("checking");
    let mut found: Vec<Finding> = store
        .database
        .integrity_check()?
        .into_iter()
        .map(|message| Finding {
            severity: "error",
            code: "database",
            message,
        })
        .collect();
    let (lower, missing) = store::lower_or_nothing(&located, &store.database)?;
    let chunk_size_bytes = store.storage.chunk_size_bytes();
    let violations = store
        .storage
        .read(|txn| examine(txn, &lower, chunk_size_bytes))?;
    let home = store.database.volume(Volume::Home);
    let home_lower = store::home_or_nothing(&located);
    let home_violations = home.read(|txn| examine(txn, &home_lower, chunk_size_bytes))?;
    drop(progress);
    let view = violations.iter().map(|violation| ("", violation));
    let home = home_violations
        .iter()
        .map(|violation| ("in the private caches: ", violation));
    for (place, violation) in view.chain(home) {
        // Without the base, what it should have says nothing.
        if missing.is_some() && matches!(violation.code(), "hides-nothing" | "base-changed") {
            continue;
        }
        found.push(Finding {
            severity: match violation.severity() {
                Severity::Notice => "notice",
                Severity::Error => "error",
            },
            code: violation.code(),
            message: format!("{place}{violation}"),
        });
    }
    let errors = found
        .iter()
        .filter(|finding| finding.severity == "error")
        .count();
    let mut out = Out::new();
    if args.json {
        out.json(&Report {
            ok: errors == 0,
            violations: &found,
        })?;
    } else {
        for finding in &found {
            let message = output::quote(finding.message.as_bytes());
            writeln!(out, "{}: {message}", finding.severity)?;
        }
    }
    out.finish()?;
    if let Some(why) = missing {
        say(format_args!("{why}: the database was checked by itself"));
    }
    if args.json {
        return Ok(u8::from(errors > 0));
    }
    match errors {
        0 => say(format_args!("{} is sound", output::path(&located.db))),
        1 => say(format_args!("1 error in {}", output::path(&located.db))),
        n => say(format_args!("{n} errors in {}", output::path(&located.db))),
    }
    Ok(u8::from(errors > 0))
}

#[derive(Serialize)]
struct Report<'a> {
    /// Whether there is no error; notices do not count.
    ok: bool,
    violations: &'a [Finding],
}

#[derive(Serialize)]
struct Finding {
    severity: &'static str,
    code: &'static str,
    message: String,
}
