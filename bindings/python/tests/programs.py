"""Functions that tests run on every rank (a spawned interpreter imports them from here)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

import tutti


def _value(rank: int, n: int, dtype: Any) -> Any:
    """Small whole numbers whose sums over a few ranks are exact in any order."""
    return ((np.arange(n) + rank) % (3 if "float8" in np.dtype(dtype).name else 7)).astype(dtype)


def all_collectives(comm: tutti.Communicator, name: str) -> str:
    """Every collective against NumPy, blocking and asynchronous, in place and not."""
    import ml_dtypes  # noqa: F401  registers bfloat16 and friends

    dtype = np.dtype(name)
    ranks, rank = comm.nranks, comm.rank
    for n in (0, 1, 5, 1000, 70000):
        every = [_value(r, n, dtype) for r in range(ranks)]
        total = np.sum([v.astype("float64") for v in every], axis=0).astype(dtype)
        mine = every[rank]
        for form in ("blocking", "async"):
            def call(method: str, *args: Any, **kwargs: Any) -> None:
                if form == "blocking":
                    getattr(comm, method)(*args, **kwargs)
                else:
                    getattr(comm, method + "_async")(*args, **kwargs).wait()

            def same(got: Any, expected: Any, what: str) -> None:
                if got.tobytes() != expected.tobytes():
                    raise AssertionError(f"{what} of {n} {name} ({form}) on rank {rank}")

            out = np.empty(n, dtype)
            call("allreduce", mine, out)
            same(out, total, "allreduce")
            out = mine.copy()
            call("all_reduce", out)
            same(out, total, "allreduce in place")
            out = np.zeros(n, dtype)
            call("reduce", mine, out if rank == 1 % ranks else None, root=1 % ranks)
            same(out, total if rank == 1 % ranks else np.zeros(n, dtype), "reduce")
            out = mine.copy()
            call("broadcast", out, root=ranks - 1)
            same(out, every[-1], "broadcast in place")
            out = np.zeros(n, dtype)
            call("broadcast", mine if rank == 0 else None, out)
            same(out, every[0], "broadcast")
            gathered = np.concatenate(every)
            out = np.zeros(n * ranks, dtype)
            call("allgather", mine, out)
            same(out, gathered, "allgather")
            out = np.zeros((ranks, n), dtype)
            out[rank] = mine
            call("allgather", None, out)
            same(out, gathered, "allgather in place")
            out = np.zeros(n, dtype)
            call("reduce_scatter", np.tile(mine, ranks), out)
            same(out, total, "reduce_scatter")
            whole = np.tile(mine, ranks)
            call("reduce_scatter", whole)
            same(whole[rank * n:(rank + 1) * n], total, "reduce_scatter in place")
            out = np.zeros(n * ranks, dtype)
            call("alltoall", np.concatenate([_value(rank + r, n, dtype) for r in range(ranks)]), out)
            same(out, np.concatenate([_value(rank + r, n, dtype) for r in range(ranks)]), "alltoall")
            out = np.zeros(n * ranks, dtype)
            call("gather", mine, out if rank == 0 else None)
            same(out, gathered if rank == 0 else np.zeros(n * ranks, dtype), "gather")
            out = np.zeros(n, dtype)
            call("scatter", gathered if rank == 0 else None, out)
            same(out, mine, "scatter")
            counts = [(n + rank + r) // 3 for r in range(ranks)]
            sent = np.concatenate([_value(r, c, dtype) for r, c in enumerate(counts)])
            out = np.zeros(sum(counts), dtype)
            call("alltoallv", sent, counts, out, counts)
            same(out, np.concatenate([_value(rank, c, dtype) for c in counts]), "alltoallv")
        comm.barrier()
    return "ok"


def kinds_of_buffers(comm: tutti.Communicator) -> str:
    """bytearray, array, memoryview, NumPy of odd types, shared memory: as they come."""
    import array

    ranks, rank = comm.nranks, comm.rank
    data = bytearray([rank] * 10)
    comm.broadcast(data, root=1)
    assert data == bytearray([1] * 10)
    numbers = array.array("d", [1.5] * 8)
    comm.allreduce(numbers)
    assert numbers == array.array("d", [1.5 * ranks] * 8)
    view = memoryview(bytearray(8)).cast("i")
    comm.allreduce(view, op=tutti.MAX)
    everyone = bytearray(3 * ranks)
    comm.allgather(bytes([rank] * 3), everyone)
    assert everyone == bytes(b for r in range(ranks) for b in [r] * 3)
    z = np.full(4, 1 + 2j, "complex64")
    comm.allreduce(z)
    assert (z == ranks * (1 + 2j)).all()
    flags = np.array([rank == 0, True])
    comm.allreduce(flags, op=tutti.MIN)
    assert flags.tolist() == [ranks == 1, True]
    records = np.zeros(3, [("a", "i2"), ("b", "f8")])
    records["b"] = rank
    comm.broadcast(records, root=ranks - 1)
    assert (records["b"] == ranks - 1).all()
    days = np.array(["2026-01-01"], "datetime64[D]") + rank
    comm.broadcast(days)
    assert days[0] == np.datetime64("2026-01-01")
    shared = tutti.empty((3, 5), "float32")
    shared[:] = rank
    part = shared[1:]
    del shared
    comm.allreduce(part)
    assert (part == sum(range(ranks))).all()
    scaled = np.ones(3, "float16")
    comm.allreduce(scaled, op=tutti.premul_sum(0.5))
    assert (scaled == 0.5 * ranks).all()
    registered = comm.register_buffer(numbers)
    comm.allreduce(registered)
    assert numbers[0] == 1.5 * ranks * ranks
    return "ok"


def groups(comm: tutti.Communicator) -> str:
    """Rings of sends, collectives in groups, many communicators by one thread."""
    ranks, rank = comm.nranks, comm.rank
    for n in (1, 300000):
        out, into = np.full(n, rank, "int32"), np.zeros(n, "int32")
        with tutti.group():
            comm.send(out, (rank + 1) % ranks)
            with tutti.group():
                comm.recv(into, (rank - 1) % ranks)
            total = np.ones(3)
            comm.allreduce(total)
            assert total[0] == 1  # not yet
        assert (into == (rank - 1) % ranks).all() and total[0] == ranks
    other = comm.split(0)
    assert other is not None and other.nranks == ranks
    a, b = np.ones(1000), np.ones(1000)
    # Half of the ranks name them in the other order: a group must not care.
    order = [(comm, a), (other, b)] if rank % 2 else [(other, b), (comm, a)]
    with tutti.group():
        for c, x in order:
            c.allreduce(x)
    assert (a == ranks).all() and (b == ranks).all()
    try:
        with tutti.group():
            comm.allreduce(a)
            raise KeyError("dropped")
    except KeyError:
        pass
    comm.barrier()
    assert (a == ranks).all()
    return "ok"


def splits(comm: tutti.Communicator) -> list[int]:
    half = comm.split(comm.rank % 2, key=-comm.rank)
    assert half is not None
    x = np.array([comm.rank])
    half.allreduce(x)
    none = comm.split(None if comm.rank == 0 else 3)
    assert (none is None) == (comm.rank == 0)
    return [half.rank, half.nranks, int(x[0])]


def async_overlap(comm: tutti.Communicator) -> str:
    x = np.ones(100000)
    works = [comm.allreduce_async(x) for _ in range(5)]
    y = np.ones(3)
    comm.allreduce(y)  # queues behind
    assert all(w.done() for w in works)
    for w in works:
        w.wait()
        w.wait()
    assert (x == float(comm.nranks) ** 5).all() and (y == comm.nranks).all()
    if comm.rank == 1:
        time.sleep(0.3)
    late = comm.barrier_async()
    if comm.rank != 1:
        try:
            late.wait(timeout=0.05)
            raise AssertionError("no timeout")
        except TimeoutError:
            pass
    late.wait()
    del late
    dropped = comm.allreduce_async(np.ones(1000000))  # its array must outlive the handle
    del dropped
    comm.barrier()
    return "ok"


def interrupted(comm: tutti.Communicator, form: str) -> tuple[str, float]:
    """Rank 0 gets SIGINT while it waits for rank 1, which comes late."""
    if comm.rank != 0:
        time.sleep(2.5)
        try:
            comm.allreduce(np.ones(4))
            comm.allreduce(np.ones(4))
            return "no error", 0.0
        except tutti.AbortedError as error:
            return str(error), 0.0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    try:
        if form == "blocking":
            comm.allreduce(np.ones(4))
        else:
            comm.allreduce_async(np.ones(4)).wait()
    except KeyboardInterrupt:
        took = time.monotonic() - start
        try:
            comm.allreduce(np.ones(4))
        except tutti.AbortedError:
            return "interrupted", took
    return "not interrupted", time.monotonic() - start


def disagrees(comm: tutti.Communicator) -> str:
    try:
        comm.allreduce(np.ones(3 if comm.rank else 4, "float32"))
    except tutti.InvalidUsageError as error:
        return str(error)
    return "no error"


def forks(comm: tutti.Communicator) -> int:
    """A forked child is told so, and leaves in peace; the parent goes on."""
    pending = comm.allreduce_async(np.ones(10))
    pending.wait()
    pid = os.fork()
    if pid == 0:
        try:
            comm.barrier()
        except tutti.InvalidUsageError as error:
            comm.destroy()
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    comm.barrier()
    return code


def fails(comm: tutti.Communicator) -> None:
    if comm.rank == 2:
        raise ZeroDivisionError("rank 2 fails")
    comm.barrier()


def sleeps(comm: tutti.Communicator) -> None:
    time.sleep(60)


def every_dtype(comm: tutti.Communicator, names: list[str]) -> str:
    for name in names:
        all_collectives(comm, name)
    return "ok"


def survives(comm: tutti.Communicator) -> list[int]:
    """Rank 1 leaves; the others revoke, agree on who is left, shrink and go on."""
    x = np.full(1000, 1.0)
    if comm.rank == 1:
        comm.allreduce(x)
        comm.abort("rank 1 gives up")  # which may stop the others in that very allreduce
        return []
    try:
        while True:
            comm.allreduce(x)
    except tutti.TuttiError:
        pass
    comm.revoke("recovering")
    flags, _ = comm.agree(0b110 | comm.rank, timeout=20)
    small = comm.shrink([1])
    y = np.full(3, float(comm.rank))
    small.allreduce(y)
    return [small.rank, small.nranks, int(y[0]), flags & 0b110]


def grows(comm: tutti.Communicator) -> list[int]:
    """Rank 0 starts a process that knows nothing but the id; it becomes the last rank of a larger communicator."""
    newcomer = None
    if comm.rank == 0:
        unique_id = comm.get_unique_id()
        code = ("import sys, numpy, tutti\n"
                "id = tutti.UniqueId.from_bytes(sys.stdin.buffer.read())\n"
                f"comm = tutti.Communicator.init({comm.nranks + 1}, {comm.nranks}, id)\n"
                "x = numpy.full(5, 100.0)\ncomm.allreduce(x)\nprint(comm.rank, int(x[4]))\ncomm.destroy()\n")
        newcomer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert newcomer.stdin is not None
        newcomer.stdin.write(bytes(unique_id))
        newcomer.stdin.close()
        big = comm.grow(comm.nranks + 1, unique_id)
    else:
        big = comm.grow(comm.nranks + 1)
    x = np.full(5, float(comm.rank))
    big.allreduce(x)
    y = np.ones(1)
    comm.allreduce(y)  # the old one goes on
    told = [0, 0]
    if newcomer is not None:
        assert newcomer.stdout is not None
        told = [int(word) for word in newcomer.stdout.read().split()]
        assert newcomer.wait(30) == 0
    return [big.rank, big.nranks, int(x[0]), int(y[0]), *told]


def one_sided(comm: tutti.Communicator) -> str:
    """Rings of puts into windows of other sizes; nobody receives."""
    n, rank, ranks = 5000, comm.rank, comm.nranks
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    memory = tutti.zeros(n + rank) if rank % 2 else np.zeros(n + rank, "float32")
    window = comm.register_window(memory)
    assert window.is_valid and window.size == memory.nbytes and window.size_of(right) == 4 * (n + right)
    for step in range(1, 6):
        edge = np.full(7, rank * 100 + step, "float32")
        comm.put_signal(edge, right, window, n - 7)
        edge[:] = -1  # it may be reused
        comm.wait_signal(tutti.WaitSignalDesc(left))
        assert (memory[n - 7:n] == left * 100 + step).all() and not memory[:n - 7].any()
        comm.signal(left)  # ready for the next one
        comm.wait_signal([tutti.WaitSignalDesc(right, 1)])
    # Signals of other numbers and contexts are counted apart; asynchronous forms come in order.
    comm.signal_async(right, signal_index=2, context=1)
    comm.put_signal_async(np.ones(1, "float32"), right, window).wait()
    comm.wait_signal([tutti.WaitSignalDesc(left, 1, signal_index=2, context=1), tutti.WaitSignalDesc(left)])
    assert memory[0] == 1
    for name, call in [
        ("peer", lambda: comm.signal(ranks)),
        ("context", lambda: comm.signal(right, context=-1)),
        ("flags", lambda: comm.signal(right, flags=1)),
        ("op_count", lambda: comm.wait_signal(tutti.WaitSignalDesc(left, -1))),
        ("peer_window_offset", lambda: comm.put_signal(memory, right, window, -1)),
        (f"{4 * (n + right)} bytes", lambda: comm.put_signal(np.ones(1, "float32"), right, window, n + right)),
        ("read-only", lambda: comm.register_window(np.frombuffer(b"abc", "uint8"))),
    ]:
        try:
            call()
        except (ValueError, BufferError) as error:
            assert name in str(error), (name, error)
        else:
            raise AssertionError(f"no error: {name}")
    comm.barrier()
    window.close()
    assert not window.is_valid
    try:
        comm.put_signal(np.ones(1, "float32"), right, window)
    except ValueError as error:
        assert "closed" in str(error)
    else:
        raise AssertionError("a closed window was taken")
    return "ok"
