//! The server's log: `tracing` to standard error, which is a file, bounded.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::EnvFilter;

/// When the log has reached this size it starts again.
const LOG_MAX_BYTES: u64 = 4 << 20;

static WRITTEN_BYTES: AtomicU64 = AtomicU64::new(0);

struct Bounded;

impl Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let stderr = rustix::stdio::stderr();
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if WRITTEN_BYTES.fetch_add(length, Ordering::Relaxed) > LOG_MAX_BYTES {
            WRITTEN_BYTES.store(0, Ordering::Relaxed);
            rustix::fs::ftruncate(stderr, 0)?;
            rustix::io::write(stderr, b"(the log was full and starts again)\n")?;
        }
        Ok(rustix::io::write(stderr, buf)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends everything to the log from now on. `AGENTFS_LOG` chooses what, in the
/// syntax of `RUST_LOG`; warnings of all and messages of our own by default.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_env("AGENTFS_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,agentfs_session=info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(|| Bounded)
        .try_init();
}
