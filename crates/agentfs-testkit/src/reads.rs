//! [`without_a_read`]: for tests of what is in memory.

/// What `f` gives; it must not call `read(2)` or its like. What other threads read does not
/// count.
///
/// # Panics
/// When it did.
pub fn without_a_read<T>(f: impl FnOnce() -> T) -> T {
    let for_counting = reads_of_this_thread();
    let before = reads_of_this_thread();
    let given = f();
    let after = reads_of_this_thread();
    assert_eq!(after - before, before - for_counting, "it has read");
    given
}

fn reads_of_this_thread() -> u64 {
    // Counting adds to it.
    reads_in("/proc/thread-self/io")
}

/// How often somebody has read, as an `io` file of `/proc` tells (`syscr` in
/// `proc_pid_io(5)`).
///
/// # Panics
/// When it is not there.
pub fn reads_in(io: &str) -> u64 {
    let io = std::fs::read_to_string(io).expect("an io file");
    let count = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    count.and_then(|n| n.parse().ok()).expect("a count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_noticed() {
        assert_eq!(without_a_read(|| 7), 7);
        let read = || std::fs::read("/proc/self/stat").unwrap();
        assert!(std::panic::catch_unwind(|| without_a_read(read)).is_err());
    }
}
