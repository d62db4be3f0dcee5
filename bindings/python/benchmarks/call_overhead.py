"""What a call costs in Python beyond the C++ API: one rank, 4 bytes.

    python bindings/python/benchmarks/call_overhead.py BUILD/bin/all_reduce_perf

The C++ figure is the program's own (time of one call, 4 B, one rank); both are medians of several runs,
in turn.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import timeit

import numpy as np

import tutti


def cpp_microseconds(program: str) -> float:
    out = subprocess.run([program, "-np", "1", "-b", "4", "-e", "4", "-c", "0"], check=True,
                         capture_output=True, text=True).stdout
    row = next(line for line in out.splitlines() if line.split()[:1] == ["4"])
    return float(row.split()[5])


def main() -> None:
    comm = tutti.Communicator.from_environment()
    x, y = np.ones(1, "float32"), np.ones(1, "float32")
    bx, by = comm.register_buffer(x), comm.register_buffer(y)
    calls = {
        "array, in place": lambda: comm.allreduce(x),
        "array to array": lambda: comm.allreduce(x, y),
        "registered, in place": lambda: comm.allreduce(bx),
        "registered to registered": lambda: comm.allreduce(bx, by),
        "barrier": comm.barrier,
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    cpp: list[float] = []
    for _ in range(9):
        if len(sys.argv) > 1:
            cpp.append(cpp_microseconds(sys.argv[1]))
        for name, call in calls.items():
            times[name].append(timeit.timeit(call, number=20000) / 20000 * 1e6)
    base = statistics.median(cpp) if cpp else 0.0
    if cpp:
        print(f"{'C++ all_reduce':26} {base:6.2f} us")
    for name, t in times.items():
        middle = statistics.median(t)
        print(f"{name:26} {middle:6.2f} us" + (f"   {middle - base:+.2f} us" if cpp else ""))


if __name__ == "__main__":
    main()
