#!/usr/bin/env python3
"""The part of `cargo deny check licenses` that needs no cargo-deny: every
dependency's licence must be satisfiable with the list in deny.toml."""

import json
import re
import subprocess
import sys
import tomllib


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


def main() -> int:
    with open("deny.toml", "rb") as file:
        allowed = set(tomllib.load(file)["licenses"]["allow"])
    metadata = json.loads(
        subprocess.check_output(["cargo", "metadata", "--format-version=1", "--offline", "--locked",
                                 "--filter-platform=x86_64-unknown-linux-gnu"])
    )
    refused = [
        f"{package['name']} {package['version']}: {package['license']}"
        for package in metadata["packages"]
        if not satisfiable(package["license"] or "none", allowed)
    ]
    print("\n".join(refused) or f"{len(metadata['packages'])} packages, all licences allowed")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
