"""tutti.run: a function on every rank of a new communicator, each rank a process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import pickle
import sys
import time
import traceback
from typing import Any, Callable, TypeVar

from tutti._core import Communicator, UniqueId

T = TypeVar("T")

# When one rank has failed the others may say what they saw, this many seconds.
_GRACE = 2.0


def _start(fn: Callable[..., Any], rank: int, ranks: int, unique_id: bytes, args: tuple[Any, ...],
           pipe: multiprocessing.connection.Connection) -> None:
    try:
        with Communicator.init(ranks, rank, UniqueId.from_bytes(unique_id)) as comm:
            result = fn(comm, *args)
        pipe.send((True, result))
    except BaseException as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
            pipe.send((False, (error, text)))
        except Exception:
            pipe.send((False, (RuntimeError(repr(error)), text)))
        if not isinstance(error, Exception):
            raise
        sys.exit(1)


def _default_method(fn: Callable[..., Any]) -> str:
    """A fresh interpreter where the function can be found again from there; a fork for lambdas,
    nested functions and what was typed at a prompt."""
    name = getattr(fn, "__qualname__", "<")
    module = sys.modules.get(getattr(fn, "__module__", None) or "")
    return "spawn" if "<" not in name and getattr(module, "__file__", None) else "fork"


def run(fn: Callable[..., T], ranks: int, args: tuple[Any, ...] = (), *, timeout: float | None = None,
        method: str | None = None) -> list[T]:
    """Calls fn(comm, *args) in `ranks` new processes of this host; their results, by rank.

    When a rank fails, its exception is raised here (with the traceback of there as its cause) and
    the other ranks are stopped. `method`: "spawn" (a fresh interpreter, which imports fn by name) or
    "fork"; by default spawn where fn can be imported. TimeoutError after `timeout` seconds.
    """
    if ranks < 1:
        raise ValueError(f"run: ranks is {ranks}")
    context: Any = multiprocessing.get_context(method or _default_method(fn))
    unique_id = bytes(UniqueId.create())
    processes, pipes = [], []
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        for rank in range(ranks):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_start, args=(fn, rank, ranks, unique_id, args, there),
                                      name=f"tutti rank {rank}", daemon=True)
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        return _collect(processes, pipes, deadline)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


def _collect(processes: list[Any], pipes: list[Any], deadline: float | None) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, tuple[BaseException, str]] = {}
    open_pipes = dict(enumerate(pipes))
    while open_pipes:
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = multiprocessing.connection.wait(list(open_pipes.values()), patience)
        if not ready:
            if failures:
                break
            raise TimeoutError(f"run: ranks {sorted(open_pipes)} have not finished in time")
        for rank, pipe in list(open_pipes.items()):
            if pipe not in ready:
                continue
            del open_pipes[rank]
            try:
                fine, value = pipe.recv()
            except EOFError:
                processes[rank].join()
                code = processes[rank].exitcode
                fine, value = False, (RuntimeError(f"run: rank {rank} ended with exit code {code}"), "")
            if fine:
                results[rank] = value
            else:
                failures[rank] = value
                grace = time.monotonic() + _GRACE
                deadline = grace if deadline is None else min(deadline, grace)
    if failures:
        _raise_first(failures)
    return [results[rank] for rank in range(len(pipes))]


def _raise_first(failures: dict[int, tuple[BaseException, str]]) -> None:
    """The cause rather than what it led to: a death or a program's own exception comes first."""
    from tutti._errors import TuttiError

    rank = min(failures, key=lambda r: (isinstance(failures[r][0], TuttiError), r))
    error, text = failures[rank]
    raise error from RuntimeError(f"in rank {rank}:\n{text}" if text else f"in rank {rank}")
