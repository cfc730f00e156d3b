//! What is printed: results, sentences, paths, JSON.
//!
//! The only place that writes to the terminal. A path is never printed raw:
//! names are bytes and may hold what a terminal obeys.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use agentfs_core::FileKind;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Buffered standard output. Call [`Out::finish`]: dropping it hides errors.
pub(crate) struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    pub(crate) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes what is buffered.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }

    /// Prints a value as one JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        serde_json::to_writer_pretty(&mut self.0, value).map_err(io::Error::from)?;
        writeln!(self.0)?;
        Ok(())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether an error only says that nobody reads our output any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Says on standard error why a command failed, in one line.
pub(crate) fn complain(error: &anyhow::Error) {
    say(format_args!("{error:#}"));
}

/// Says something to people, on standard error.
pub(crate) fn say(sentence: impl std::fmt::Display) {
    // What it quotes may have been chosen to confuse a terminal.
    let sentence = sentence.to_string().replace(char::is_control, "?");
    let line = format!("agentfs: {sentence}\n");
    // There is nobody left to tell when this fails.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Whether somebody sits in front of standard error.
pub(crate) fn talks_to_a_person() -> bool {
    io::stderr().is_terminal()
}

/// Prints lines for people, on standard error, as they are.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The letter of a kind: `f`, `d`, `l`, or `?` for all else.
pub(crate) const fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::Regular => 'f',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => '?',
    }
}

/// A path or name for a line of output: as it is when it is text without control
/// characters, else in double quotes with the escapes of C (`\n`, `\"`, `\377`).
/// A name that starts with a double quote is quoted too, so that what starts
/// with one always is.
pub(crate) fn quote(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains(char::is_control)
        && !text.starts_with('"')
    {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                '\r' => quoted.push_str("\\r"),
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    octal(&mut quoted, c.encode_utf8(&mut utf8).as_bytes());
                }
                c => quoted.push(c),
            }
        }
        octal(&mut quoted, chunk.invalid());
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

fn octal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "\\{byte:03o}");
    }
}

/// JSON text for a JSON document, digit for digit; what is not JSON after all
/// (another program wrote it) as a string.
pub(crate) fn json_or_text(text: Option<&str>) -> Option<Box<RawValue>> {
    let text = text?;
    RawValue::from_string(text.to_owned())
        .or_else(|_| serde_json::value::to_raw_value(text))
        .ok()
}

/// A sign of life on standard error, for people, once something takes a second.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(crate) fn new(doing: &'static str) -> Self {
        if !talks_to_a_person() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_message(doing);
        let shown = bar.clone();
        // Ends with the process, or shows a bar that is finished: nothing.
        let waiting = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            if !shown.is_finished() {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(100));
            }
        });
        Self(waiting.is_ok().then_some(bar))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A host path for a sentence.
pub(crate) fn path(path: &Path) -> Cow<'_, str> {
    quote(path.as_os_str().as_encoded_bytes())
}

/// What a column is padded to at most, in characters. Formatting refuses 65,536
/// with a panic, and a cell may hold what another program wrote.
const COLUMN_MAX_CHARS: usize = 100;

/// Rows under a heading, in columns two spaces apart; what is longer than a column
/// can be wide sticks out.
pub(crate) fn table<const N: usize>(heading: &[&str; N], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(heading[column].len()).min(COLUMN_MAX_CHARS)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut padded = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(padded, "{cell:width$}  ");
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    };
    line(&mut heading.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// How long ago something was: `5s`, `3m`, `2h05m`, `4d`.
pub(crate) fn ago(now: SystemTime, then: SystemTime) -> String {
    let secs = now
        .duration_since(then)
        .map_or(0, |elapsed| elapsed.as_secs());
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..86_400 => format!("{}h{:02}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d", secs / 86_400),
    }
}

/// A time as Unix seconds.
pub(crate) fn unix_secs(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Adds a path to a JSON object as `key`: a string, in which bytes that are not
/// UTF-8 are replaced. Only then `key_hex` follows, with all bytes in hexadecimal.
pub(crate) fn json_path<M: SerializeMap>(
    map: &mut M,
    key: &str,
    bytes: &[u8],
) -> Result<(), M::Error> {
    map.serialize_entry(key, &String::from_utf8_lossy(bytes))?;
    if std::str::from_utf8(bytes).is_err() {
        let mut hex = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            let _ = write!(hex, "{byte:02x}");
        }
        map.serialize_entry(&format!("{key}_hex"), &hex)?;
    }
    Ok(())
}

/// A slice as a JSON array, each item by `entry`.
pub(crate) struct JsonArray<'a, T, F>(pub(crate) &'a [T], pub(crate) F);

impl<'a, T, R: Serialize, F: Fn(&'a T) -> R> Serialize for JsonArray<'a, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut array = serializer.serialize_seq(Some(self.0.len()))?;
        for item in self.0 {
            array.serialize_element(&(self.1)(item))?;
        }
        array.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_only_when_they_must_be() {
        let check = |bytes: &[u8], want: &str| assert_eq!(quote(bytes), want);
        check(b"/plain path", "/plain path");
        check("/caf\u{e9} \u{1f980}".as_bytes(), "/caf\u{e9} \u{1f980}");
        check(b"/a\"b", "/a\"b");
        check(b"\"b", "\"\\\"b\"");
        check(b"/a\nb\\\"", "\"/a\\nb\\\\\\\"\"");
        check(b"/\xff", "\"/\\377\"");
        check(b"/\x1b[31m", "\"/\\033[31m\"");
        check("/\u{85}".as_bytes(), "\"/\\302\\205\"");
    }

    #[test]
    fn a_table_bears_a_cell_of_any_length() {
        let long = "x".repeat(70_000);
        let rows = [
            vec![long.clone(), "b".to_owned()],
            vec!["a".into(), "b".into()],
        ];
        let text = table(&["ONE", "TWO"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("{long}  b"));
        assert_eq!(lines[2].len(), COLUMN_MAX_CHARS + 3);
    }
}
