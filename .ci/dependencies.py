#!/usr/bin/env python3
"""The parts of `cargo deny check licenses bans sources` that need no cargo-deny,
by the same deny.toml: every licence must be satisfiable, no banned crate may be
there, no version may be a wildcard, and everything comes from crates.io or from
this repository. Crates of two versions are told, as there. Covers the fuzz
targets' workspace as well."""

import collections
import json
import re
import subprocess
import sys
import tomllib

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def satisfiable(expression: str, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression; `A/B` is the old spelling of `A OR B`."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    words = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    python = []
    skip = False
    for token in tokens:
        if skip:
            skip = False
        elif token == "WITH":
            skip = True  # an exception only ever grants more
        else:
            python.append(words.get(token, str(token in allowed)))
    return bool(eval(" ".join(python), {"__builtins__": {}}))


def licences(packages: list[dict], allowed: set[str]) -> list[str]:
    return [
        f"{package['name']} {package['version']}: the licence {package['license']} is not allowed"
        for package in packages
        if not satisfiable(package["license"] or "none", allowed)
    ]


def bans(packages: list[dict], banned: dict[str, str]) -> list[str]:
    findings = [
        f"{package['name']} is banned: {banned[package['name']]}"
        for package in packages
        if package["name"] in banned
    ]
    for package in (package for package in packages if package["source"] is None):
        findings += [
            f"{package['name']} takes any version of {dependency['name']}"
            for dependency in package["dependencies"]
            if dependency["req"] == "*" and dependency.get("path") is None
        ]
    return findings


def sources(packages: list[dict]) -> list[str]:
    return [
        f"{package['name']} {package['version']} comes from {package['source']}"
        for package in packages
        if package["source"] not in (None, CRATES_IO)
    ]


def duplicates(packages: list[dict]) -> list[str]:
    versions = collections.defaultdict(set)
    for package in packages:
        versions[package["name"]].add(package["version"])
    return [f"{name} {' and '.join(sorted(v))}" for name, v in sorted(versions.items()) if len(v) > 1]


def packages_of(manifest: str) -> list[dict]:
    # The packages that are built for this platform, by the graph: the list has
    # others, which only other platforms use.
    metadata = json.loads(
        subprocess.check_output(["cargo", "metadata", "--format-version=1", "--locked", "--manifest-path", manifest,
                                 "--filter-platform=x86_64-unknown-linux-gnu"])
    )
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    return [package for package in metadata["packages"] if package["id"] in used]


def main() -> int:
    with open("deny.toml", "rb") as file:
        rules = tomllib.load(file)
    allowed = set(rules["licenses"]["allow"])
    banned = {entry["name"]: entry["reason"] for entry in rules["bans"]["deny"]}
    refused = []
    for manifest, more in (("Cargo.toml", set()), ("fuzz/Cargo.toml", {"NCSA"})):
        packages = packages_of(manifest)
        refused += licences(packages, allowed | more) + bans(packages, banned) + sources(packages)
        twice = duplicates(packages)
        print(f"{manifest}: {len(packages)} packages" + (f", of two versions: {', '.join(twice)}" if twice else ""))
    print("\n".join(refused) or "all licences and sources allowed, nothing banned")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
