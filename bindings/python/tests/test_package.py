"""pip install of the checkout: the wheel stands alone, with its own copy of the library."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("scikit_build_core")
PROJECT = pathlib.Path(__file__).resolve().parents[1]


def test_wheel(tmp_path):
    build = pathlib.Path(os.environ.get("TUTTI_BUILD", tmp_path)) / "wheel"
    # The torch backend is built at the first import from the sources in the wheel: test_torch has it.
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--root-user-action=ignore", "--target", str(tmp_path / "site"),
         f"-Cbuild-dir={build}", "-Ccmake.define.TUTTI_PYTHON_TORCH=OFF", str(PROJECT)],
        capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    files = {str(p.relative_to(tmp_path / "site" / "tutti")) for p in (tmp_path / "site" / "tutti").rglob("*")}
    assert {"__init__.py", "_core.pyi", "py.typed", "libtutti.so.0", "torch.py", "_source/bindings/python/src/torch/backend.cc",
            "_source/include/tutti/communicator.h"} <= files
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    env["PYTHONPATH"] = str(tmp_path / "site")
    code = ("import tutti\ncomm = tutti.Communicator.from_environment()\nx = bytearray(b'ab')\n"
            "comm.allreduce(x)\nprint(comm.nranks, tutti.__file__)\n"
            "maps = open('/proc/self/maps').read()\nassert 'site/tutti/libtutti.so.0' in maps\n")
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, "-m", "tutti.launch", "-n", "2", str(script)], capture_output=True,
                          text=True, timeout=60, env=env, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"2 {tmp_path}/site/tutti/__init__.py"] * 2, done.stdout + done.stderr
    listed = subprocess.run([sys.executable, "-c", "import importlib.metadata as m; "
                             "print([e.value for e in m.entry_points(group='torch.backends')])"],
                            capture_output=True, text=True, env=env, cwd=tmp_path)
    assert "tutti._torch_autoload:register" in listed.stdout
