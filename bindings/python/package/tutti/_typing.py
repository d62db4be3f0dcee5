"""Types of the package's signatures."""

from __future__ import annotations

from typing import Any, Protocol, Union

from typing_extensions import Buffer as _BufferProtocol

from tutti._core import Buffer as _Registered


class SupportsCudaArray(Protocol):
    """An array of a CUDA device: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


class SupportsDLPack(Protocol):
    """An array that other libraries can look at: https://dmlc.github.io/dlpack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


# NumPy arrays, bytearray, array.array, memoryview, mmap; CPU and CUDA tensors of any framework; what
# Communicator.register_buffer() gives. C-contiguous, writable where something is received.
Array = Union[_BufferProtocol, SupportsDLPack, SupportsCudaArray, _Registered]

# A cudaStream_t as a number, or a stream of torch, CuPy, cuda.core, ...
Stream = Any
