"""Each program of the tutorial, as its first lines say."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
SAYS = {
    "01_hello_all_reduce.py": ["rank 3 of 4: [1, 2, 3, 4]"],
    "02_numpy.py": ["recvbuf has shape (7,)", "2 of 4 ranks share my parity"],
    "03_ddp.py": ["loss", "on 4 ranks"],
    "04_compare_with_gloo.py": ["tutti us", "4194304"],
    "05_plot_a_sweep.py": ["tutti.empty: GB/s", "4194304 B"],
}


def test_every_example_is_run():
    assert sorted(p.name for p in EXAMPLES.glob("*.py")) == sorted(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name):
    if "torch" in (EXAMPLES / name).read_text() and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed in this environment")
    done = subprocess.run([sys.executable, "-m", "tutti.launch", "-n", "4", str(EXAMPLES / name)],
                          capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in SAYS[name]:
        assert text in done.stdout
