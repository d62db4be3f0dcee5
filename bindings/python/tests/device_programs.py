"""What test_device.py runs with the fake CUDA driver: ranks as threads, each on a device."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
from fake_device import CudaArray, DlpackArray, Stream

import tutti


def in_threads(ranks: int, body) -> None:
    comms = tutti.Communicator.init_all(ranks)
    errors: list[BaseException] = []

    def one(comm):
        try:
            body(comm)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
            comm.abort("the test failed")

    threads = [threading.Thread(target=one, args=(c,)) for c in comms]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for c in comms:
        c.destroy()
    if errors:
        raise errors[0]


def every_collective(kind, n: int, devices: int, count: int) -> None:
    def body(comm):
        me, root = comm.rank, n // 2
        stream = Stream(me % devices)
        put = lambda x: kind(x, me % devices, stream)  # noqa: E731
        own = np.arange(count, dtype="float32") + 100 * me
        every = [np.arange(count, dtype="float32") + 100 * r for r in range(n)]
        blocks = np.concatenate([own + 1000 * to for to in range(n)])
        x, y, big = put(own), put(np.zeros(count, "float32")), put(np.zeros(n * count, "float32"))

        # DLPack does not say where an array was made.
        on = {"stream": stream} if kind is DlpackArray else {}

        def check(array, want, where=True):
            if where:
                np.testing.assert_array_equal(array.get(), want)

        comm.allreduce(x, y, **on)
        check(y, sum(every))
        comm.allreduce(x, y, op=tutti.ReduceOp.MAX, **on)
        check(y, every[-1])
        comm.allreduce(x, y, op=tutti.PreMulSum(2.0), **on)
        check(y, 2 * sum(every))
        comm.reduce(x, y, root=root, **on)
        check(y, sum(every), me == root)
        comm.broadcast(x if me == root else None, y, root=root, **on)
        check(y, every[root])
        comm.allgather(x, big, **on)
        check(big, np.concatenate(every))
        comm.gather(x, big if me == root else None, root=root, **on)
        check(big, np.concatenate(every), me == root)
        spread = put(blocks)
        comm.reduce_scatter(spread, y, **on)
        check(y, sum(e + 1000 * me for e in every))
        comm.scatter(spread if me == root else None, y, root=root, **on)
        check(y, every[root] + 1000 * me)
        comm.alltoall(spread, big, **on)
        check(big, np.concatenate([e + 1000 * me for e in every]))
        again = put(np.zeros(n * count, "float32"))
        comm.alltoallv(spread, [count] * n, again, [count] * n, **on)
        check(again, np.concatenate([e + 1000 * me for e in every]))
        with tutti.group():
            comm.send(x, (me + 1) % n, **on)
            comm.recv(y, (me - 1) % n, **on)
        check(y, every[me - 1])
        comm.allreduce(x, **on)  # in place
        check(x, sum(every))
        # Host arrays in between, once the stream has passed.
        h = np.ones(3)
        comm.allreduce(h)
        assert h.tolist() == [n] * 3

    in_threads(n, body)


def collectives() -> None:
    for kind in (CudaArray, DlpackArray):
        every_collective(kind, 3, 3, 5)
        every_collective(kind, 2, 2, 20000)
    every_collective(CudaArray, 2, 1, 100)  # one device: through the host


def streams() -> None:
    """The given stream, or that of the array; the one comes after the other."""

    def body(comm):
        mine, other = Stream(comm.rank), Stream(comm.rank)
        x = DlpackArray(np.full(1000, 1, "int64"), comm.rank, mine)
        c = CudaArray(np.full(1000, 1, "int64"), comm.rank, mine)
        for stream in (other, other.ptr, None):
            comm.allreduce(c, stream=stream)
            other.synchronize()
        assert set(c.get()) == {8}
        for stream in (mine, other.ptr, None):
            comm.allreduce(x, stream=stream)
            other.synchronize()
            mine.synchronize()
        assert x.asked == [mine.ptr, other.ptr, 1], x.asked  # no stream is known of it: the default one
        comm.allreduce(c, x, stream=mine)
        assert set(x.get()) == {16}
        for bad in (object(), True, "one"):
            try:
                comm.allreduce(c, stream=bad)
                raise AssertionError(bad)
            except TypeError as error:
                assert "is no CUDA stream" in str(error)

    in_threads(2, body)


def asynchronous() -> None:
    """A handle that waits for the stream; the arrays are kept until it is through."""

    def body(comm):
        me, n = comm.rank, comm.nranks
        stream, other = Stream(me), Stream(me)
        put = lambda x: CudaArray(x, me, stream)  # noqa: E731
        one = np.arange(1000.0)
        total = one * n + sum(range(n))
        for _ in range(3):
            x, y, big = put(one + me), put(np.zeros(1000)), put(np.zeros(1000 * n))
            works = [comm.allreduce_async(x, y), comm.allgather_async(x, big),
                     comm.reduce_scatter_async(put(np.tile(one, n)), put(np.zeros(1000)), stream=other),
                     comm.alltoallv_async(put(np.tile(one, n)), [1000] * n, put(np.zeros(1000 * n)), [1000] * n)]
            for work in works:
                work.wait(timeout=30)
                assert work.done()
                work.wait()
            # Behind an operation on host arrays.
            host = np.ones(5)
            works = [comm.allreduce_async(host), comm.broadcast_async(x if me == 0 else None, x, root=0)]
            for work in works:
                work.wait(timeout=30)
            np.testing.assert_array_equal(y.view, total)
            np.testing.assert_array_equal(big.view, np.concatenate([one + r for r in range(n)]))
            np.testing.assert_array_equal(x.view, one)
            assert host.tolist() == [n] * 5
        # It is the stream that waits, and the thread that does not.
        x = put(one + me)
        if me == 0:
            stream.delay(500)
        begin = time.monotonic()
        work = comm.allreduce_async(x)
        assert not work.done()
        try:
            work.wait(timeout=0.01)
            raise AssertionError("no TimeoutError")
        except TimeoutError:
            pass
        work.wait(stream=other)
        assert time.monotonic() - begin < 0.3
        other.synchronize()
        assert time.monotonic() - begin > 0.4
        np.testing.assert_array_equal(x.view, total)
        assert work.done()
        # Empty arrays; and a communicator goes only when its operations are through.
        comm.allreduce_async(put(np.zeros(0))).wait()
        if me == 0:
            stream.delay(200)
        kept.append((x, comm.allreduce_async(x)))

    kept: list = []
    in_threads(2, body)
    for x, work in kept:
        assert work.done()
        np.testing.assert_array_equal(x.view, 2 * (np.arange(1000.0) * 2 + 1))


def registered() -> None:
    """A registered array stands for itself, on the stream that it is on at the time of the call."""

    def body(comm):
        mine, other = Stream(comm.rank), Stream(comm.rank)
        for kind in (CudaArray, DlpackArray):
            x = kind(np.full(1000, 1, "int64"), comm.rank, mine)
            buffer = comm.register_buffer(x)
            assert buffer.is_valid and buffer.size == 8000
            on = {"stream": mine} if kind is DlpackArray else {}
            comm.allreduce(buffer, **on)
            assert set(x.get()) == {2}
            comm.allreduce(buffer, stream=other)
            other.synchronize()
            assert set(x.get()) == {4}
            x.stream = other
            comm.allreduce_async(buffer, **({"stream": other} if on else {})).wait()
            assert set(x.view) == {8}
            if kind is DlpackArray:
                assert len(x.asked) == 1, x.asked  # it is looked at once
            buffer.close()

    in_threads(2, body)


def refusals() -> None:
    comm = tutti.Communicator.init(1, 0, tutti.get_unique_id())
    stream = Stream(0)
    x = CudaArray(np.ones(4, "float32"), 0, stream)

    def refused(kind, text, call, *args, **kwargs):
        try:
            call(*args, **kwargs)
        except kind as error:
            assert text in str(error), error
        else:
            raise AssertionError(text)

    refused(ValueError, "one call takes either", comm.allreduce, x, np.ones(4, "float32"))
    refused(ValueError, "host memory has no streams", comm.allreduce, np.ones(4), stream=stream)
    refused(ValueError, "host memory has no streams", comm.allreduce_async(np.ones(4)).wait, stream=stream)
    refused(ValueError, "negative", comm.allreduce_async(x).wait, -1)
    gone = comm.register_buffer(x)
    gone.close()
    assert not gone.is_valid
    refused(ValueError, "was deregistered", comm.allreduce, gone)
    with tutti.group():
        refused(tutti.InvalidUsageError, "inside a group", comm.allreduce_async, x)
    foreign = CudaArray(np.ones(4, ">f4"), 0, stream)
    refused(TypeError, "'>f4'", comm.allreduce, foreign)
    x.readonly = True
    refused(BufferError, "read-only", comm.allreduce, x)
    x.readonly, x.strides = False, (8,)
    refused(BufferError, "C-contiguous", comm.allreduce, x)
    x.strides = (4,)
    comm.allreduce(x)
    x.pointer += 4  # past the end of its memory
    refused(Exception, "left in its allocation", comm.allreduce, x)
    comm.destroy()


if __name__ == "__main__":
    {"collectives": collectives, "streams": streams, "asynchronous": asynchronous, "registered": registered,
     "refusals": refusals}[sys.argv[1]]()
    print("fine")
