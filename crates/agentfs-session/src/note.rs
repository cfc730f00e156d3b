//! What a command writes beside the files of a session: a key, or the call of a tool.
//!
//! While the session is live its server writes it. Were it written from outside, the
//! server could not tell that the files are as they were, and would forget what it and the
//! kernel know of them. Knows no socket; reads no clock.

use agentfs_core::audit::{Audit, AuditError, Outcome, ToolCall};
use agentfs_core::kv::{Kv, KvError};
use agentfs_core::{Storage, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Something to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Sets a key of the key-value store.
    SetKey {
        /// The key.
        key: String,
        /// A JSON text.
        value: String,
        /// Unix seconds.
        now: i64,
    },
    /// Removes a key.
    DeleteKey {
        /// The key.
        key: String,
    },
    /// Appends to the audit log.
    RecordCall(Call),
}

/// The call of a tool, as [`ToolCall`] has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    name: String,
    parameters: Option<String>,
    started: Moment,
    end: Option<End>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    result: Result<Option<String>, String>,
    completed: Moment,
}

/// Seconds and nanoseconds of a [`Timestamp`].
type Moment = (i64, u32);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Noted {
    /// The key is set.
    Set,
    /// Whether there was such a key.
    Deleted(bool),
    /// The id of the call.
    Recorded(i64),
}

/// Why it was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// By the key-value store.
    #[error(transparent)]
    Key(#[from] KvError),
    /// By the audit log.
    #[error(transparent)]
    Call(#[from] AuditError),
}

impl Note {
    /// Writes it; whoever calls sees to it that the storage is synced.
    ///
    /// # Errors
    /// [`NoteError`]; nothing has changed then.
    pub fn write_to<S: Storage>(&self, storage: &S) -> Result<Noted, NoteError> {
        Ok(match self {
            Self::SetKey { key, value, now } => {
                Kv::new(storage).set(key, value, *now)?;
                Noted::Set
            }
            Self::DeleteKey { key } => Noted::Deleted(Kv::new(storage).delete(key)?),
            Self::RecordCall(call) => {
                Noted::Recorded(Audit::new(storage).record(&call.as_tool_call())?)
            }
        })
    }

    /// How long its texts are, together.
    pub(crate) fn len_bytes(&self) -> usize {
        match self {
            Self::SetKey { key, value, .. } => key.len() + value.len(),
            Self::DeleteKey { key } => key.len(),
            Self::RecordCall(call) => {
                let end = call.end.as_ref().map_or(0, |end| match &end.result {
                    Ok(result) => result.as_ref().map_or(0, String::len),
                    Err(message) => message.len(),
                });
                call.name.len() + call.parameters.as_ref().map_or(0, String::len) + end
            }
        }
    }
}

impl From<&ToolCall<'_>> for Call {
    fn from(call: &ToolCall<'_>) -> Self {
        let moment = |at: Timestamp| (at.secs, at.nanos);
        let end = |result, completed| {
            Some(End {
                result,
                completed: moment(completed),
            })
        };
        Self {
            name: call.name.to_owned(),
            parameters: call.parameters.map(str::to_owned),
            started: moment(call.started),
            end: match call.outcome {
                Outcome::Pending => None,
                Outcome::Success { result, completed } => {
                    end(Ok(result.map(str::to_owned)), completed)
                }
                Outcome::Error { message, completed } => end(Err(message.to_owned()), completed),
            },
        }
    }
}

impl Call {
    fn as_tool_call(&self) -> ToolCall<'_> {
        let at = |(secs, nanos): Moment| Timestamp::new(secs, nanos);
        ToolCall {
            name: &self.name,
            parameters: self.parameters.as_deref(),
            started: at(self.started),
            outcome: match &self.end {
                None => Outcome::Pending,
                Some(end) => {
                    let completed = at(end.completed);
                    match &end.result {
                        Ok(result) => Outcome::Success {
                            result: result.as_deref(),
                            completed,
                        },
                        Err(message) => Outcome::Error { message, completed },
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_arrives_as_it_was_told() {
        let completed = Timestamp::new(-1, 999_999_999);
        let outcomes = [
            Outcome::Pending,
            Outcome::Success {
                result: None,
                completed,
            },
            Outcome::Success {
                result: Some("[\"\\n\", 1.50]"),
                completed,
            },
            Outcome::Error {
                message: "no\nsuch \"file\"",
                completed,
            },
        ];
        for (outcome, parameters) in outcomes.into_iter().zip([None, Some("{}")].repeat(2)) {
            let told = ToolCall {
                name: "gr\u{e9}p",
                parameters,
                started: Timestamp::new(1_700_000_000, 5),
                outcome,
            };
            let note = Note::RecordCall(Call::from(&told));
            let arrived = serde_json::from_slice(&serde_json::to_vec(&note).unwrap()).unwrap();
            let Note::RecordCall(call) = &arrived else {
                panic!("{arrived:?}");
            };
            assert_eq!(call.as_tool_call(), told);
        }
    }
}
