"""python -m tutti.launch -n 4 script.py [args]   or   -n 4 -m module [args]

Starts the ranks of a Python program on this host (`tutti run` starts any program, on many hosts).
Each finds its place through tutti.Communicator.from_environment(), and through torch.distributed's
env:// by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. The exit code is that of the first rank that
failed (128 + signal); the others get 2 seconds to say what they saw.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

from tutti._core import UniqueId

_GRACE = 2.0


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tutti.launch", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--ranks", type=int, required=True, help="how many ranks")
    parser.add_argument("-m", "--module", action="store_true", help="the program is a module's name")
    parser.add_argument("program")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if options.ranks < 1:
        parser.error(f"-n {options.ranks}: at least one rank")
    return options


def _environment(rank: int, ranks: int, id_fd: int, port: int) -> dict[str, str]:
    env = dict(os.environ)
    for name in ("TUTTI_ID", "TUTTI_ROOT"):
        env.pop(name, None)
    env.update(TUTTI_RANK=str(rank), TUTTI_SIZE=str(ranks), TUTTI_LOCAL_RANK=str(rank),
               TUTTI_LOCAL_SIZE=str(ranks), TUTTI_ID_FD=str(id_fd),
               RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks),
               MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # As torchrun does: ranks that each use every CPU are in each other's way.
    env.setdefault("OMP_NUM_THREADS", "1")
    return env


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Stays until all have ended; the exit code of the first that failed."""
    code, deadline = 0, None
    while any(p.poll() is None for p in processes):
        for p in processes:
            ended = p.poll()
            if ended and code == 0:
                code = 128 - ended if ended < 0 else ended
                deadline = time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            return code
        time.sleep(0.01)
    return code or next((128 - p.returncode if p.returncode < 0 else p.returncode
                         for p in processes if p.returncode), 0)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for p in processes:
        if p.poll() is None:
            p.terminate()
    for p in processes:
        try:
            p.wait(_GRACE)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    # Neither a command line nor the environment shows the id: a file in memory does.
    id_fd = os.memfd_create("tutti-id", 0)
    os.write(id_fd, bytes(UniqueId.create()))
    port = _free_port()
    what = ["-m", options.program] if options.module else [options.program]
    processes: list[subprocess.Popen[bytes]] = []
    # Ctrl-C reaches the ranks through the terminal; a SIGTERM of this process does not.
    def on_terminate(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, on_terminate)
    try:
        for rank in range(options.ranks):
            processes.append(subprocess.Popen(
                [sys.executable, *what, *options.args], pass_fds=[id_fd],
                env=_environment(rank, options.ranks, id_fd, port)))
        return _wait(processes)
    except KeyboardInterrupt:
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and any(p.poll() is None for p in processes):
            time.sleep(0.01)
        return 128 + signal.SIGINT
    finally:
        _stop(processes)


if __name__ == "__main__":
    sys.exit(main())
