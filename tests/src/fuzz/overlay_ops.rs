//! Random bases and operations, with faults or without, against the model: the
//! generator of the model's own tests, its dice thrown by the fuzzer.

use agentfs_testkit::base::{BaseTree, base_tree};
use agentfs_testkit::driver::{Checked, Driver, FaultIn, Options, RefPolicy, World};
use agentfs_testkit::op::{Op, Weights, op};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::worlds::{MemoryWorld, SQLITE_CHUNK_BYTES, SqliteWorld};

const CHUNK_BYTES: u32 = 64;
/// Operations in a sequence, and in one where each is tried with every fault.
const OPS_MAX: usize = 60;
const FAULTY_OPS_MAX: usize = 10;

/// Bytes that one value is drawn from.
const WORD_BYTES: usize = 4;

/// Draws a base and a sequence from the bytes and compares.
///
/// # Panics
/// When overlay and model come apart.
pub fn overlay_ops(bytes: &[u8]) {
    let Some((&how, words)) = bytes.split_first() else {
        return;
    };
    // SQLite is some fifty times slower: one input in four.
    let (sqlite, fault) = (how & 3 == 3, how >> 2 & 3);
    let fault = match fault {
        1 => Some(FaultIn::Storage),
        2 => Some(FaultIn::Lower),
        _ => None,
    };
    let options = Options {
        refs: if how & 16 == 0 {
            RefPolicy::Eager
        } else {
            RefPolicy::Kernel
        },
        verify_every: if how & 32 == 0 { 1 } else { 5 },
    };
    let chunk = if sqlite {
        SQLITE_CHUNK_BYTES
    } else {
        CHUNK_BYTES
    };
    let most = if fault.is_some() {
        FAULTY_OPS_MAX
    } else {
        OPS_MAX
    };
    let (base, ops) = draw(words, chunk, most);
    let outcome = if sqlite {
        run(SqliteWorld::new(base.in_memory()), &ops, options, fault)
    } else {
        run(MemoryWorld::new(&base, chunk), &ops, options, fault)
    };
    if let Err(divergence) = outcome {
        panic!("{divergence}\n{options:?} {fault:?}\n{base:#?}\n{ops:#?}");
    }
}

/// The first word is the base, each other one an operation: a change of the bytes
/// changes one of them and leaves the rest.
fn draw(words: &[u8], chunk: u32, most: usize) -> (BaseTree, Vec<Op>) {
    let mut words = words.chunks(WORD_BYTES);
    let base = value(&base_tree(chunk.into()), words.next().unwrap_or_default());
    let op = op(Weights::default());
    let ops = words.take(most).map(|word| value(&op, word)).collect();
    (base, ops)
}

/// What the generator makes of dice that this word has thrown.
fn value<T: Strategy>(strategy: &T, word: &[u8]) -> T::Value {
    // All zeros would be no seed.
    let mut seed = *b"the same for all";
    for (seed, byte) in seed.iter_mut().zip(word) {
        *seed ^= byte;
    }
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = strategy.new_tree(&mut runner);
    tree.expect("a strategy that refuses nothing").current()
}

fn run<W: World>(world: W, ops: &[Op], options: Options, fault: Option<FaultIn>) -> Checked {
    let mut driver = Driver::new(world, options)?;
    let Some(layer) = fault else {
        return driver.run(ops);
    };
    for op in ops {
        driver.step_with_faults(op, layer)?;
    }
    driver.finish()
}
