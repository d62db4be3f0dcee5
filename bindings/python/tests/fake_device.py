"""Arrays on the devices of the fake CUDA driver (tests/cuda/libcuda_shim.cc), as other libraries would give
them: through __cuda_array_interface__, or through DLPack capsules made with ctypes."""

from __future__ import annotations

import ctypes

import numpy as np

driver = ctypes.CDLL("libcuda.so.1")
driver.fake_cuda_allocate.restype = ctypes.c_void_p
driver.fake_cuda_allocate.argtypes = [ctypes.c_size_t, ctypes.c_int]
driver.fake_cuda_stream.restype = ctypes.c_void_p
driver.fake_cuda_stream.argtypes = [ctypes.c_int]
driver.fake_cuda_synchronize.argtypes = [ctypes.c_void_p]


# usleep(), called on the stream with the number that stands for its argument.
_sleep = ctypes.cast(ctypes.CDLL(None).usleep, ctypes.c_void_p)
driver.cuLaunchHostFunc.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]


class Stream:
    """Like CuPy's: `ptr`."""

    def __init__(self, device: int) -> None:
        self.ptr = driver.fake_cuda_stream(device)

    def synchronize(self) -> None:
        driver.fake_cuda_synchronize(self.ptr)

    def delay(self, milliseconds: int) -> None:
        """It stands still for so long."""
        driver.cuLaunchHostFunc(self.ptr, _sleep, ctypes.c_void_p(1000 * milliseconds))


class Memory:
    """Device memory with the content of a NumPy array; the fake's memory is the host's."""

    def __init__(self, content, device: int, stream: Stream) -> None:
        source = np.ascontiguousarray(content)
        self.device, self.stream = device, stream
        self.pointer = driver.fake_cuda_allocate(max(source.nbytes, 1), device)
        raw = (ctypes.c_char * source.nbytes).from_address(self.pointer)
        self.view = np.frombuffer(raw, source.dtype).reshape(source.shape)
        self.view[...] = source

    def get(self):
        self.stream.synchronize()
        return self.view.copy()


class CudaArray(Memory):
    """__cuda_array_interface__, version 3."""

    readonly = False
    strides = None

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.view.shape, "typestr": self.view.dtype.str, "data": (self.pointer, self.readonly),
                "strides": self.strides, "version": 3, "stream": self.stream.ptr}


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype = ctypes.py_object
_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class DlpackArray(Memory):
    """DLPack before version 1.0, on a CUDA device."""

    def __init__(self, content, device: int, stream: Stream) -> None:
        super().__init__(content, device, stream)
        self.asked: list[int | None] = []  # what consumers said they work on
        self._shape = (ctypes.c_int64 * self.view.ndim)(*self.view.shape)
        code = {"i": 0, "u": 1, "f": 2}[self.view.dtype.kind]
        self._managed = _Managed(_Tensor(self.pointer, 2, device, self.view.ndim, code, 8 * self.view.itemsize, 1,
                                         self._shape, None, 0), None, None)

    def __dlpack_device__(self):
        return (2, self.device)

    def __dlpack__(self, stream=None):
        self.asked.append(stream)
        return _capsule(ctypes.addressof(self._managed), b"dltensor", None)
