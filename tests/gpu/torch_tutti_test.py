"""torch.distributed's backend "tutti" on CUDA tensors: the programs of bindings/python/tests/torch_device_programs.py.

Two ranks on the devices that are there; where there are fewer, all on the first one. Usage: torch_tutti_test.py.
Exit status 77: skipped, and why.
"""

import os
import pathlib
import subprocess
import sys

PROGRAMS = pathlib.Path(__file__).parents[2] / "bindings" / "python" / "tests" / "torch_device_programs.py"
RANKS = 2


def skip(why: str) -> None:
    print(f"skipped: {why}")
    sys.exit(77)


def main() -> None:
    try:
        import torch
    except ImportError:
        skip("no torch")
    if not torch.cuda.is_available():
        skip("torch finds no CUDA device")
    try:
        import tutti  # noqa: F401
    except ImportError:
        skip("import tutti does not work here")
    devices = torch.cuda.device_count()
    environment = dict(os.environ, TUTTI_TEST_DEVICE="cuda")
    if devices < RANKS:
        environment |= {"TUTTI_TEST_SHARED": "1", "TUTTI_MULTI_RANK_GPU": "1"}
    print(f"{RANKS} ranks on {min(devices, RANKS)} devices")
    failed = []
    for name in ("ops", "streams", "messages", "ddp", "cuda_graph", "leaves"):
        command = [sys.executable, "-m", "tutti.launch", "-n", str(RANKS), str(PROGRAMS), name]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            output, fine = done.stdout + done.stderr, done.returncode == 0 and done.stdout.count("fine") == RANKS
        except subprocess.TimeoutExpired as error:
            output, fine = f"{error}\n{error.stdout}\n{error.stderr}", False
        print(f"{name}: {'passed' if fine else 'FAILED'}")
        if not fine:
            failed.append(name)
            print(output)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


main()
