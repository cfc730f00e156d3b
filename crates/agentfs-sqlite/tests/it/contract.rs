//! The contract that every storage has to keep, run on both volumes.

use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};
use agentfs_testkit::contract::{StorageBench, storage_suite};

use crate::kit::Dir;

struct Bench {
    volume: Volume,
    dirs: Vec<Dir>,
}

impl StorageBench for Bench {
    type S = SqliteStorage;

    fn create(&mut self, chunk_size_bytes: u32) -> SqliteStorage {
        let dir = Dir::new();
        let options = OpenOptions::new()
            .create(true)
            .chunk_size_bytes(chunk_size_bytes);
        let database = Database::open(&dir.path(), &options).unwrap();
        self.dirs.push(dir);
        database.volume(self.volume)
    }

    fn reopen(&mut self, storage: SqliteStorage) -> SqliteStorage {
        let database = storage.database();
        let path = database.path().to_path_buf();
        database.close().unwrap();
        drop((database, storage));
        Database::open(&path, &OpenOptions::new())
            .unwrap()
            .volume(self.volume)
    }
}

fn check(volume: Volume) {
    storage_suite(&mut Bench {
        volume,
        dirs: Vec::new(),
    });
}

#[test]
fn the_view_keeps_the_contract() {
    check(Volume::View);
}

#[test]
fn the_home_volume_keeps_the_contract() {
    check(Volume::Home);
}
