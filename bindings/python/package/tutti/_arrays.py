"""Arrays in shared memory, and communicators from mpi4py's."""

from __future__ import annotations

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
