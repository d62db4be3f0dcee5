"""pip install of the checkout: the wheel stands alone, with its own copy of the library."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("scikit_build_core")
PROJECT = pathlib.Path(__file__).resolve().parents[1]


def test_wheel(tmp_path):
    build = pathlib.Path(os.environ.get("TUTTI_BUILD", tmp_path))
    # With the compiler and the flags of the build at hand, a compiler cache has the core already.
    cache = (build / "CMakeCache.txt").read_text() if (build / "CMakeCache.txt").exists() else ""
    strict = "TUTTI_WERROR:BOOL=ON" in cache
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache, re.M)
    site = build / "wheel-site"
    shutil.rmtree(site, ignore_errors=True)
    build_env = dict(os.environ, **({"CXX": compiler[1]} if compiler else {}))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--root-user-action=ignore", "--target", str(site),
         f"-Cbuild-dir={build / 'wheel'}", "-Ccmake.define.TUTTI_PYTHON_TORCH=OFF",
         f"-Ccmake.define.TUTTI_WERROR={'ON' if strict else 'OFF'}",
         "-Ccmake.define.TUTTI_CUDA=OFF", str(PROJECT)],  # kernels take minutes and are tested elsewhere
        capture_output=True, text=True, timeout=1100, env=build_env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    files = {str(p.relative_to(site / "tutti")) for p in (site / "tutti").rglob("*")}
    assert {"__init__.py", "_core.pyi", "py.typed", "libtutti.so.0", "torch.py", "_source/bindings/python/src/torch/backend.cc",
            "_source/include/tutti/communicator.h"} <= files
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    env["PYTHONPATH"] = str(site)
    code = ("import tutti\ncomm = tutti.Communicator.from_environment()\nx = bytearray(b'ab')\n"
            "comm.allreduce(x)\nprint(comm.nranks, tutti.__file__)\n"
            "maps = open('/proc/self/maps').read()\nassert 'wheel-site/tutti/libtutti.so.0' in maps\n")
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, "-m", "tutti.launch", "-n", "2", str(script)], capture_output=True,
                          text=True, timeout=60, env=env, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"2 {site}/tutti/__init__.py"] * 2, done.stdout + done.stderr
    listed = subprocess.run([sys.executable, "-c", "import importlib.metadata as m; "
                             "print([e.value for e in m.entry_points(group='torch.backends')])"],
                            capture_output=True, text=True, env=env, cwd=tmp_path)
    assert "tutti._torch_autoload:register" in listed.stdout
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: its backend is not built from the wheel")
    # The wheel has the torch backend as sources only: the first import compiles them, once.
    env["TUTTI_TORCH_CACHE"] = str(tmp_path / "cache")
    env["CXX"] = f"{shutil.which('ccache') or ''} {compiler[1] if compiler else 'g++'}"
    code = ("import torch, torch.distributed as dist, tutti.torch\n"
            "dist.init_process_group('tutti', store=dist.HashStore(), rank=0, world_size=1)\n"
            "x = torch.ones(3)\ndist.all_reduce(x)\ndist.destroy_process_group()\nprint('fine')\n")
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env,
                                    cwd=tmp_path, timeout=900) for _ in range(2))
    assert first.stdout == second.stdout == "fine\n", first.stderr + second.stderr
    assert "building the extension" in first.stderr and "building" not in second.stderr
