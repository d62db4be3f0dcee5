"""NCCL by ctypes alone, in the way of vLLM's pynccl: every function is resolved at load.

Usage: ctypes_client.py LIBRARY. Starts two processes that all-reduce, gather and exchange.
"""
import ctypes
import multiprocessing
import sys

ncclComm_t = ctypes.c_void_p
cudaStream_t = ctypes.c_void_p
buffer = ctypes.c_void_p


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * 128)]


FUNCTIONS = {
    "ncclGetVersion": [ctypes.POINTER(ctypes.c_int)],
    "ncclGetUniqueId": [ctypes.POINTER(UniqueId)],
    "ncclCommInitRank": [ctypes.POINTER(ncclComm_t), ctypes.c_int, UniqueId, ctypes.c_int],
    "ncclAllReduce": [buffer, buffer, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ncclComm_t,
                      cudaStream_t],
    "ncclReduce": [buffer, buffer, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                   ncclComm_t, cudaStream_t],
    "ncclAllGather": [buffer, buffer, ctypes.c_size_t, ctypes.c_int, ncclComm_t, cudaStream_t],
    "ncclReduceScatter": [buffer, buffer, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ncclComm_t,
                          cudaStream_t],
    "ncclSend": [buffer, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ncclComm_t, cudaStream_t],
    "ncclRecv": [buffer, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ncclComm_t, cudaStream_t],
    "ncclBroadcast": [buffer, buffer, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ncclComm_t,
                      cudaStream_t],
    "ncclGroupStart": [],
    "ncclGroupEnd": [],
    "ncclCommDestroy": [ncclComm_t],
    "ncclCommWindowRegister": [ncclComm_t, buffer, ctypes.c_size_t, ctypes.POINTER(ncclComm_t),
                               ctypes.c_int],
    "ncclCommWindowDeregister": [ncclComm_t, ctypes.c_void_p],
}
INT32, FLOAT, SUM = 2, 7, 0


class Nccl:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.ncclGetErrorString.restype = ctypes.c_char_p
        self.library.ncclGetErrorString.argtypes = [ctypes.c_int]
        self.library.ncclGetLastError.restype = ctypes.c_char_p
        self.library.ncclGetLastError.argtypes = [ncclComm_t]
        for name, arguments in FUNCTIONS.items():
            function = getattr(self.library, name)
            function.restype = ctypes.c_int
            function.argtypes = arguments

    def __getattr__(self, name):
        function = getattr(self.library, name)

        def call(*arguments):
            result = function(*arguments)
            if result != 0:
                raise RuntimeError(f"{name}: {self.library.ncclGetErrorString(result).decode()}: "
                                   f"{self.library.ncclGetLastError(None).decode()}")

        return call


def version_digits(nccl):
    raw = ctypes.c_int()
    nccl.ncclGetVersion(ctypes.byref(raw))
    text = str(raw.value)
    return f"{text[0]}.{text[1:3].lstrip('0')}.{text[3:].lstrip('0')}"


def work(path, rank, ranks, raw_id):
    nccl = Nccl(path)
    unique = UniqueId()
    ctypes.memmove(ctypes.byref(unique), bytes(raw_id), 128)  # through a store, as bytes
    comm = ncclComm_t()
    nccl.ncclCommInitRank(ctypes.byref(comm), ranks, unique, rank)
    x = (ctypes.c_float * 4)(*[rank + i for i in range(4)])
    y = (ctypes.c_float * 4)()
    nccl.ncclAllReduce(ctypes.addressof(x), ctypes.addressof(y), 4, FLOAT, SUM, comm, None)
    assert list(y) == [1 + 2 * i for i in range(4)], list(y)
    everybody = (ctypes.c_int * ranks)()
    mine = ctypes.c_int(rank * 7)
    nccl.ncclAllGather(ctypes.addressof(mine), ctypes.addressof(everybody), 1, INT32, comm, None)
    assert list(everybody) == [0, 7], list(everybody)
    out, received = ctypes.c_int(rank), ctypes.c_int(-1)
    nccl.ncclGroupStart()
    nccl.ncclSend(ctypes.addressof(out), 1, INT32, 1 - rank, comm, None)
    nccl.ncclRecv(ctypes.addressof(received), 1, INT32, 1 - rank, comm, None)
    nccl.ncclGroupEnd()
    assert received.value == 1 - rank, received.value
    # The rest of what vLLM calls, on memory that a window is registered for.
    aligned = (ctypes.c_byte * (3 * 4096))()
    start = (ctypes.addressof(aligned) + 4095) // 4096 * 4096
    data = (ctypes.c_float * 2).from_address(start)
    window = ncclComm_t()
    nccl.ncclCommWindowRegister(comm, start, 4096, ctypes.byref(window), 1)
    data[:] = [rank + 1, 10]
    nccl.ncclReduce(start, start, 2, FLOAT, SUM, 1, comm, None)
    assert rank == 0 or list(data) == [3, 20], list(data)
    data[:] = [rank + 1, 10]
    half = ctypes.c_float()
    nccl.ncclReduceScatter(start, ctypes.addressof(half), 1, FLOAT, SUM, comm, None)
    assert half.value == (3, 20)[rank], half.value
    data[:] = [rank + 1, 10]
    nccl.ncclBroadcast(start, start, 2, FLOAT, 1, comm, None)
    assert list(data) == [2, 10], list(data)
    nccl.ncclCommWindowDeregister(comm, window)
    try:
        nccl.ncclAllReduce(0x7F0000001000, ctypes.addressof(y), 4, FLOAT, SUM, comm, None)
        raise AssertionError("a foreign address was taken")
    except RuntimeError as error:
        assert "neither host memory" in str(error), error
    nccl.ncclCommDestroy(comm)


def main():
    path = sys.argv[1]
    nccl = Nccl(path)
    assert version_digits(nccl) == "2.28.9", version_digits(nccl)
    unique = UniqueId()
    nccl.ncclGetUniqueId(ctypes.byref(unique))
    raw = bytes(unique)
    assert len(raw) == 128
    start = multiprocessing.get_context("spawn")
    ranks = [start.Process(target=work, args=(path, rank, 2, raw)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    codes = [rank.exitcode for rank in ranks]
    assert codes == [0, 0], codes
    print("ok")


if __name__ == "__main__":
    main()
