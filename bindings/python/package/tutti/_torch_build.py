"""Finds, or builds once, the extension that fits the torch which is installed.

A wheel of tutti needs no torch, and an extension for torch fits one version of it only. So the
sources travel with the package: the first `import tutti.torch` under a new torch compiles them (a
C++ compiler, about a minute) into $TUTTI_TORCH_CACHE or ~/.cache/tutti, for all later ones.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from types import ModuleType
from typing import Any

_HERE = pathlib.Path(__file__).resolve().parent
# The repository, or the part of it that a wheel holds.
_ROOTS = [_HERE / "_source", _HERE.parents[3]]
_SOURCES = "bindings/python/src/torch"


def compile_flags(torch: Any) -> list[str]:
    """What a compiler needs to know of torch and Python."""
    root = pathlib.Path(torch.__file__).parent
    return [
        "-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-DTORCH_EXTENSION_NAME=_torch",
        "-DTORCH_API_INCLUDE_EXTENSION_H", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        "-isystem", str(root / "include"),
        "-isystem", str(root / "include" / "torch" / "csrc" / "api" / "include"),
        "-isystem", sysconfig.get_paths()["include"],
    ]


def link_flags(torch: Any) -> list[str]:
    """The libraries of torch that the extension uses; `import torch` has loaded them before it."""
    return [f"-L{pathlib.Path(torch.__file__).parent / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-lc10"]


def _root() -> pathlib.Path:
    for root in _ROOTS:
        if (root / _SOURCES).exists():
            return root
    raise ImportError(f"tutti.torch: {_SOURCES} is missing from this installation of tutti")


def _library() -> pathlib.Path:
    """libtutti.so as tutti._core has loaded it: both must be one copy."""
    from tutti import _core  # noqa: F401  loads it

    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if pathlib.Path(path).name.startswith("libtutti.so"):
            return pathlib.Path(path)
    raise ImportError("tutti.torch: libtutti.so is not loaded")


def _build(torch: Any, target: pathlib.Path) -> None:
    root = _root()
    compiler = shlex.split(os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or "")
    if not compiler:
        raise ImportError("tutti.torch: no C++ compiler to build the extension for torch "
                          f"{torch.__version__}; install g++ or set CXX")
    target.parent.mkdir(parents=True, exist_ok=True)
    library = _library()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        jobs = []
        for source in sorted((root / _SOURCES).glob("*.cc")):
            out = f"{folder}/{source.stem}.o"
            jobs.append((out, subprocess.Popen(
                [*compiler, *compile_flags(torch), f"-I{root}", f"-I{root / 'include'}", "-c", str(source), "-o", out],
                stderr=subprocess.PIPE, text=True)))
        for out, job in jobs:
            _, errors = job.communicate()
            if job.returncode != 0:
                raise ImportError(f"tutti.torch: building for torch {torch.__version__} failed:\n{errors[-4000:]}")
        made = f"{folder}/{target.name}"
        done = subprocess.run(
            [*compiler, "-shared", *[out for out, _ in jobs], str(library), *link_flags(torch),
             f"-Wl,-rpath,{library.parent}", "-o", made], capture_output=True, text=True)
        if done.returncode != 0:
            raise ImportError(f"tutti.torch: linking for torch {torch.__version__} failed:\n{done.stderr[-4000:]}")
        os.replace(made, target)  # other ranks may be doing the same


def _cached(torch: Any) -> pathlib.Path:
    digest = hashlib.sha256()
    for source in sorted((_root() / _SOURCES).glob("*")):
        digest.update(source.read_bytes())
    digest.update(str(_library()).encode())
    cache = pathlib.Path(os.environ.get("TUTTI_TORCH_CACHE") or pathlib.Path.home() / ".cache" / "tutti")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return cache / f"torch-{torch.__version__}-{digest.hexdigest()[:16]}" / f"_torch{suffix}"


def load() -> ModuleType:
    """The module tutti._torch for the torch of this process."""
    import torch

    package = pathlib.Path(__file__).parent
    prebuilt = next(package.glob("_torch.*.so"), None)
    made_for = package / "_torch.version"
    if prebuilt and made_for.exists() and made_for.read_text().strip() == torch.__version__:
        path = prebuilt
    else:
        path = _cached(torch)
        if not path.exists():
            print(f"tutti.torch: building the extension for torch {torch.__version__}, once",
                  file=sys.stderr)
            _build(torch, path)
    loader = importlib.machinery.ExtensionFileLoader("tutti._torch", str(path))
    spec = importlib.util.spec_from_file_location("tutti._torch", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tutti._torch"] = module
    loader.exec_module(module)
    return module
