//! Memory that does not go back and forth between a virtual machine and its host.
//!
//! Where the kernel reports free pages (`page_reporting`, Linux 5.7, Firecracker and
//! others), the host takes them back, and whoever is given such a page next waits for it:
//! measured, 2 ms for each MiB, more than copying it takes twenty times. A phase that
//! comes upon them is several times slower than one that does not. Must put the parameter
//! back, and never take so much memory that something else must go.

use std::path::Path;

use anyhow::Context;

use super::host;

const ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";
/// Larger than any block of free pages: none is reported.
const NEVER: u32 = 11;
/// What is left free while memory is taken back.
const LEFT_KIB: u64 = 1 << 20;
const PAGE_BYTES: usize = 4096;

/// While this lives, free pages stay with the machine.
pub(super) struct HeldMemory {
    order_before: String,
}

impl HeldMemory {
    /// Has pages reported no more, takes those back that the host has, and puts what is
    /// free together. `None` where the kernel does not report any.
    ///
    /// # Errors
    /// For anybody but root.
    pub(super) fn hold() -> anyhow::Result<Option<Self>> {
        if !Path::new(ORDER).exists() {
            return Ok(None);
        }
        let order_before = std::fs::read_to_string(ORDER).context(ORDER)?;
        std::fs::write(ORDER, NEVER.to_string())
            .with_context(|| format!("{ORDER}: only root can"))?;
        let held = Self { order_before };
        host::sync()?;
        host::drop_caches()?;
        let free_kib = host::memory_kib("MemFree:").context("no MemFree in /proc/meminfo")?;
        touch(usize::try_from(free_kib.saturating_sub(LEFT_KIB))?);
        std::fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;
        Ok(Some(held))
    }

    /// Whether free pages go back to the host, as far as can be told.
    pub(super) fn is_needed() -> bool {
        std::fs::read_to_string(ORDER)
            .is_ok_and(|order| order.trim().parse().is_ok_and(|order: u32| order < NEVER))
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        // Without it memory only stays where it is.
        let _ = std::fs::write(ORDER, &self.order_before);
    }
}

/// Takes memory and gives it back.
fn touch(kib: usize) {
    let mut bytes = vec![0_u8; kib * 1024];
    for page in bytes.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    std::hint::black_box(bytes);
}
