//! `agentfs tool`: recording calls of tools.

use std::io::Write as _;

use agentfs_core::Timestamp;
use agentfs_core::audit::{Outcome, ToolCall};
use agentfs_core::types::Clock as _;
use agentfs_hostdir::HostClock;
use agentfs_session::{Call, Note, Noted};
use anyhow::{Result, bail};

use crate::args::{RecordArgs, ToolArgs, ToolCommand};
use crate::locate;
use crate::output::{Out, quote};
use crate::store;

pub(crate) fn tool(args: &ToolArgs) -> Result<u8> {
    let ToolCommand::Record(args) = &args.command;
    let call = call(args, HostClock.now())?;
    let note = Note::RecordCall(Call::from(&call));
    let noted = store::note(&locate::existing(&args.name)?, &note)?;
    let mut out = Out::new();
    if let Noted::Recorded(id) = noted {
        writeln!(out, "{id}")?;
    }
    out.finish()?;
    Ok(0)
}

/// The call that the words tell of. A call whose end is not told of is pending.
pub(crate) fn call(args: &RecordArgs, now: Timestamp) -> Result<ToolCall<'_>> {
    let time = |word: &Option<String>| word.as_deref().map(parse_time).transpose();
    let completed = time(&args.completed)?;
    let pending = completed.is_none() && args.result.is_none() && args.error.is_none();
    let end = completed.unwrap_or(now);
    let started = match time(&args.started)? {
        Some(started) => started,
        None if pending => now,
        None => end,
    };
    let outcome = match (&args.error, &args.result) {
        (Some(message), _) => Outcome::Error {
            message,
            completed: end,
        },
        (None, result) if !pending => Outcome::Success {
            result: result.as_deref(),
            completed: end,
        },
        _ => Outcome::Pending,
    };
    Ok(ToolCall {
        name: &args.tool,
        parameters: args.params.as_deref(),
        started,
        outcome,
    })
}

/// Unix seconds, with a fraction or without, or a date with its offset from UTC.
fn parse_time(word: &str) -> Result<Timestamp> {
    if let Some(time) = unix_time(word) {
        return Ok(time);
    }
    let Ok(time) = word.parse::<jiff::Timestamp>() else {
        bail!(
            "'{}' is not a time: use Unix seconds or a date like 2026-01-31T12:00:00Z",
            quote(word.as_bytes())
        );
    };
    // Before 1970 the nanoseconds count backwards there.
    let (secs, nanos) = (time.as_second(), time.subsec_nanosecond());
    Ok(match u32::try_from(nanos) {
        Ok(nanos) => Timestamp::new(secs, nanos),
        Err(_) => Timestamp::new(secs - 1, (1_000_000_000 + nanos).unsigned_abs()),
    })
}

fn unix_time(word: &str) -> Option<Timestamp> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    Some(Timestamp::new(whole.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |word: &str, secs, nanos| {
            assert_eq!(
                parse_time(word).unwrap(),
                Timestamp::new(secs, nanos),
                "{word}"
            );
        };
        check("1700000000", 1_700_000_000, 0);
        check("1700000000.25", 1_700_000_000, 250_000_000);
        check("2023-11-14T22:13:20Z", 1_700_000_000, 0);
        check("2023-11-14T22:13:20.5+00:00", 1_700_000_000, 500_000_000);
        check("1969-12-31T23:59:59.75Z", -1, 750_000_000);
        for bad in ["", "yesterday", "1.5.2", "-5", "1e9", "2023-11-14"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_outcome_follows_from_what_is_said() {
        let args =
            |result: Option<&str>, error: Option<&str>, completed: Option<&str>| RecordArgs {
                name: "s".into(),
                tool: "t".to_owned(),
                params: None,
                result: result.map(str::to_owned),
                error: error.map(str::to_owned),
                started: None,
                completed: completed.map(str::to_owned),
            };
        let now = Timestamp::new(50, 0);
        let told = args(None, None, None);
        assert_eq!(call(&told, now).unwrap().outcome, Outcome::Pending);
        let told = args(Some("1"), None, None);
        let got = call(&told, now).unwrap();
        assert_eq!(
            got.outcome,
            Outcome::Success {
                result: Some("1"),
                completed: now
            }
        );
        assert_eq!(got.started, now);
        let told = args(None, Some("no"), Some("40"));
        let got = call(&told, now).unwrap();
        let completed = Timestamp::new(40, 0);
        assert_eq!(
            got.outcome,
            Outcome::Error {
                message: "no",
                completed
            }
        );
        assert_eq!(got.started, completed);
        let told = args(None, None, Some("40"));
        let got = call(&told, now).unwrap();
        assert_eq!(
            got.outcome,
            Outcome::Success {
                result: None,
                completed
            }
        );
    }
}
