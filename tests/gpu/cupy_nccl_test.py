"""CuPy's NcclCommunicator on tutti: two ranks as threads of one process, both on device 0.

Usage: cupy_nccl_test.py TUTTI. Exit status 77: skipped, and why.
"""

import os
import pathlib
import subprocess
import sys
import threading


def worker() -> None:
    import cupy
    from cupy.cuda import nccl

    ranks, uid = 2, nccl.get_unique_id()
    results: list[object] = [None] * ranks

    def run(rank: int) -> None:
        with cupy.cuda.Device(0):
            comm = nccl.NcclCommunicator(ranks, uid, rank)
            stream = cupy.cuda.Stream(non_blocking=True)
            with stream:
                x = cupy.arange(1000, dtype=cupy.float32) * (rank + 1)
                y = cupy.empty_like(x)
                comm.allReduce(x.data.ptr, y.data.ptr, x.size, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream.ptr)
            stream.synchronize()
            results[rank] = bool((y == cupy.arange(1000, dtype=cupy.float32) * 3).all())
            comm.destroy()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if results != [True] * ranks:
        sys.exit(f"wrong sums: {results}")
    print("CuPy's NcclCommunicator: sums right on 2 ranks")


def main() -> None:
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # no CuPy, or no device
        print(f"skipped: {error}")
        sys.exit(77)
    library = pathlib.Path(sys.argv[1]).resolve().parents[1] / "lib" / "libnccl.so.2"
    environment = dict(os.environ, LD_PRELOAD=str(library), TUTTI_MULTI_RANK_GPU="1")
    done = subprocess.run([sys.executable, __file__, "worker"], env=environment, timeout=300)
    sys.exit(done.returncode)


if sys.argv[1] == "worker":
    worker()
else:
    main()
