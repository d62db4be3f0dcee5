"""The torch.distributed backend, each program on 4 processes."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

PROGRAMS = pathlib.Path(__file__).parent / "torch_programs.py"


def run(name: str, *args: str, ranks: int = 4) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tutti.launch", "-n", str(ranks), str(PROGRAMS), name, *args],
                          capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("name", ["ops", "messages", "ddp", "fsdp", "leaves"])
def test_program(name):
    done = run(name)
    assert done.returncode == 0 and done.stdout.count("fine") == 4, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["death", "overdue"])
def test_rank_that_fails_is_named(name):
    done = run(name, ranks=3)
    assert done.stdout.count("fine") == 2, done.stdout + done.stderr


@pytest.mark.parametrize("form", [[], ["async"]])
def test_ctrl_c(form):
    done = run("interrupted", *form, ranks=2)
    assert done.stdout.count("fine") == 1, done.stdout + done.stderr


def test_autoload_and_build_at_first_import():
    """The entry point's function registers the backend and loads nothing else."""
    code = ("import torch.distributed as dist, sys\nfrom tutti._torch_autoload import register\nregister()\n"
            "assert 'TUTTI' in dist.Backend._plugins and 'tutti.torch' not in sys.modules\n"
            "dist.init_process_group('tutti', store=dist.HashStore(), rank=0, world_size=1)\n"
            "import torch\nx = torch.ones(3)\ndist.all_reduce(x)\nassert 'tutti.torch' in sys.modules\n"
            "dist.destroy_process_group()\nprint('fine')\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "fine\n", done.stderr
