//! `agentfs timeline`: the audit log of a session, newest first.

use std::io::Write as _;

use agentfs_core::audit::{Audit, Filter};
use agentfs_core::storage::ToolCallRow;
use anyhow::Result;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::{Format, TimelineArgs};
use crate::locate;
use crate::output::{self, JsonArray, Out, json_or_text, quote};
use crate::store::Store;

pub(crate) fn timeline(args: &TimelineArgs) -> Result<u8> {
    let store = Store::read(&locate::existing(&args.name)?)?;
    let filter = Filter {
        tool: args.filter.as_deref(),
        status: args.status.map(Into::into),
        limit: Some(args.limit),
    };
    let mut calls = Vec::new();
    Audit::new(&store.storage).list(&filter, &mut |row| calls.push(row))?;
    let mut out = Out::new();
    match args.format {
        Format::Json => out.json(&JsonArray(&calls, Call::new))?,
        Format::Table => write!(out, "{}", table(&calls, &TimeZone::system()))?,
    }
    out.finish()?;
    Ok(0)
}

fn table(calls: &[ToolCallRow], zone: &TimeZone) -> String {
    let rows: Vec<Vec<String>> = calls
        .iter()
        .map(|call| {
            vec![
                call.id.to_string(),
                quote(call.name.as_bytes()).into_owned(),
                quote(call.status.as_bytes()).into_owned(),
                call.duration_ms.map_or_else(|| "-".to_owned(), duration),
                local_time(call.started_at, zone),
            ]
        })
        .collect();
    output::table(&["ID", "TOOL", "STATUS", "DURATION", "STARTED"], &rows)
}

/// Milliseconds for people: `5ms`, `1.5s`, `2m03s`, `1h05m`.
fn duration(ms: i64) -> String {
    match ms {
        ..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

fn local_time(secs: i64, zone: &TimeZone) -> String {
    match jiff::Timestamp::from_second(secs) {
        Ok(time) => time
            .to_zoned(zone.clone())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        // A year that no calendar has.
        Err(_) => secs.to_string(),
    }
}

#[derive(Serialize)]
struct Call<'a> {
    id: i64,
    name: &'a str,
    parameters: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
    error: Option<&'a str>,
    status: &'a str,
    /// Unix seconds.
    started_at: i64,
    /// Unix seconds.
    completed_at: Option<i64>,
    duration_ms: Option<i64>,
}

impl<'a> Call<'a> {
    fn new(row: &'a ToolCallRow) -> Self {
        Self {
            id: row.id,
            name: &row.name,
            parameters: json_or_text(row.parameters.as_deref()),
            result: json_or_text(row.result.as_deref()),
            error: row.error.as_deref(),
            status: &row.status,
            started_at: row.started_at,
            completed_at: row.completed_at,
            duration_ms: row.duration_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |ms, want: &str| assert_eq!(duration(ms), want);
        check(0, "0ms");
        check(999, "999ms");
        check(1_550, "1.5s");
        check(123_456, "2m03s");
        check(3_900_000, "1h05m");
    }

    #[test]
    fn the_table_has_a_line_per_call() {
        let call = |id, name: &str, duration_ms| ToolCallRow {
            id,
            name: name.to_owned(),
            parameters: None,
            result: None,
            error: None,
            status: "success".to_owned(),
            started_at: 1_700_000_000,
            completed_at: None,
            duration_ms,
        };
        let calls = [call(12, "read_file", Some(5)), call(9, "odd\nname", None)];
        assert_eq!(
            table(&calls, &TimeZone::UTC),
            "ID  TOOL         STATUS   DURATION  STARTED\n\
             12  read_file    success  5ms       2023-11-14 22:13:20\n\
             9   \"odd\\nname\"  success  -         2023-11-14 22:13:20\n"
        );
        assert_eq!(
            table(&[], &TimeZone::UTC),
            "ID  TOOL  STATUS  DURATION  STARTED\n"
        );
    }
}
