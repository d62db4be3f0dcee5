"""5. Plot: all-reduce bandwidth over sizes, to a picture where matplotlib is installed, else as text.

    python -m tutti.launch -n 4 05_plot_a_sweep.py [picture.svg]

busbw is what a wire carries: bytes / time * 2 (ranks - 1) / ranks.
"""

import statistics
import sys
import time

import numpy as np

import tutti

comm = tutti.Communicator.from_environment()
ranks = comm.nranks
sizes = [1 << e for e in range(6, 23, 2)]
curves: dict[str, list[float]] = {}
for kind, allocate in (("private arrays", np.empty), ("tutti.empty", tutti.empty)):
    curves[kind] = []
    for size in sizes:
        x = allocate(size // 4, "float32")
        x[:] = 0
        times = []
        for _ in range(10):
            comm.barrier()
            start = time.perf_counter()
            comm.allreduce(x)
            times.append(time.perf_counter() - start)
        median = np.array([statistics.median(times)])
        comm.allreduce(median, op=tutti.MAX)  # the slowest rank counts
        curves[kind].append(size / float(median[0]) * 2 * (ranks - 1) / ranks / 1e9)

if comm.rank == 0:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        pyplot = None
    for kind, busbw in curves.items():
        print(f"{kind}: GB/s of bus bandwidth on {ranks} ranks")
        for size, value in zip(sizes, busbw):
            print(f"{size:>10} B {value:8.3f} {'#' * round(40 * value / max(map(max, curves.values())))}")
    if pyplot is not None and len(sys.argv) > 1:
        for kind, busbw in curves.items():
            pyplot.loglog(sizes, busbw, marker="o", label=kind)
        pyplot.xlabel("bytes")
        pyplot.ylabel("busbw, GB/s")
        pyplot.legend()
        pyplot.savefig(sys.argv[1])
        print("drawn in", sys.argv[1])
comm.destroy()
