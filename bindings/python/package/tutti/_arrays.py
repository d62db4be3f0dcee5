"""Arrays in shared memory, streams of device arrays, and communicators from mpi4py's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tutti._core import Communicator, Config, SharedMemory, UniqueId

if TYPE_CHECKING:
    import numpy
    from numpy.typing import DTypeLike


def mem_alloc(nbytes: int) -> SharedMemory:
    """Memory that the ranks of a host reach directly: a writable buffer of zeros, freed with its
    last user."""
    return SharedMemory(nbytes)


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = "float32") -> numpy.ndarray[Any, Any]:
    """A NumPy array of zeros in such memory: collectives on it copy less. Freed with its last view."""
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"empty: dtype {kind} holds Python objects")
    dimensions = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(n < 0 for n in dimensions):
        raise ValueError(f"empty: shape {dimensions} has a negative dimension")
    items = 1
    for n in dimensions:
        items *= n
    memory = SharedMemory(items * kind.itemsize)
    return numpy.ndarray(dimensions, kind, memoryview(memory))


zeros = empty


def from_mpi(comm: Any, config: Config | None = None) -> Communicator:
    """A communicator over the ranks of an mpi4py communicator. Collective over it."""
    unique_id = bytes(UniqueId.create()) if comm.Get_rank() == 0 else None
    unique_id = comm.bcast(unique_id, root=0)
    assert unique_id is not None
    return Communicator.init(comm.Get_size(), comm.Get_rank(), UniqueId.from_bytes(unique_id), config)


_DEFAULT_STREAM = 1  # cudaStreamLegacy; 0 is no number of a stream for DLPack


def current_stream(array: Any) -> int:
    """The stream (cudaStream_t) that the library of a device array works on now: torch's current one, what
    __cuda_array_interface__ (version 3) says, or the default stream."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return int(torch.cuda.current_stream(array.device).cuda_stream) or _DEFAULT_STREAM
    interface = getattr(array, "__cuda_array_interface__", None)
    stream = interface.get("stream") if interface is not None else None
    return _DEFAULT_STREAM if stream is None else stream_handle(stream)


def stream_handle(stream: Any) -> int:
    """A cudaStream_t from a number, or from a stream object of torch, CuPy, cuda.core, Numba, ..."""
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        handle = (protocol() if callable(protocol) else protocol)[1]
    else:
        names = (name for name in ("cuda_stream", "ptr", "handle") if hasattr(stream, name))
        handle = next((getattr(stream, name) for name in names), stream)
    if handle is not stream:
        handle = getattr(handle, "value", handle) or 0  # Numba's are ctypes pointers
    if isinstance(handle, bool) or not isinstance(handle, int):
        raise TypeError(f"stream: {type(stream).__name__} is no CUDA stream")
    return handle or _DEFAULT_STREAM
