//! The audit log of tool calls: what an agent did, when, and how it ended.
//!
//! Insert-only: nothing here changes or removes an entry. Never reads a clock;
//! times are passed in. The columns mean what the published SDKs mean by them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::error::StorageError;
use crate::kv::check_json;
use crate::storage::{Storage, ToolCallRow};
use crate::types::Timestamp;

/// The longest name of a tool, in bytes of UTF-8.
pub const TOOL_NAME_MAX_BYTES: usize = 1024;
/// The longest parameters, result or error message, in bytes.
pub const FIELD_MAX_BYTES: usize = 16 << 20;

/// Why the audit log refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The tool has no name.
    #[error("the name of a tool must not be empty")]
    EmptyName,
    /// The name is over [`TOOL_NAME_MAX_BYTES`].
    #[error("the name of a tool must not be longer than {TOOL_NAME_MAX_BYTES} bytes")]
    NameTooLong,
    /// The name or the error message holds NUL, where C programs would cut it.
    #[error("the {field} must not contain a NUL character")]
    HasNul {
        /// Which field.
        field: &'static str,
    },
    /// Parameters or result are not one JSON text. Says what and where.
    #[error("the {field} are not valid JSON ({reason})")]
    InvalidJson {
        /// Which field, in the plural.
        field: &'static str,
        /// What and where.
        reason: String,
    },
    /// A field is over [`FIELD_MAX_BYTES`].
    #[error("the {field} must not be longer than {FIELD_MAX_BYTES} bytes")]
    FieldTooLong {
        /// Which field.
        field: &'static str,
    },
    /// The call ended before it started.
    #[error("a tool call cannot have completed before it started")]
    CompletedBeforeStarted,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How far a tool call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Started; no outcome is known.
    Pending,
    /// Ended well.
    Success,
    /// Ended with an error.
    Error,
}

impl Status {
    /// The word the format stores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No status is called that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a status is one of pending, success, error")]
pub struct UnknownStatus;

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(word: &str) -> Result<Self, UnknownStatus> {
        match word {
            "pending" => Ok(Self::Pending),
            "success" => Ok(Self::Success),
            "error" => Ok(Self::Error),
            _ => Err(UnknownStatus),
        }
    }
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Not yet, or not known.
    Pending,
    /// Well, with a result (JSON text) or none.
    Success {
        /// JSON text.
        result: Option<&'a str>,
        /// When.
        completed: Timestamp,
    },
    /// With an error message, which is plain text.
    Error {
        /// The message.
        message: &'a str,
        /// When.
        completed: Timestamp,
    },
}

/// A tool call to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolCall<'a> {
    /// The tool.
    pub name: &'a str,
    /// Arguments, as JSON text.
    pub parameters: Option<&'a str>,
    /// When it started.
    pub started: Timestamp,
    /// How it ended.
    pub outcome: Outcome<'a>,
}

/// Which entries to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter<'a> {
    /// Only this tool.
    pub tool: Option<&'a str>,
    /// Only with this status.
    pub status: Option<Status>,
    /// At most so many; `None`: all.
    pub limit: Option<u64>,
}

/// The audit log kept in a storage.
///
/// ```
/// use agentfs_core::Timestamp;
/// use agentfs_core::audit::{Audit, Filter, Outcome, ToolCall};
/// use agentfs_core::storage::MemoryStorage;
///
/// let storage = MemoryStorage::new(4096);
/// let audit = Audit::new(&storage);
/// audit.record(&ToolCall {
///     name: "search",
///     parameters: Some(r#"{"query": "fuse"}"#),
///     started: Timestamp::new(1_700_000_000, 0),
///     outcome: Outcome::Success {
///         result: Some("[]"),
///         completed: Timestamp::new(1_700_000_001, 500_000_000),
///     },
/// })?;
/// audit.list(&Filter::default(), &mut |row| {
///     assert_eq!(row.duration_ms, Some(1500));
///     assert_eq!(row.status, "success");
/// })?;
/// # Ok::<(), agentfs_core::audit::AuditError>(())
/// ```
pub struct Audit<'a, S> {
    storage: &'a S,
}

impl<'a, S: Storage> Audit<'a, S> {
    /// The log kept in `storage`.
    pub fn new(storage: &'a S) -> Self {
        Self { storage }
    }

    /// Appends one entry and returns its id, higher than all before.
    ///
    /// # Errors
    /// [`AuditError`]; nothing has been recorded then.
    pub fn record(&self, call: &ToolCall<'_>) -> Result<i64, AuditError> {
        let row = to_row(call)?;
        self.storage.write(|txn| Ok(txn.insert_tool_call(&row)?))
    }

    /// Calls `f` for the entries that pass the filter, newest first.
    ///
    /// # Errors
    /// The storage's own.
    pub fn list(
        &self,
        filter: &Filter<'_>,
        f: &mut dyn FnMut(ToolCallRow),
    ) -> Result<(), AuditError> {
        let mut left = filter.limit.unwrap_or(u64::MAX);
        if left == 0 {
            return Ok(());
        }
        self.storage.read(|txn| {
            txn.tool_calls(&mut |row| {
                let wanted = filter.tool.is_none_or(|tool| tool == row.name)
                    && filter
                        .status
                        .is_none_or(|status| status.as_str() == row.status);
                if wanted {
                    f(row);
                    left -= 1;
                }
                left > 0
            })?;
            Ok(())
        })
    }
}

fn to_row(call: &ToolCall<'_>) -> Result<ToolCallRow, AuditError> {
    if call.name.is_empty() {
        return Err(AuditError::EmptyName);
    }
    if call.name.len() > TOOL_NAME_MAX_BYTES {
        return Err(AuditError::NameTooLong);
    }
    check_text("name of a tool", call.name)?;
    let mut row = ToolCallRow {
        id: 0,
        name: call.name.to_owned(),
        parameters: call
            .parameters
            .map(|json| checked_json("parameters", json))
            .transpose()?,
        result: None,
        error: None,
        status: Status::Pending.as_str().to_owned(),
        started_at: call.started.secs,
        completed_at: None,
        duration_ms: None,
    };
    let (status, completed) = match call.outcome {
        Outcome::Pending => return Ok(row),
        Outcome::Success { result, completed } => {
            row.result = result
                .map(|json| checked_json("results", json))
                .transpose()?;
            (Status::Success, completed)
        }
        Outcome::Error { message, completed } => {
            check_text("error message", message)?;
            row.error = Some(message.to_owned());
            (Status::Error, completed)
        }
    };
    row.status = status.as_str().to_owned();
    row.completed_at = Some(completed.secs);
    row.duration_ms = Some(duration_ms(call.started, completed)?);
    Ok(row)
}

fn check_text(field: &'static str, text: &str) -> Result<(), AuditError> {
    if text.len() > FIELD_MAX_BYTES {
        return Err(AuditError::FieldTooLong { field });
    }
    if text.contains('\0') {
        return Err(AuditError::HasNul { field });
    }
    Ok(())
}

fn checked_json(field: &'static str, json: &str) -> Result<String, AuditError> {
    let json = json.trim_ascii();
    if json.len() > FIELD_MAX_BYTES {
        return Err(AuditError::FieldTooLong { field });
    }
    check_json(json).map_err(|reason| AuditError::InvalidJson { field, reason })?;
    Ok(json.to_owned())
}

/// Milliseconds between two times. The SDKs know whole seconds only and agree
/// with this where both times are whole seconds.
fn duration_ms(started: Timestamp, completed: Timestamp) -> Result<i64, AuditError> {
    let nanos = |t: Timestamp| i128::from(t.secs) * 1_000_000_000 + i128::from(t.nanos);
    let elapsed = nanos(completed) - nanos(started);
    if elapsed < 0 {
        return Err(AuditError::CompletedBeforeStarted);
    }
    Ok(i64::try_from(elapsed / 1_000_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
