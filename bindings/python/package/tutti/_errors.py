"""The exceptions of tutti. Each carries what the library knows: code, rank, peer."""

from __future__ import annotations

import re

# Messages begin with who speaks, and name peers: "peer 3", "rank 3 (host b, pid 412)", "rank 3 has left".
_FATE = r"(?: \(host| has left| has died| died| left| closed)"
_RANK = re.compile(rf"^rank (\d+)\b(?!{_FATE})")
_PEER = re.compile(rf"\bpeer (\d+)|\brank (\d+){_FATE}|\bfor rank (\d+)|but rank (\d+)|connection to rank (\d+)")


class TuttiError(Exception):
    """An operation failed. The message names the culprit: argument, rank, peer or operation.

    code: the library's name of the kind, such as "remote_error".
    rank: the rank that noticed it (None when no rank is concerned).
    peer: the other rank it is about, where one is known.
    """

    code: str = "internal_error"

    def __init__(self, message: str = "", rank: int | None = None, peer: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        self.peer = peer

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (*self.args, self.rank, self.peer)


class InvalidArgumentError(TuttiError, ValueError):
    """A value that can never be right."""

    code = "invalid_argument"


class InvalidUsageError(TuttiError, RuntimeError):
    """Right values at the wrong moment, or ranks that disagree about the call."""

    code = "invalid_usage"


class UnsupportedError(TuttiError, NotImplementedError):
    """Not available on this machine or in this build."""

    code = "unsupported"


class SystemCallError(TuttiError, OSError):
    """The operating system said no."""

    code = "system_error"


class RemoteError(TuttiError, ConnectionError):
    """A peer failed, left or spoke garbage."""

    code = "remote_error"


class OperationTimeoutError(TuttiError, TimeoutError):
    """A deadline that the program set has passed."""

    code = "timeout"


class AbortedError(TuttiError, RuntimeError):
    """The communicator was aborted or revoked."""

    code = "aborted"


class DeviceError(TuttiError, RuntimeError):
    """The CUDA driver is missing, too old, or said no."""

    code = "device_error"


class InternalError(TuttiError, RuntimeError):
    """A bug of tutti."""

    code = "internal_error"


_BY_CODE: dict[str, type[TuttiError]] = {
    c.code: c
    for c in (
        InvalidArgumentError,
        InvalidUsageError,
        UnsupportedError,
        SystemCallError,
        RemoteError,
        OperationTimeoutError,
        AbortedError,
        DeviceError,
        InternalError,
    )
}


def _first(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(next(g for g in found.groups() if g is not None)) if found else None


def from_status(code: str, message: str, rank: int | None = None) -> TuttiError:
    """The exception for a Status of the library that rank `rank` got."""
    kind = _BY_CODE.get(code, InternalError)
    return kind(message, _first(_RANK, message) if rank is None else rank, _first(_PEER, message))
