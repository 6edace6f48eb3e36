"""Prints the licence texts of what is linked into the program: of the packages in `cargo metadata`, which comes from
standard input, and of what each argument names: NAME=FILE."""

import json
import pathlib
import sys

# Not Rust: in crates of other authors.
VENDORED = {
    "rdkafka-sys": ["librdkafka/LICENSES.txt"],
    "openssl-src": ["openssl/LICENSE.txt"],
    "curl-sys": ["curl/COPYING"],
    "libz-sys": ["src/zlib/LICENSE"],
    "zstd-sys": ["zstd/LICENSE"],
}


def linked(metadata):
    """The packages that the program needs when it runs or is built: none of the tests' own."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, todo = set(), [metadata["resolve"]["root"]]
    while todo:
        node = nodes[todo.pop()]
        if node["id"] in found:
            continue
        found.add(node["id"])
        for dep in node["deps"]:
            if any(kind["kind"] != "dev" for kind in dep["dep_kinds"]):
                todo.append(dep["pkg"])
    return found - {metadata["resolve"]["root"]}


def texts(package):
    directory = pathlib.Path(package["manifest_path"]).parent
    files = sorted(
        file
        for file in directory.iterdir()
        if file.is_file() and file.name.upper().startswith(("LICEN", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"))
    )
    vendored = [directory / name for name in VENDORED.get(package["name"], [])]
    missing = [str(file) for file in vendored if not file.is_file()]
    if missing:
        sys.exit(f"error: {package['name']} has no {', '.join(missing)}: name its licence in {__file__}")
    return [file.read_text(errors="replace").strip() for file in files + vendored]


def main():
    metadata = json.load(sys.stdin)
    wanted = linked(metadata)
    of_text = {}
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        if package["id"] in wanted:
            name = f"{package['name']} {package['version']} ({package['license']})"
            for text in texts(package) or ["(The package comes without a text.)"]:
                of_text.setdefault(text, []).append(name)
    for name, file in (argument.split("=", 1) for argument in sys.argv[1:]):
        of_text.setdefault(pathlib.Path(file).read_text(errors="replace").strip(), []).append(name)
    print("terra-bridge contains the following software, each part under the licences named with it.")
    for text, names in of_text.items():
        print("\n" + "=" * 100 + "\n" + "\n".join(names) + "\n\n" + text)


main()
