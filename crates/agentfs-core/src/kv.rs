//! The key-value store of a session: JSON values by key.
//!
//! Validates what goes in, so that every SDK can read what comes out. Never
//! reads a clock (times are passed in) and never changes a value's text: JSON
//! numbers keep all their digits.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use crate::error::StorageError;
use crate::storage::{KvRow, Storage};

/// The longest key, in bytes of UTF-8.
pub const KEY_MAX_BYTES: usize = 1024;
/// The longest value, in bytes of JSON text.
pub const VALUE_MAX_BYTES: usize = 16 << 20;

/// Why the key-value store refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KvError {
    /// The key is the empty string.
    #[error("a key must not be empty")]
    EmptyKey,
    /// The key is over [`KEY_MAX_BYTES`].
    #[error("a key must not be longer than {KEY_MAX_BYTES} bytes; this one has {0}")]
    KeyTooLong(usize),
    /// The key holds NUL, where C programs would cut it.
    #[error("a key must not contain a NUL character")]
    KeyHasNul,
    /// The value is not one JSON text. Says what and where.
    #[error("the value is not valid JSON ({0}); a plain string needs its own double quotes")]
    InvalidJson(String),
    /// The value is over [`VALUE_MAX_BYTES`].
    #[error("a value must not be longer than {VALUE_MAX_BYTES} bytes; this one has {0}")]
    ValueTooLong(usize),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The key-value store kept in a storage.
///
/// ```
/// use agentfs_core::kv::Kv;
/// use agentfs_core::storage::MemoryStorage;
///
/// let storage = MemoryStorage::new(4096);
/// let kv = Kv::new(&storage);
/// kv.set("user:1", r#"{"name": "Ada"}"#, 1_700_000_000)?;
/// assert_eq!(kv.get("user:1")?.unwrap().value, r#"{"name": "Ada"}"#);
/// assert!(kv.set("user:1", "not JSON", 1_700_000_000).is_err());
/// # Ok::<(), agentfs_core::kv::KvError>(())
/// ```
pub struct Kv<'a, S> {
    storage: &'a S,
}

impl<'a, S: Storage> Kv<'a, S> {
    /// The store kept in `storage`.
    pub fn new(storage: &'a S) -> Self {
        Self { storage }
    }

    /// The entry of a key. The value is given as it was stored: another program
    /// may have stored what [`Self::set`] would refuse.
    ///
    /// # Errors
    /// [`KvError`] for a key that cannot exist, and the storage's own.
    pub fn get(&self, key: &str) -> Result<Option<KvRow>, KvError> {
        check_key(key)?;
        self.storage.read(|txn| Ok(txn.kv(key)?))
    }

    /// Sets a key at Unix second `now` to `value`, a JSON text; space around it
    /// is not kept.
    ///
    /// # Errors
    /// [`KvError`]; nothing has changed then.
    pub fn set(&self, key: &str, value: &str, now: i64) -> Result<(), KvError> {
        check_key(key)?;
        let value = value.trim_ascii();
        if value.len() > VALUE_MAX_BYTES {
            return Err(KvError::ValueTooLong(value.len()));
        }
        check_json(value).map_err(KvError::InvalidJson)?;
        self.storage.write(|txn| Ok(txn.put_kv(key, value, now)?))
    }

    /// Removes a key; tells whether it was there.
    ///
    /// # Errors
    /// [`KvError`] for a key that cannot exist, and the storage's own.
    pub fn delete(&self, key: &str) -> Result<bool, KvError> {
        check_key(key)?;
        self.storage.write(|txn| Ok(txn.delete_kv(key)?))
    }

    /// Calls `f` for every entry whose key starts with `prefix`, ascending by key.
    ///
    /// # Errors
    /// The storage's own.
    pub fn list(&self, prefix: &str, f: &mut dyn FnMut(KvRow)) -> Result<(), KvError> {
        self.storage.read(|txn| {
            txn.kvs(&mut |row| {
                if row.key.starts_with(prefix) {
                    f(row);
                }
            })?;
            Ok(())
        })
    }
}

fn check_key(key: &str) -> Result<(), KvError> {
    if key.is_empty() {
        return Err(KvError::EmptyKey);
    }
    if key.len() > KEY_MAX_BYTES {
        return Err(KvError::KeyTooLong(key.len()));
    }
    if key.contains('\0') {
        return Err(KvError::KeyHasNul);
    }
    Ok(())
}

/// Whether `text` is one JSON text that every SDK can parse: nested at most 127
/// deep, numbers within the range of a double. Says what is wrong and where.
pub(crate) fn check_json(text: &str) -> Result<(), String> {
    match serde_json::from_str::<AnyJson>(text) {
        Ok(AnyJson) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Accepts any JSON value and keeps nothing of it. Unlike
/// [`serde::de::IgnoredAny`] it asks for the values, which makes the parser
/// apply its limits on nesting and on numbers.
struct AnyJson;

impl<'de> Deserialize<'de> for AnyJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

impl<'de> Visitor<'de> for AnyJson {
    type Value = AnyJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }
    fn visit_i64<E>(self, _: i64) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }
    fn visit_u64<E>(self, _: u64) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }
    fn visit_f64<E>(self, _: f64) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }
    fn visit_str<E>(self, _: &str) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }
    fn visit_unit<E>(self) -> Result<AnyJson, E> {
        Ok(AnyJson)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AnyJson, A::Error> {
        while seq.next_element::<AnyJson>()?.is_some() {}
        Ok(AnyJson)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyJson, A::Error> {
        while map.next_entry::<AnyJson, AnyJson>()?.is_some() {}
        Ok(AnyJson)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// Sets, and checks that a refusal leaves no trace and a success reads back.
    fn check(key: &str, value: &str, want: Result<&str, KvError>) {
        let storage = MemoryStorage::new(4096);
        let kv = Kv::new(&storage);
        let got = kv.set(key, value, 7);
        match want {
            Ok(stored) => {
                assert_eq!(got, Ok(()), "{key:?} = {value:?}");
                let row = kv.get(key).unwrap().unwrap();
                assert_eq!(
                    (row.value.as_str(), row.created_at, row.updated_at),
                    (stored, 7, 7)
                );
            }
            Err(want) => {
                match (&got, &want) {
                    (Err(KvError::InvalidJson(_)), KvError::InvalidJson(_)) => {}
                    _ => assert_eq!(got, Err(want), "{key:?} = {value:?}"),
                }
                let mut rows = 0;
                kv.list("", &mut |_| rows += 1).unwrap();
                assert_eq!(rows, 0, "a refusal left a trace");
            }
        }
    }

    #[test]
    fn values_are_json_texts_kept_as_given() {
        check("k", "null", Ok("null"));
        check("k", " [1, 2.50,\"x\"]\n", Ok("[1, 2.50,\"x\"]"));
        check(
            "k",
            "12345678901234567890123",
            Ok("12345678901234567890123"),
        );
        check("clé", "\"é\"", Ok("\"é\""));
        for bad in [
            "", "hello", "{'a': 1}", "1 2", "NaN", "[1,]", "{\"a\"}", "1e999",
        ] {
            check("k", bad, Err(KvError::InvalidJson(String::new())));
        }
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        check("k", &nested(127), Ok(&nested(127)));
        check("k", &nested(128), Err(KvError::InvalidJson(String::new())));
        check(
            "k",
            &nested(1_000_000),
            Err(KvError::InvalidJson(String::new())),
        );
    }

    #[test]
    fn keys_and_sizes_are_limited() {
        let long = "k".repeat(KEY_MAX_BYTES);
        check(&long, "1", Ok("1"));
        check(
            &format!("{long}k"),
            "1",
            Err(KvError::KeyTooLong(KEY_MAX_BYTES + 1)),
        );
        check("", "1", Err(KvError::EmptyKey));
        check("a\0b", "1", Err(KvError::KeyHasNul));
        let value = format!("\"{}\"", "x".repeat(VALUE_MAX_BYTES - 1));
        check("k", &value, Err(KvError::ValueTooLong(VALUE_MAX_BYTES + 1)));
    }

    #[test]
    fn a_second_set_keeps_the_time_of_creation() {
        let storage = MemoryStorage::new(4096);
        let kv = Kv::new(&storage);
        kv.set("k", "1", 10).unwrap();
        kv.set("k", "2", 20).unwrap();
        let row = kv.get("k").unwrap().unwrap();
        assert_eq!(
            (row.value.as_str(), row.created_at, row.updated_at),
            ("2", 10, 20)
        );
    }

    #[test]
    fn delete_tells_whether_there_was_something() {
        let storage = MemoryStorage::new(4096);
        let kv = Kv::new(&storage);
        kv.set("k", "1", 10).unwrap();
        assert_eq!(kv.delete("k"), Ok(true));
        assert_eq!(kv.delete("k"), Ok(false));
        assert_eq!(kv.get("k"), Ok(None));
        assert_eq!(kv.delete(""), Err(KvError::EmptyKey));
    }

    #[test]
    fn list_is_by_prefix_and_sorted() {
        let storage = MemoryStorage::new(4096);
        let kv = Kv::new(&storage);
        for key in ["user:2", "user%", "user:1", "other", "User:3"] {
            kv.set(key, "1", 0).unwrap();
        }
        let keys = |prefix: &str| {
            let mut keys = Vec::new();
            kv.list(prefix, &mut |row| keys.push(row.key)).unwrap();
            keys
        };
        assert_eq!(keys("user:"), ["user:1", "user:2"]);
        assert_eq!(keys("user%"), ["user%"]);
        assert_eq!(keys(""), ["User:3", "other", "user%", "user:1", "user:2"]);
    }
}
