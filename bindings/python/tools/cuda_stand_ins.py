"""Lets pip's CUDA build of torch run on a machine without a GPU, without gigabytes of CUDA libraries.

The wheel on PyPI links libcublas, libcudnn, libnccl and others, about 3 GB that a CPU-only process
loads and never calls. For every such library that is not there, this makes a stand-in: a shared
library that exports the symbols torch asks for, with their versions, each of which says its name on
standard error and aborts when it is called. For test environments only; nothing of it is shipped.

    python cuda_stand_ins.py          for the torch of this interpreter; does nothing the second time

Needs cc and binutils (nm, readelf). Exit code 1 and a reason when it cannot be done.
"""

from __future__ import annotations

import collections
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

ROOTS = ("libtorch_python.so", "libtorch_global_deps.so")
# Symbols without a version say by their prefix where they come from.
PREFIXES = {"nccl": "libnccl.so", "cusparseLt": "libcusparseLt.so", "cuFile": "libcufile.so"}
SYSTEM = ("libc.", "libm.", "libdl.", "librt.", "libpthread.", "libgcc_s.", "libstdc++.", "ld-linux",
          "libgomp", "libpython")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed(library: pathlib.Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", "-W", str(library)))


def version_files(library: pathlib.Path) -> dict[str, str]:
    """Symbol version -> the library that it is asked of."""
    files: dict[str, str] = {}
    file = ""
    for line in run("readelf", "-V", "-W", str(library)).splitlines():
        if found := re.search(r"File: (\S+)", line):
            file = found[1]
        elif (found := re.search(r"Name: (\S+)\s+Flags", line)) and file:
            files[found[1]] = file
    return files


def undefined(library: pathlib.Path) -> list[tuple[str, str]]:
    """(symbol, version or "") of every undefined function."""
    out = run("nm", "-D", "--undefined-only", str(library))
    pairs = (line.split()[1].partition("@") for line in out.splitlines() if line.split()[0] == "U")
    return [(name, version.lstrip("@")) for name, _, version in pairs]


def loaded(torch_lib: pathlib.Path) -> tuple[list[pathlib.Path], set[str]]:
    """Torch's own libraries that `import torch` loads, and what else they need."""
    queue, own, others = list(ROOTS), [], set()
    while queue:
        name = queue.pop()
        path = torch_lib / name
        if not path.exists():
            others.add(name)
        elif path not in own:
            own.append(path)
            queue += needed(path)
    return own, others


def make(path: pathlib.Path, symbols: dict[str, set[str]]) -> None:
    """Writes the stand-in `path` with {version: names}."""
    names = sorted(set().union(*symbols.values()))
    lines = [".section .rodata"]
    lines += [f'n{i}: .asciz "{path.name}: stand-in called: {name}\\n"' for i, name in enumerate(names)]
    lines.append(".text")
    for i, name in enumerate(names):
        lines += [f".globl {name}", f".type {name}, @function", f"{name}:",
                  f"leaq n{i}(%rip), %rdi", "jmp tutti_stand_in"]
    lines.append('.section .note.GNU-stack,"",@progbits')
    say = """
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        __attribute__((visibility("hidden"))) void tutti_stand_in(const char* text) {
          if (write(2, text, strlen(text)) < 0) {}
          abort();
        }
    """
    script = ""
    for version, members in sorted(symbols.items()):
        if version:
            script += f"{version} {{ global: {'; '.join(sorted(members))}; }};\n"
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        (here / "names.s").write_text("\n".join(lines) + "\n")
        (here / "say.c").write_text(say)
        (here / "versions").write_text(script)
        versions = [f"-Wl,--version-script={here / 'versions'}"] if script else []
        run("cc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{path.name}", *versions, "-o", str(path),
            str(here / "names.s"), str(here / "say.c"))


def main() -> int:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        print("cuda_stand_ins: no torch here", file=sys.stderr)
        return 1
    torch_lib = pathlib.Path(spec.origin).parent / "lib"
    own, others = loaded(torch_lib)
    packages = torch_lib.parent.parent / "nvidia"
    there = {p.name for p in packages.rglob("*.so*")} if packages.exists() else set()
    missing = {n for n in others if n not in there and not n.startswith(SYSTEM)}
    wanted: dict[str, dict[str, set[str]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for library in own:
        files = version_files(library)
        for name, version in undefined(library):
            source = files.get(version, "")
            if not version:
                prefix = next((p for p in PREFIXES if name.startswith(p)), None)
                source = next((m for m in missing if prefix and m.startswith(PREFIXES[prefix])), "")
            if source in missing:
                wanted[source][version].add(name)
    for name in sorted(missing):
        make(torch_lib / name, wanted[name] or {"": set()})
    check = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True)
    if check.returncode != 0:
        print("cuda_stand_ins: torch does not load:", check.stderr.strip().splitlines()[-1], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
