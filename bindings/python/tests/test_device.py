"""Device arrays, on the fake CUDA driver: nothing here needs a GPU, and nothing here has seen one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

FAKE = pathlib.Path(os.environ.get("TUTTI_BUILD", "")) / "lib" / "fake"
if not (FAKE / "libcuda.so.1").exists():
    pytest.skip("no fake CUDA driver in TUTTI_BUILD", allow_module_level=True)


@pytest.mark.parametrize("name", ["collectives", "streams", "asynchronous", "registered", "refusals"])
def test_program(name):
    environment = {**os.environ, "LD_LIBRARY_PATH": str(FAKE), "TUTTI_MULTI_RANK_GPU": "1"}
    program = pathlib.Path(__file__).parent / "device_programs.py"
    done = subprocess.run([sys.executable, str(program), name], capture_output=True, text=True, timeout=240,
                          env=environment)
    assert done.returncode == 0 and done.stdout == "fine\n", done.stdout + done.stderr
