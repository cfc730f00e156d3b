//! Real programs inside a session do what they do outside it.
//!
//! Every test goes through [`check`]: the same script runs on a plain copy of a
//! project and in a session of it, and the two trees and outputs must be equal;
//! then the base and the home directory must be as before, `agentfs diff` must
//! list what was done, the next day must see it, and removing the one database
//! file must undo it.

mod project;

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentfs_tests::changes::disagreements;
use agentfs_tests::tree::{By, SCRIPT};
use agentfs_tests::{Run, Tree, Who, World, skip};

/// Divides what a script prints from the listing of the tree after it.
const MARK: &str = "--8<-- the tree --8<--";

/// What a program leaves differs from run to run here; compared otherwise.
struct Program {
    /// Makes the project, outside.
    prepare: fn(&mut World) -> Result<(), String>,
    /// What is done, by `sh -eu`. Its output must not vary.
    script: &'static str,
    /// Paths whose bytes are a matter of chance or time.
    varying: &'static [&'static str],
    /// Whether it fetches from a package registry.
    needs_registry: bool,
}

/// Runs a program outside and inside; see the head of this file.
fn check(who: Who, program: &Program) {
    let mut world = match World::new(who) {
        Ok(world) => world,
        Err(why) => skip!("{why}"),
    };
    if let Err(why) = (program.prepare)(&mut world) {
        skip!("{why}");
    }
    world.own(&world.project);
    world.own(&world.home);

    // Outside first, at the very same path: programs write down where they are.
    let kept = world.dir.join("kept");
    copy(&world.project, &kept);
    let outside = run_script(world.run("sh").args(["-euc", program.script]));
    if outside.code() != 0 && program.needs_registry {
        skip!("no package registry within reach: {outside}");
    }
    let outside = outside.ok();
    let plain = Tree::of(&world.project);
    fs::remove_dir_all(&world.project).unwrap();
    fs::rename(&kept, &world.project).unwrap();

    let base = base_of(&world);
    let home = Tree::of(&world.home);
    let both = format!("(\n{}\n)\necho '{MARK}'\n{SCRIPT}", program.script);
    let inside =
        run_script(world.agentfs(["run", "--session", "work", "--", "sh", "-euc", &both])).ok();
    let (printed, listing) = divide(&inside.stdout);
    assert_eq!(
        printed,
        outside.out(),
        "the output differs from that outside"
    );
    let view = Tree::parse(listing);
    plain.clone().without(program.varying).assert_same(
        &view.clone().without(program.varying),
        By::Content,
        "outside and inside",
    );

    world.wait_for_end("work");
    base.assert_same(&base_of(&world), By::Identity, "the base before and after");
    home.assert_same(
        &Tree::of(&world.home),
        By::Content,
        "the home before and after",
    );
    check_diff(&world, &base, &view);

    let next_day = world.view("work");
    view.assert_same(&next_day, By::Identity, "the session and its next day");

    world.wait_for_end("work");
    fs::remove_file(world.database("work")).unwrap();
    base.assert_same(
        &without_root(world.view("work")),
        By::Identity,
        "the base and a new session",
    );
}

fn run_script(run: Run) -> agentfs_tests::Finished {
    run.limit(Duration::from_secs(300))
        .env("GIT_AUTHOR_DATE", "2026-01-02T03:04:05Z")
        .env("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z")
        .finish()
}

/// The base without its root: making `.agentfs` changes the time of that, and
/// the root of a view has an inode number of its own.
fn base_of(world: &World) -> Tree {
    without_root(Tree::of(&world.project))
}

fn without_root(tree: Tree) -> Tree {
    tree.without(&[""])
}

fn copy(from: &Path, to: &Path) {
    let _ = Run::new("cp")
        .env("PATH", "/usr/bin:/bin")
        .arg("-a")
        .arg(from)
        .arg(to)
        .finish()
        .ok();
}

fn divide(stdout: &[u8]) -> (String, &[u8]) {
    let mark = format!("{MARK}\n");
    let at = stdout
        .windows(mark.len())
        .position(|window| window == mark.as_bytes())
        .unwrap_or_else(|| panic!("no listing: {}", String::from_utf8_lossy(stdout)));
    (
        String::from_utf8_lossy(&stdout[..at]).into_owned(),
        &stdout[at + mark.len()..],
    )
}

/// `agentfs diff` and the two trees must tell the same.
fn check_diff(world: &World, base: &Tree, view: &Tree) {
    let told = world.agentfs_out(["diff", "work", "--json"]).out();
    let wrong = disagreements(&told, base, &without_root(view.clone()));
    let shown: Vec<_> = wrong.iter().take(20).collect();
    assert!(
        wrong.is_empty(),
        "agentfs diff, {} disagreements: {shown:#?}",
        wrong.len()
    );
    let lines = world.agentfs_out(["diff", "work"]).out();
    let entries: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
    assert_eq!(
        lines.lines().count(),
        entries.len(),
        "the two forms of agentfs diff differ"
    );
}

/// Makes one test as root and one as an ordinary user of each program.
macro_rules! programs {
    ($($name:ident, $missing:ident, $why:literal => $program:expr;)*) => {
        mod as_root {
            use super::*;
            $(
                #[test]
                #[cfg_attr(any(missing_root, missing_fuse, $missing), ignore = $why)]
                fn $name() {
                    check(Who::Root, &$program);
                }
            )*
        }
        mod as_an_ordinary_user {
            use super::*;
            $(
                #[test]
                #[cfg_attr(any(missing_fuse, $missing), ignore = $why)]
                fn $name() {
                    check(Who::Ordinary, &$program);
                }
            )*
        }
    };
}

programs! {
    git, missing_git, "skipped: root, /dev/fuse or git is missing" => GIT;
    npm_install, missing_npm, "skipped: root, /dev/fuse or npm is missing" => NPM;
    cargo_build, missing_cargo, "skipped: root, /dev/fuse or cargo is missing" => CARGO;
    pip_install, missing_python3, "skipped: root, /dev/fuse or python3 is missing" => PIP;
    python_mmap, missing_python3, "skipped: root, /dev/fuse or python3 is missing" => MMAP;
    sqlite, missing_sqlite3, "skipped: root, /dev/fuse or sqlite3 is missing" => SQLITE;
    make, missing_make, "skipped: root, /dev/fuse or make is missing" => MAKE;
    rsync, missing_rsync, "skipped: root, /dev/fuse or rsync is missing" => RSYNC;
    tar, missing_tar, "skipped: root, /dev/fuse or tar is missing" => TAR;
    vim, missing_vim, "skipped: root, /dev/fuse or vim is missing" => VIM;
    tmux, missing_tmux, "skipped: root, /dev/fuse or tmux is missing" => TMUX;
    shell_tools, missing_tar, "skipped: root, /dev/fuse or tar is missing" => SHELL_TOOLS;
}

const GIT: Program = Program {
    prepare: project::repository,
    script: r"
        git status --porcelain
        git checkout -q -b feature
        git ls-files src | awk 'NR % 20 == 0' | while read -r file; do echo changed >>$file; done
        git commit -qam 'Change every twentieth file'
        git mv src/part00 src/moved
        git commit -qm 'Move a directory'
        git rm -rq src/part01
        mkdir src/part01
        echo new >src/part01/new
        git add -A
        git commit -qm 'Make a directory anew'
        git stash list
        git checkout -q main
        git status --porcelain
        ls src/part01 | wc -l
        git merge -q --no-ff -m merged feature
        git checkout -q -b other HEAD~1
        git checkout -q main
        git gc -q
        git fsck --strict
        git clone -q . clone
        git -C clone log --format=%H
        git -C clone status --porcelain
        git status --porcelain
        git diff --stat HEAD~1 | tail -1
    ",
    // What holds times of files, and packs, which two threads make.
    varying: &[".git/index", ".git/objects", "clone/.git"],
    needs_registry: false,
};

const NPM: Program = Program {
    prepare: project::small,
    script: r#"
        npm init -y >/dev/null
        npm install --no-audit --no-fund --loglevel=error express@4.21.2 >/dev/null
        node -e 'console.log(typeof require("express"))'
        npm ls --depth=0 | tail -n +2
    "#,
    varying: &[],
    needs_registry: true,
};

const CARGO: Program = Program {
    prepare: project::rust,
    script: r#"
        cargo build --offline --quiet
        ./target/debug/app
        cargo build --offline 2>&1 | grep -c Compiling || true
        echo 'fn main() { println!("{}", itoa::Buffer::new().format(43)); }' >src/main.rs
        cargo run --offline --quiet
        cargo test --offline --quiet >/dev/null
    "#,
    varying: &["target"],
    needs_registry: false,
};

const PIP: Program = Program {
    prepare: project::small,
    script: r#"
        /usr/bin/python3 -m venv venv
        venv/bin/pip install --quiet --no-compile --disable-pip-version-check six==1.17.0
        venv/bin/python -B -c 'import six; print(six.__version__)'
        find venv -name __pycache__ -exec rm -rf {} +
    "#,
    varying: &[],
    needs_registry: true,
};

const MMAP: Program = Program {
    prepare: project::small,
    script: r#"
        python3 -B - <<'END'
import mmap, os
# A file of the base, mapped and changed: one coherent file by every way in.
fd = os.open("special/sparse", os.O_RDWR)
before = os.fstat(fd).st_ino
m = mmap.mmap(fd, 0)
other = open("special/sparse", "rb")
m[4096:4100] = b"page"
m.flush()
other.seek(4096)
print(other.read(4), os.pread(fd, 4, 4096), m[:4], m[-4:])
os.pwrite(fd, b"HEAD", 0)
print(m[:4], os.fstat(fd).st_ino == before == os.stat("special/sparse").st_ino)
# A private map keeps its changes to itself.
p = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
p[:4] = b"mine"
print(os.pread(fd, 4, 0), p[:4])
# A new file, grown under its map and unlinked while mapped.
new = os.open("new", os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(new, 1 << 20)
n = mmap.mmap(new, 1 << 20)
n[-1:] = b"!"
os.unlink("new")
os.lseek(new, -1, os.SEEK_END)
print(os.read(new, 1), os.fstat(new).st_nlink)
END
    "#,
    varying: &[],
    needs_registry: false,
};

const SQLITE: Program = Program {
    prepare: project::small,
    script: r#"
        sqlite3 wal.db 'PRAGMA journal_mode=WAL; CREATE TABLE t(x)'
        sqlite3 rollback.db 'CREATE TABLE t(x)'
        write() {
            for number in $(seq 50); do
                sqlite3 -cmd '.timeout 60000' "$1" "INSERT INTO t VALUES($number)"
            done
        }
        for database in wal.db rollback.db; do
            write $database &
            one=$!
            write $database &
            two=$!
            wait $one
            wait $two
            sqlite3 $database 'SELECT count(*), sum(x) FROM t; PRAGMA integrity_check'
        done
        seq 20000 | sqlite3 rollback.db 'CREATE TABLE big(x)' '.import /dev/stdin big' \
            'DELETE FROM big WHERE x % 3 = 0' VACUUM 'SELECT count(*) FROM big'
    "#,
    varying: &["wal.db", "rollback.db"],
    needs_registry: false,
};

const MAKE: Program = Program {
    prepare: project::c,
    script: r"
        make -s -j2
        ./program
        sed -i 's/return 7;/return 1007;/' unit07.c
        make -j2 | sort
        ./program
        make -s clean
        ls *.o 2>/dev/null | wc -l
        make -s -j2
    ",
    varying: &[],
    needs_registry: false,
};

const RSYNC: Program = Program {
    prepare: project::medium,
    script: r#"
        rsync -aH src special copy/
        rsync -aHin --delete src special copy/
        echo changed >special/run.sh
        rm -r src/part03
        rsync -aH --delete src special copy/
        rsync -aHin --delete src special copy/
        rsync -a --inplace --no-whole-file special/sparse src/part00/
        diff -r --no-dereference special copy/special
    "#,
    varying: &[],
    needs_registry: false,
};

const TAR: Program = Program {
    prepare: project::medium,
    script: r#"
        tar --sort=name -cf all.tar src special
        tar -df all.tar
        mkdir out
        tar -xf all.tar -C out
        tar -df all.tar -C out
        tar -czf - src | tar -tzf - | wc -l
        rm -r src
        tar -xf all.tar src
        tar -df all.tar
    "#,
    varying: &[],
    needs_registry: false,
};

const VIM: Program = Program {
    prepare: project::small,
    script: r#"
        file=$(ls src/part00/module000/*.c | head -1)
        vim -es -N -u NONE -c 'set backup backupdir=. backupcopy=no' -c '%s/layer/LAYER/ge' -c wq $file
        vim -es -N -u NONE -c 'set nobackup backupcopy=yes' -c 'normal ggOa first line' -c wq special/link
        vim -es -N -u NONE -c 'set fileformat=dos' -c wq special/run.sh
        cat special/run.sh 'special/one name' 'special/other name'
        test -x special/run.sh
    "#,
    varying: &[],
    needs_registry: false,
};

const TMUX: Program = Program {
    prepare: project::small,
    script: r#"
        tmux -f /dev/null -S socket new-session -d -s work 'echo first >tmux.out; exec sh'
        tmux -S socket send-keys -t work 'tty >>tty.out; echo second >>tmux.out; exit' Enter
        for wait in $(seq 200); do
            grep -q second tmux.out 2>/dev/null && break
            sleep 0.05
        done
        tmux -S socket kill-server 2>/dev/null || true
        cat tmux.out
        grep -c '^/dev/pts/' tty.out
        rm -f tty.out socket
    "#,
    varying: &[],
    needs_registry: false,
};

const SHELL_TOOLS: Program = Program {
    prepare: project::medium,
    script: r#"
        # A fifo between two processes, a file used after its name is gone.
        mkfifo fifo
        echo through the fifo >fifo &
        cat fifo
        exec 5<>gone
        rm gone
        echo still here >&5
        cat </proc/self/fd/5 || true
        exec 5>&-
        # Renames over each other, of directories of the base, back and forth.
        mv src/part00 elsewhere
        mkdir src/part00
        ls src/part00 | wc -l
        mv elsewhere/module000 src/part00/
        rm -r elsewhere
        mv -n special/run.sh special/read-only
        mv special/run.sh 'special/empty directory/'
        # Parts of files.
        printf XX | dd of=special/sparse bs=1 seek=2 conv=notrunc status=none
        truncate -s 3M special/sparse
        fallocate -p -o 0 -l 4096 special/sparse
        fallocate -l 4M special/sparse
        cp --sparse=always special/sparse sparse-copy
        cmp special/sparse sparse-copy
        # Attributes alone.
        chmod 700 src/part02
        chmod u+s,g-w 'special/one name'
        touch -d '2300-01-02T03:04:05.678901234Z' special/link 'special/other name'
        stat -c '%y %h %a' 'special/one name'
        ln 'special/other name' third
        ln -s third fourth
        cat fourth
        install -D -m 640 special/link deep/er/installed
        flock lock sh -c 'flock -n lock true || echo locked'
        find . -path ./.git -prune -o -newer special/read-only -type d -name none -print
        du -s --apparent-size deep >/dev/null
        grep -rl layer src | wc -l
        rm -rf src/part04
        test ! -e src/part04
        ls -a | tr '\n' ' '
    "#,
    varying: &[],
    needs_registry: false,
};
