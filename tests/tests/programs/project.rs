//! The projects that the programs are let loose on. Made outside, as the user of
//! the world would; each error is the reason to skip.

use std::fs;
use std::path::Path;

use agentfs_tests::project::generate;
use agentfs_tests::user::public_toolchain;
use agentfs_tests::{Run, World};

/// Files of a repository: the size of a real one.
const REPOSITORY_FILES: usize = 4_200;

pub(super) fn small(world: &mut World) -> Result<(), String> {
    generate_in(world, 60)
}

pub(super) fn medium(world: &mut World) -> Result<(), String> {
    generate_in(world, 600)
}

fn generate_in(world: &World, files: usize) -> Result<(), String> {
    generate(&world.project, files).map_err(|error| error.to_string())
}

pub(super) fn repository(world: &mut World) -> Result<(), String> {
    generate_in(world, REPOSITORY_FILES)?;
    world.own(&world.project);
    let script =
        "git init -q && git add -A && git commit -qm 'All of it' && git status --porcelain";
    let made = world.run("sh").args(["-euc", script]).finish();
    if made.code() == 0 {
        Ok(())
    } else {
        Err(made.to_string())
    }
}

/// Thirty units in C, with a Makefile that says what it does.
pub(super) fn c(world: &mut World) -> Result<(), String> {
    const UNITS: usize = 30;
    let write = |name: &str, text: String| {
        fs::write(world.project.join(name), text).map_err(|error| error.to_string())
    };
    let (mut declarations, mut sum) = (String::new(), String::from("0"));
    for unit in 0..UNITS {
        let body = format!("#include \"all.h\"\nint unit{unit:02}(void) {{ return {unit}; }}\n");
        write(&format!("unit{unit:02}.c"), body)?;
        declarations.push_str(&format!("int unit{unit:02}(void);\n"));
        sum.push_str(&format!(" + unit{unit:02}()"));
    }
    write("all.h", declarations)?;
    let main = "#include <stdio.h>\n#include \"all.h\"\nint main(void) { printf(\"%d\\n\", ";
    write("main.c", format!("{main}{sum}); return 0; }}\n"))?;
    write(
        "Makefile",
        "OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))\n\
         program: $(OBJECTS)\n\t$(CC) -o $@ $(OBJECTS)\n\
         %.o: %.c all.h\n\t$(CC) -c -o $@ $<\n\
         clean:\n\trm -f program $(OBJECTS)\n"
            .to_owned(),
    )
}

/// A crate with one dependency, which is in the user's registry already.
pub(super) fn rust(world: &mut World) -> Result<(), String> {
    world.prefer_programs_in(&public_toolchain()?.join("bin"));
    copy_from_registry("itoa", &world.home.join(".cargo"))?;
    let write = |name: &str, text: &str| {
        fs::write(world.project.join(name), text).map_err(|error| error.to_string())
    };
    fs::create_dir(world.project.join("src")).map_err(|error| error.to_string())?;
    write(
        "Cargo.toml",
        "[package]\nname = \"app\"\nedition = \"2021\"\n\n[dependencies]\nitoa = \"1\"\n\n[workspace]\n",
    )?;
    write(
        "src/main.rs",
        "fn main() { println!(\"{}\", itoa::Buffer::new().format(42)); }\n",
    )
}

/// Copies what Cargo needs of one crate, from the registry that this workspace
/// was built from: the index entry, the configuration and the archive.
fn copy_from_registry(name: &str, cargo_home: &Path) -> Result<(), String> {
    let ours = std::env::var_os("CARGO_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        Into::into,
    );
    let script = r#"
        cd "$1/registry"
        for part in index/*/config.json index/*/.cache/*/*/"$3" cache/*/"$3"-[0-9]*.crate; do
            mkdir -p "$2/registry/$(dirname "$part")"
            cp "$part" "$2/registry/$part"
        done
    "#;
    let copied = Run::new("sh")
        .env("PATH", "/usr/bin:/bin")
        .args(["-euc", script, "sh"])
        .arg(&ours)
        .arg(cargo_home)
        .arg(name)
        .finish();
    if copied.code() == 0 {
        Ok(())
    } else {
        Err(format!("no {name} in the registry: {copied}"))
    }
}
