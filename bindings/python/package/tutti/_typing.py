"""Types of the package's signatures."""

from __future__ import annotations

from typing import Any, Protocol, Union

from typing_extensions import Buffer as _BufferProtocol

from tutti._core import Buffer as _Registered


class SupportsDLPack(Protocol):
    """An array that other libraries can look at: https://dmlc.github.io/dlpack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


# NumPy arrays, bytearray, array.array, memoryview, mmap; CPU tensors of any framework; what
# Communicator.register_buffer() gives. C-contiguous, writable where something is received.
Array = Union[_BufferProtocol, SupportsDLPack, _Registered]
