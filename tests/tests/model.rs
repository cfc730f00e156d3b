//! Random operations on the overlay and on a plain in-memory tree that starts as
//! a copy of the base: the same names, attributes, bytes and errno after every
//! step, over each storage and each lower layer.
//!
//! `AGENTFS_PROPTEST_CASES` multiplies the number of cases for a soak.

mod foreign;
mod regressions;
mod threads;

use agentfs_hostdir::HostDir;
use agentfs_testkit::base::{BaseTree, base_tree};
use agentfs_testkit::contract::lower_suite;
use agentfs_testkit::driver::{Checked, Driver, FaultIn, Options, RefPolicy, World};
use agentfs_testkit::op::{Op, Weights, ops};
use agentfs_tests::worlds::{HostWorld, SQLITE_CHUNK_BYTES, SqliteWorld};
pub(crate) use agentfs_tests::worlds::{MemoryWorld, host_tree, open_database};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestError, TestRunner};

/// The chunk size of storages in memory: small, so that small files have many.
const CHUNK_BYTES: u32 = 64;

pub(crate) fn config(cases: u32) -> Config {
    let factor = std::env::var("AGENTFS_PROPTEST_CASES");
    let factor: u32 = factor.ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let persistence = FileFailurePersistence::Direct(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/proptest-regressions/model.txt"
    ));
    Config {
        cases: cases * factor,
        max_shrink_iters: 4000,
        failure_persistence: Some(Box::new(persistence)),
        ..Config::default()
    }
}

fn options() -> impl Strategy<Value = Options> {
    let refs = prop_oneof![Just(RefPolicy::Eager), Just(RefPolicy::Kernel)];
    (refs, prop_oneof![3 => Just(1u32), 1 => Just(5)])
        .prop_map(|(refs, verify_every)| Options { refs, verify_every })
}

/// Runs `f` on so many random bases and sequences.
fn check(cases: u32, chunk: u64, longest: usize, f: impl Fn(&BaseTree, &[Op], Options) -> Checked) {
    let input = (
        base_tree(chunk),
        ops(Weights::default(), longest),
        options(),
    );
    let mut runner = TestRunner::new(config(cases));
    let result = runner.run(&input, |(base, ops, options)| {
        f(&base, &ops, options).map_err(|e| TestCaseError::fail(e.0))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (base, ops, options))) => {
            report(&why, &base, &ops, &format!("{options:?}"));
        }
        Err(aborted) => panic!("{aborted}"),
    }
}

/// Fails the test, with one line for each entry and operation.
pub(crate) fn report(why: &impl std::fmt::Display, base: &BaseTree, ops: &[Op], rest: &str) -> ! {
    let base: String = base.entries.iter().map(|e| format!("  {e:?}\n")).collect();
    let ops: String = ops.iter().map(|op| format!("  {op:?}\n")).collect();
    panic!("{why}\nbase:\n{base}operations:\n{ops}{rest}");
}

fn run<W: World>(world: W, ops: &[Op], options: Options) -> Checked {
    Driver::new(world, options)?.run(ops)
}

fn run_with_faults<W: World>(world: W, ops: &[Op], options: Options, layer: FaultIn) -> Checked {
    let mut driver = Driver::new(world, options)?;
    for op in ops {
        driver.step_with_faults(op, layer)?;
    }
    driver.finish()
}

#[test]
fn memory_over_memory_is_the_model() {
    check(300, CHUNK_BYTES.into(), 60, |base, ops, options| {
        run(MemoryWorld::new(base, CHUNK_BYTES), ops, options)
    });
}

#[test]
#[cfg_attr(
    missing_root,
    ignore = "skipped: owners and devices of the base need root"
)]
fn memory_over_a_host_directory_is_the_model() {
    check(60, CHUNK_BYTES.into(), 40, |base, ops, options| {
        run(HostWorld::new(base, CHUNK_BYTES), ops, options)
    });
}

#[test]
#[cfg_attr(
    missing_root,
    ignore = "skipped: owners and devices of the base need root"
)]
fn a_host_directory_keeps_the_contract_of_a_lower_layer() {
    let mut runner = TestRunner::new(config(40));
    let result = runner.run(&base_tree(4096), |base| {
        let dir = host_tree(&base);
        lower_suite(&HostDir::open(dir.path()).unwrap(), &base.in_memory());
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn sqlite_over_memory_is_the_model() {
    check(40, SQLITE_CHUNK_BYTES.into(), 50, |base, ops, options| {
        run(SqliteWorld::new(base.in_memory()), ops, options)
    });
}

#[test]
#[cfg_attr(
    missing_root,
    ignore = "skipped: owners and devices of the base need root"
)]
fn sqlite_over_a_host_directory_is_the_model() {
    check(15, SQLITE_CHUNK_BYTES.into(), 40, |base, ops, options| {
        run(SqliteWorld::new(host_tree(base)), ops, options)
    });
}

#[test]
fn a_fault_of_sqlite_leaves_before_or_after() {
    check(8, SQLITE_CHUNK_BYTES.into(), 8, |base, ops, options| {
        run_with_faults(
            SqliteWorld::new(base.in_memory()),
            ops,
            options,
            FaultIn::Storage,
        )
    });
}

#[test]
fn a_storage_fault_leaves_before_or_after() {
    check(40, CHUNK_BYTES.into(), 12, |base, ops, options| {
        let world = MemoryWorld::new(base, CHUNK_BYTES);
        run_with_faults(world, ops, options, FaultIn::Storage)
    });
}

#[test]
fn a_lower_fault_leaves_before_or_after() {
    check(40, CHUNK_BYTES.into(), 12, |base, ops, options| {
        let world = MemoryWorld::new(base, CHUNK_BYTES);
        run_with_faults(world, ops, options, FaultIn::Lower)
    });
}
