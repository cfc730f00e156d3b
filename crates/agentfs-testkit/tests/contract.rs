//! The contract suites on the layers in memory, which are the references: a
//! suite that fails here asks for too much.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use agentfs_core::storage::MemoryStorage;
use agentfs_testkit::base::base_tree;
use agentfs_testkit::contract::{StorageBench, lower_suite, storage_suite};
use proptest::prelude::*;

struct Memory;

impl StorageBench for Memory {
    type S = MemoryStorage;

    fn create(&mut self, chunk_size_bytes: u32) -> MemoryStorage {
        MemoryStorage::new(chunk_size_bytes)
    }

    fn reopen(&mut self, storage: MemoryStorage) -> MemoryStorage {
        storage
    }
}

#[test]
fn storage_in_memory_keeps_the_contract() {
    storage_suite(&mut Memory);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lower_layer_in_memory_keeps_the_contract(base in base_tree(4096)) {
        let lower = base.in_memory();
        lower_suite(&lower.clone(), &lower);
    }
}
