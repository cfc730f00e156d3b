//! What ends a process that serves: SIGINT, SIGTERM, SIGHUP.

use std::io;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Calls `end` for each of them, on a thread of its own.
pub(crate) fn on_end(end: impl Fn() + Send + 'static) -> io::Result<()> {
    // Under a limit of file sizes, writing the database fails instead.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                end();
            }
        })?;
    Ok(())
}
