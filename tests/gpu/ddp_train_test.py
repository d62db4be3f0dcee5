"""`tutti run --nccl -n 4 -- python train.py`: the loss curve is that of a single process.

Usage: ddp_train_test.py TUTTI. Exit status 77: skipped, and why.
"""

import os
import pathlib
import subprocess
import sys

BOUND = 1e-4  # relative; sums of gradients are rounded in another order


def curve(command: list[str], environment: dict[str, str]) -> list[float]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    lines = [line.split() for line in done.stdout.splitlines() if "loss " in line]
    return [float(words[-1]) for words in lines]


def main() -> None:
    try:
        import torch
    except ImportError:
        print("skipped: no torch")
        sys.exit(77)
    if not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device")
        sys.exit(77)
    script = str(pathlib.Path(__file__).with_name("train.py"))
    alone = curve([sys.executable, script], dict(os.environ))
    environment = dict(os.environ, TUTTI_MULTI_RANK_GPU="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29541")
    shared = curve([sys.argv[1], "run", "--nccl", "-n", "4", "--", sys.executable, script], environment)
    if len(alone) < 10 or len(alone) != len(shared):
        sys.exit(f"{len(alone)} steps alone, {len(shared)} steps on 4 ranks")
    worst = max(abs(a - b) / max(abs(a), 1e-6) for a, b in zip(alone, shared, strict=True))
    print(f"{len(alone)} steps, loss {alone[0]:.4f} to {alone[-1]:.4f}, largest relative difference {worst:.2e}")
    if worst > BOUND:
        sys.exit(f"the curves differ by {worst:.2e}, more than {BOUND}")


main()
