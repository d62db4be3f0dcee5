"""The torch.distributed backend on device tensors: programs on several processes, here on the fake CUDA driver.
`tests/gpu/torch_tutti_test.py` runs the same programs on CUDA devices."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

FAKE = pathlib.Path(os.environ.get("TUTTI_BUILD", "")) / "lib" / "fake"
ACCELERATOR = FAKE / "fake_accelerator.so"
if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)
if not ACCELERATOR.exists():
    pytest.skip("no fake CUDA driver for torch in TUTTI_BUILD", allow_module_level=True)

PROGRAMS = pathlib.Path(__file__).parent / "torch_device_programs.py"
# Every rank on a device of its own (kernels that reach into each other's windows), or all on one
# (through the host).
WAYS = {"peers": {}, "staged": {"TUTTI_TEST_SHARED": "1", "TUTTI_MULTI_RANK_GPU": "1"}}


def run(name: str, *args: str, ranks: int = 2, way: str = "peers") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(FAKE), "TUTTI_TEST_DEVICE": "fake",
                   "TUTTI_FAKE_ACCELERATOR": str(ACCELERATOR), **WAYS[way]}
    return subprocess.run([sys.executable, "-m", "tutti.launch", "-n", str(ranks), str(PROGRAMS), name, *args],
                          capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["ops", "streams", "messages", "ddp", "capture", "leaves"])
def test_program(name, way):
    ranks = 3 if name in ("ops", "messages") else 2
    done = run(name, ranks=ranks, way=way)
    assert done.returncode == 0 and done.stdout.count("fine") == ranks, done.stdout + done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_rank_that_dies_is_named(way):
    done = run("death", ranks=3, way=way)
    assert done.stdout.count("fine") == 2, done.stdout + done.stderr


@pytest.mark.parametrize("when", ["first", "later"])
def test_rank_that_does_not_come(when):
    done = run("overdue", when)
    assert done.stdout.count("fine") == 1, done.stdout + done.stderr


def test_ctrl_c():
    done = run("interrupted")
    assert done.stdout.count("fine") == 1, done.stdout + done.stderr
