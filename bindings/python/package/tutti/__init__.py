"""tutti: collective communication for NumPy arrays and everything that looks like one.

    import numpy, tutti
    comm = tutti.Communicator.from_environment()      # under python -m tutti.launch -n 4 script.py
    x = numpy.full(1000, comm.rank, dtype="float32")
    comm.allreduce(x)                                 # in place, sum

Blocking calls return with the result in place and run without the GIL; Ctrl-C works inside them and
aborts the communicator. The forms with _async behind return a Work. Errors are TuttiError.
"""

from __future__ import annotations

import atexit as _atexit
import threading as _threading

from tutti._arrays import empty, from_mpi, mem_alloc, zeros
from tutti._core import (
    Buffer,
    Communicator,
    Config,
    Group,
    PreMulSum,
    ReduceOp,
    SharedMemory,
    UniqueId,
    WaitSignalDesc,
    Window,
    Work,
    close_all_resources,
)
from tutti._core import version as _version
from tutti._errors import (
    AbortedError,
    DeviceError,
    InternalError,
    InvalidArgumentError,
    InvalidUsageError,
    OperationTimeoutError,
    RemoteError,
    SystemCallError,
    TuttiError,
    UnsupportedError,
)
from tutti._run import run
from tutti._versions import get_version, show_versions

__version__ = _version()

SUM = ReduceOp.SUM
PROD = ReduceOp.PROD
MAX = ReduceOp.MAX
MIN = ReduceOp.MIN
AVG = ReduceOp.AVG


def get_unique_id() -> UniqueId:
    """A new id: create on one rank, hand to the others, pass to Communicator.init()."""
    return UniqueId.create()


def premul_sum(factor: float) -> PreMulSum:
    """The operator that multiplies this rank's input by `factor` before the sum."""
    return PreMulSum(factor)


def group() -> Group:
    """`with tutti.group():` calls inside begin together at its end, over any communicators.

    So that send and recv between ranks cannot wait for each other, and one thread can drive many
    communicators. Results are in place after the block; when it raises, nothing runs.
    """
    return Group()


_open_groups = _threading.local()


def group_start() -> None:
    """Opens a group of this thread, for programs to which `with tutti.group():` does not fit."""
    opened = Group()
    opened.__enter__()
    _open_groups.__dict__.setdefault("stack", []).append(opened)


def group_end() -> None:
    """Closes what this thread's last group_start() opened; the outermost runs its calls."""
    stack = getattr(_open_groups, "stack", None)
    if not stack:
        raise InvalidUsageError("group_end: there is no open group_start() in this thread")
    stack.pop().__exit__(None, None, None)


_atexit.register(close_all_resources)

__all__ = [
    "AVG",
    "AbortedError",
    "Buffer",
    "Communicator",
    "Config",
    "DeviceError",
    "Group",
    "InternalError",
    "InvalidArgumentError",
    "InvalidUsageError",
    "MAX",
    "MIN",
    "OperationTimeoutError",
    "PROD",
    "PreMulSum",
    "ReduceOp",
    "RemoteError",
    "SUM",
    "SharedMemory",
    "SystemCallError",
    "TuttiError",
    "UniqueId",
    "UnsupportedError",
    "WaitSignalDesc",
    "Window",
    "Work",
    "close_all_resources",
    "empty",
    "from_mpi",
    "get_unique_id",
    "get_version",
    "group",
    "group_end",
    "group_start",
    "mem_alloc",
    "premul_sum",
    "run",
    "show_versions",
    "zeros",
]
