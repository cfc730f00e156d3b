//! What of a tool call is recorded, refused and listed.
//!
//! On the storage in memory; that of SQLite has the contract.

use super::*;
use crate::storage::MemoryStorage;

fn at(secs: i64) -> Timestamp {
    Timestamp::new(secs, 0)
}

fn call<'a>(name: &'a str, outcome: Outcome<'a>) -> ToolCall<'a> {
    ToolCall {
        name,
        parameters: None,
        started: at(100),
        outcome,
    }
}

const PENDING: Outcome<'_> = Outcome::Pending;

fn success(result: Option<&str>) -> Outcome<'_> {
    Outcome::Success {
        result,
        completed: at(103),
    }
}

fn error(message: &str) -> Outcome<'_> {
    Outcome::Error {
        message,
        completed: at(101),
    }
}

fn list(storage: &MemoryStorage, filter: &Filter<'_>) -> Vec<ToolCallRow> {
    let mut rows = Vec::new();
    Audit::new(storage)
        .list(filter, &mut |row| rows.push(row))
        .unwrap();
    rows
}

/// Records, and checks that a refusal leaves no trace and a success reads back.
fn check(call: &ToolCall<'_>, want: Result<ToolCallRow, AuditError>) {
    let storage = MemoryStorage::new(4096);
    let got = Audit::new(&storage).record(call);
    match want {
        Ok(mut row) => {
            row.id = got.unwrap();
            assert_eq!(list(&storage, &Filter::default()), [row]);
        }
        Err(want) => {
            match (&got, &want) {
                (
                    Err(AuditError::InvalidJson { field, .. }),
                    AuditError::InvalidJson { field: wanted, .. },
                ) => assert_eq!(field, wanted),
                _ => assert_eq!(got, Err(want)),
            }
            assert_eq!(list(&storage, &Filter::default()), []);
        }
    }
}

fn row(name: &str, status: &str) -> ToolCallRow {
    ToolCallRow {
        id: 0,
        name: name.to_owned(),
        parameters: None,
        result: None,
        error: None,
        status: status.to_owned(),
        started_at: 100,
        completed_at: None,
        duration_ms: None,
    }
}

#[test]
fn the_outcome_decides_the_status_and_the_duration() {
    check(&call("t", PENDING), Ok(row("t", "pending")));
    check(
        &call("t", success(Some(" {\"n\":1} "))),
        Ok(ToolCallRow {
            result: Some("{\"n\":1}".to_owned()),
            completed_at: Some(103),
            duration_ms: Some(3000),
            ..row("t", "success")
        }),
    );
    check(
        &call("t", success(None)),
        Ok(ToolCallRow {
            completed_at: Some(103),
            duration_ms: Some(3000),
            ..row("t", "success")
        }),
    );
    check(
        &call("t", error("no such file")),
        Ok(ToolCallRow {
            error: Some("no such file".to_owned()),
            completed_at: Some(101),
            duration_ms: Some(1000),
            ..row("t", "error")
        }),
    );
}

#[test]
fn durations_are_exact_to_the_millisecond() {
    let ms = |a: (i64, u32), b: (i64, u32)| {
        duration_ms(Timestamp::new(a.0, a.1), Timestamp::new(b.0, b.1))
    };
    assert_eq!(ms((1, 999_000_000), (2, 1_000_000)), Ok(2));
    assert_eq!(ms((-2, 500_000_000), (-1, 0)), Ok(500));
    assert_eq!(ms((5, 0), (5, 0)), Ok(0));
    assert_eq!(ms((5, 1), (5, 0)), Err(AuditError::CompletedBeforeStarted));
    assert_eq!(ms((i64::MIN, 0), (i64::MAX, 0)), Ok(i64::MAX));
}

#[test]
fn refusals_leave_no_trace() {
    let invalid = |field| {
        Err(AuditError::InvalidJson {
            field,
            reason: String::new(),
        })
    };
    check(&call("", PENDING), Err(AuditError::EmptyName));
    check(
        &call("a\0", PENDING),
        Err(AuditError::HasNul {
            field: "name of a tool",
        }),
    );
    check(
        &call("t", error("a\0")),
        Err(AuditError::HasNul {
            field: "error message",
        }),
    );
    check(
        &call(&"t".repeat(1025), PENDING),
        Err(AuditError::NameTooLong),
    );
    check(&call("t", success(Some("oops"))), invalid("results"));
    check(
        &ToolCall {
            parameters: Some("{"),
            ..call("t", PENDING)
        },
        invalid("parameters"),
    );
    check(
        &ToolCall {
            started: at(200),
            ..call("t", error("e"))
        },
        Err(AuditError::CompletedBeforeStarted),
    );
    let long = "x".repeat(FIELD_MAX_BYTES + 1);
    check(
        &call("t", error(&long)),
        Err(AuditError::FieldTooLong {
            field: "error message",
        }),
    );
    check(
        &call("t", success(Some(&long))),
        Err(AuditError::FieldTooLong { field: "results" }),
    );
}

#[test]
fn lists_newest_first_through_the_filter() {
    let storage = MemoryStorage::new(4096);
    let audit = Audit::new(&storage);
    for (name, outcome) in [
        ("grep", success(None)),
        ("edit", error("no")),
        ("grep", PENDING),
        ("grep", success(Some("1"))),
    ] {
        audit.record(&call(name, outcome)).unwrap();
    }
    let ids = |filter: Filter<'_>| -> Vec<i64> {
        list(&storage, &filter).iter().map(|row| row.id).collect()
    };
    let all = ids(Filter::default());
    assert_eq!(all.len(), 4);
    assert!(all.is_sorted_by(|a, b| a > b), "{all:?}");
    let (d, c, b, a) = (all[0], all[1], all[2], all[3]);
    assert_eq!(
        ids(Filter {
            tool: Some("grep"),
            ..Filter::default()
        }),
        [d, c, a]
    );
    assert_eq!(
        ids(Filter {
            status: Some(Status::Error),
            ..Filter::default()
        }),
        [b]
    );
    assert_eq!(
        ids(Filter {
            limit: Some(2),
            ..Filter::default()
        }),
        [d, c]
    );
    assert_eq!(
        ids(Filter {
            limit: Some(0),
            ..Filter::default()
        }),
        Vec::<i64>::new()
    );
    let both = Filter {
        tool: Some("grep"),
        status: Some(Status::Success),
        limit: Some(1),
    };
    assert_eq!(ids(both), [d]);
}

#[test]
fn status_words_read_back() {
    for status in [Status::Pending, Status::Success, Status::Error] {
        assert_eq!(status.as_str().parse(), Ok(status));
    }
    assert_eq!("done".parse::<Status>(), Err(UnknownStatus));
}
