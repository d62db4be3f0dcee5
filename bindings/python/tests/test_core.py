"""import tutti: collectives on arrays of all kinds, errors, life and death of communicators."""

from __future__ import annotations

import array
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import programs
import pytest

import tutti

HERE = pathlib.Path(__file__).parent
DTYPES = ["int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
          "bfloat16", "float8_e4m3fn", "float8_e5m2"]


@pytest.fixture
def alone():
    with tutti.Communicator.init(1, 0, tutti.get_unique_id()) as comm:
        yield comm


@pytest.fixture
def threads():
    """Two ranks in this process."""
    comms = tutti.Communicator.init_all(2)
    yield comms
    for c in comms:
        if c.is_valid:
            c.abort("the test is over")
            c.destroy()


def python(*args: str, timeout: float = 60, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=timeout, **kwargs)


# --- collectives


def test_every_collective_gives_what_numpy_gives():
    assert tutti.run(programs.every_dtype, 3, (DTYPES,), timeout=120) == ["ok"] * 3


@pytest.mark.parametrize("program", [programs.kinds_of_buffers, programs.groups, programs.async_overlap,
                                     programs.one_sided])
def test_program(program):
    assert tutti.run(program, 3, timeout=60) == ["ok"] * 3


def test_split():
    got = tutti.run(programs.splits, 4, timeout=60)
    assert got == [[1, 2, 2], [1, 2, 4], [0, 2, 2], [0, 2, 4]]


def test_one_thread_drives_many_communicators(threads):
    x = [np.full(1000, 1.0), np.full(1000, 2.0)]
    with tutti.group():
        for comm, buffer in zip(threads, x):
            comm.allreduce(buffer)
    assert (x[0] == 3).all() and (x[1] == 3).all()


def test_one_thread_puts_between_many_communicators(threads):
    arrays = [np.zeros(4), np.zeros(4)]
    with tutti.group():
        windows = [comm.register_window(a) for comm, a in zip(threads, arrays)]
    tutti.group_start()
    for r, comm in enumerate(threads):
        comm.put_signal(np.full(2, r + 1.0), 1 - r, windows[r], 2)
        comm.wait_signal(tutti.WaitSignalDesc(1 - r))
    tutti.group_end()
    with pytest.raises(tutti.InvalidUsageError, match="no open group_start"):
        tutti.group_end()
    assert (arrays[0] == [0, 0, 2, 2]).all() and (arrays[1] == [0, 0, 1, 1]).all()


def test_one_dimension_matches_any_shape_but_shapes_do_not_mix(alone):
    a = np.arange(6.0).reshape(2, 3)
    out = np.zeros(6)
    alone.allreduce(a, out)
    assert (out == np.arange(6)).all()
    with pytest.raises(ValueError, match=r"recvbuf has shape \(3, 2\), but sendbuf has \(2, 3\)"):
        alone.allreduce(a, np.zeros((3, 2)))


@pytest.mark.parametrize("name, factor, expected", [
    ("float32", 0.25, 1.0), ("float64", -2.0, -8.0), ("float16", 0.5, 2.0), ("int32", 3, 12.0),
    ("bfloat16", 0.5, 2.0), ("float8_e4m3fn", 0.5, 2.0), ("float8_e5m2", -0.25, -1.0), ("uint8", 2, 8.0)])
def test_premul_sum(alone, name, factor, expected):
    x = np.full(5, 4).astype(name)
    alone.allreduce(x, op=tutti.premul_sum(factor))
    assert (x.astype("float64") == expected).all()


def test_shared_memory_lives_as_long_as_its_views():
    x = tutti.empty((4, 1000), "bfloat16")
    assert x.shape == (4, 1000) and x.dtype == ml_dtypes.bfloat16 and not x.view("uint16").any()
    row = x[2]
    row[:] = 3
    del x
    assert (row == 3).all()
    memory = tutti.mem_alloc(10)
    view = memoryview(memory)
    del memory
    view[:3] = b"abc"
    assert bytes(view[:3]) == b"abc" and view.nbytes == 10
    assert tutti.empty(0).size == 0
    with pytest.raises(ValueError, match="negative"):
        tutti.empty((-1, 3))
    with pytest.raises(TypeError, match="objects"):
        tutti.empty(3, object)


# --- bad input: names the argument, leaves the communicator usable


class CudaLike:
    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (4096, False), "version": 3}


class RocmDlpack:
    def __dlpack__(self, **kwargs):
        raise AssertionError("must not be asked")

    def __dlpack_device__(self):
        return (10, 0)


F = np.ones(4, "float32")


def readonly():
    x = np.ones(4, "float32")
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("error, match, call", [
    (TypeError, "sendbuf must be an array", lambda c: c.allreduce([1.0, 2.0])),
    (TypeError, "sendbuf must be an array.*not str", lambda c: c.allreduce("abc")),
    (TypeError, "sendbuf must be an array", lambda c: c.allreduce(None)),
    (TypeError, "recvbuf has dtype float64, but sendbuf has float32", lambda c: c.allreduce(F, np.ones(4))),
    (TypeError, "sendbuf has dtype int16, which cannot be reduced", lambda c: c.allreduce(np.ones(3, "int16"))),
    (TypeError, "sendbuf is bool", lambda c: c.allreduce(np.ones(3, bool))),
    (TypeError, "sendbuf is complex", lambda c: c.allreduce(np.ones(3, complex), op=tutti.MAX)),
    (TypeError, "objects", lambda c: c.broadcast(np.array([object()]))),
    (TypeError, "byte order", lambda c: c.allreduce(np.ones(3, ">f4"))),
    (TypeError, "incompatible", lambda c: c.allreduce(F.copy(), op="sum")),
    (ValueError, "recvbuf has shape", lambda c: c.allreduce(F, np.ones(5, "float32"))),
    (ValueError, "root is 1", lambda c: c.broadcast(F.copy(), root=1)),
    (ValueError, "root is -1", lambda c: c.reduce(F, F.copy(), root=-1)),
    (ValueError, "peer is 7", lambda c: c.send(F, 7)),
    (ValueError, "recvbuf has 5 items", lambda c: c.allgather(F, np.ones(5, "float32"))),
    (ValueError, "sendcounts has 2 entries", lambda c: c.alltoallv(F, [1, 3], F.copy(), [4])),
    (ValueError, "sendbuf has 4 items, but rank 0's block is 5", lambda c: c.alltoallv(F, [5], F.copy(), [4])),
    (ValueError, "recvcounts", lambda c: c.alltoallv(F, [3], F.copy(), [4])),
    (ValueError, "multiplies by 0.5", lambda c: c.allreduce(np.ones(2, "int32"), op=tutti.premul_sum(0.5))),
    (BufferError, "sendbuf is read-only", lambda c: c.allreduce(readonly())),
    (BufferError, "recvbuf is read-only", lambda c: c.allreduce(F, readonly())),
    (BufferError, "recvbuf is read-only", lambda c: c.recv(b"1234", 0)),
    (BufferError, "sendbuf is not C-contiguous", lambda c: c.allreduce(np.ones((4, 4))[:, 1])),
    (BufferError, "sendbuf is not C-contiguous", lambda c: c.allreduce(np.ones((4, 4), order="F"))),
    (BufferError, "not C-contiguous", lambda c: c.broadcast(np.ones((4, 4), "bfloat16")[:, 1])),
    # Without a driver that is what is missing, with one the memory is none of its.
    (tutti.TuttiError, "no CUDA driver|no device memory", lambda c: c.allreduce(CudaLike())),
    (tutti.UnsupportedError, "sendbuf is memory of a device", lambda c: c.allreduce(RocmDlpack())),
    (ValueError, "stream must be None", lambda c: c.allreduce(F.copy(), stream=1)),
    (tutti.InvalidArgumentError, "overlap", lambda c: (lambda x: c.allreduce(x[:4], x[1:5]))(np.ones(8))),
    (tutti.InvalidArgumentError, "aligned", lambda c: c.allreduce(np.frombuffer(bytearray(9), "u1")[1:9].view("f4"))),
])
def test_bad_input_is_refused_by_name(alone, error, match, call):
    with pytest.raises(error, match=match):
        call(alone)
    x = np.ones(3)
    alone.allreduce(x)
    assert (x == 1).all()


def test_bad_communicators():
    uid = tutti.get_unique_id()
    for ranks, rank in ((0, 0), (2, 2), (2, -1), (-1, 0)):
        with pytest.raises(ValueError, match="rank"):
            tutti.Communicator.init(ranks, rank, uid)
    with pytest.raises(ValueError, match="128"):
        tutti.UniqueId.from_bytes(b"short")
    config = tutti.Config()
    config.init_timeout = 0.5
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        tutti.Communicator.init(2, 1, uid, config)
    assert time.monotonic() - start < 5


def test_destroyed_communicator_is_refused():
    comm = tutti.Communicator.init(1, 0, tutti.get_unique_id())
    comm.destroy()
    comm.destroy()
    assert not comm.is_valid and "destroyed" in repr(comm)
    with pytest.raises(tutti.InvalidUsageError, match="destroyed"):
        comm.barrier()


def test_exceptions_carry_rank_and_peer_and_travel():
    from tutti._errors import from_status

    error = from_status("remote_error", "rank 7: peer 3 (host b, pid 412) closed the connection")
    assert isinstance(error, (tutti.RemoteError, ConnectionError)) and (error.rank, error.peer) == (7, 3)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.rank, again.peer, again.code) == (
        tutti.RemoteError, str(error), 7, 3, "remote_error")
    for text, rank, peer in [
        ("rank 1 (host vm, pid 5) died during all_reduce #2", None, 1),
        ("rank 1 has left the communicator", None, 1),
        ("rank 10: rank 1 has left the communicator during barrier #2", 10, 1),
        ("rank 0 calls all_reduce #1 of 4, but rank 2 calls all_reduce #1 of 3", 0, 2),
        ("rank 0 waits in barrier #1 for rank 12, which has left that call for barrier #2", 0, 12),
        ("rank 3: aborted: enough", 3, None),
        ("no port", None, None),
    ]:
        error = from_status("aborted", text)
        assert (error.rank, error.peer) == (rank, peer), text


def test_ranks_that_disagree_are_both_named():
    for text in tutti.run(programs.disagrees, 2, timeout=30):
        assert "rank 0" in text and "rank 1" in text and "of 4" in text and "of 3" in text


def test_group_that_raises_runs_nothing_and_leaves_no_group_open(alone):
    x = np.ones(3)
    with pytest.raises(KeyError), tutti.group():
        alone.allreduce(x, op=tutti.premul_sum(5))
        raise KeyError
    assert (x == 1).all()
    with pytest.raises(tutti.InvalidUsageError, match="group"), tutti.group():
        alone.allreduce_async(x)
    alone.allreduce(x, op=tutti.premul_sum(5))
    assert (x == 5).all()


# --- life and death


@pytest.mark.parametrize("form", ["blocking", "async"])
def test_ctrl_c_ends_a_wait_and_breaks_the_communicator(form):
    (first, took), (other, _) = tutti.run(programs.interrupted, 2, (form,), timeout=30)
    assert first == "interrupted" and took < 1.5
    assert "rank 0" in other and "interrupted" in other


def test_ctrl_c_while_joining():
    code = ("import tutti, threading, os, signal\n"
            "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
            "try: tutti.Communicator.init(2, 0, tutti.get_unique_id())\n"
            "except KeyboardInterrupt: print('interrupted')\n")
    start = time.monotonic()
    assert python("-c", code, timeout=30).stdout == "interrupted\n"
    assert time.monotonic() - start < 10


def test_death_of_a_rank_is_named(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys, time, numpy, tutti\ncomm = tutti.Communicator.from_environment()\n"
        "x = numpy.ones(1000)\ncomm.allreduce(x)\n"
        "if comm.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nstart = time.monotonic()\n"
        "try:\n  while True: comm.allreduce(x)\n"
        "except tutti.RemoteError as e:\n  print(f'{e.peer} {e.rank == comm.rank} {time.monotonic() - start < 5}\\n', end='')\n"
        "  print(e, file=sys.stderr)\n")
    done = python("-m", "tutti.launch", "-n", "3", str(script))
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stdout.splitlines() == ["1 True True"] * 2, done.stdout + done.stderr


def test_survivors_revoke_agree_and_shrink():
    got = tutti.run(programs.survives, 4, timeout=60)
    assert [g for r, g in enumerate(got) if r != 1] == [[0, 3, 5, 6], [1, 3, 5, 6], [2, 3, 5, 6]]


def test_a_new_process_grows_in():
    assert tutti.run(programs.grows, 3, timeout=60) == [
        [0, 4, 103, 3, 3, 103], [1, 4, 103, 3, 0, 0], [2, 4, 103, 3, 0, 0]]


def test_forked_child_is_told_and_leaves_in_peace():
    assert tutti.run(programs.forks, 2, timeout=30) == [7, 7]


@pytest.mark.parametrize("state", [
    "", "comm.allreduce(x)", "work = comm.allreduce_async(x)", "work = comm.allreduce_async(x); work.wait()",
    "comms = tutti.Communicator.init_all(2); work = comms[0].allreduce_async(x)",
    "comms = tutti.Communicator.init_all(2); work = comms[0].barrier_async(); del comms, work"])
def test_interpreter_exit_with_live_communicators(state):
    code = ("import numpy, tutti\nx = numpy.ones(10)\n"
            f"comm = tutti.Communicator.init(1, 0, tutti.get_unique_id())\n{state}\nprint('end')\n")
    done = python("-c", code, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_work_of_a_dropped_handle_keeps_its_arrays(threads):
    import gc
    import threading

    for _ in range(20):
        works = [c.allreduce_async(np.ones(200000)) for c in threads]
        del works
        gc.collect()
    x, y = np.ones(3), np.ones(3)
    other = threading.Thread(target=lambda: threads[1].allreduce(y))
    other.start()
    threads[0].allreduce(x)
    other.join()
    assert (x == 2).all()


def test_other_threads_run_while_a_call_waits(threads):
    import threading

    out = np.zeros(2)
    waiting = threading.Thread(target=lambda: threads[0].allreduce(np.ones(2), out))
    waiting.start()
    time.sleep(0.2)
    assert waiting.is_alive()
    threads[1].allreduce(np.ones(2))
    waiting.join(10)
    assert (out == 2).all()


def test_config_has_every_setting():
    header = (HERE.parents[2] / "include/tutti/config.h").read_text()
    fields = re.findall(r"^  [a-z][\w:<> ]* (\w+)(?: = .*)?;$", header, re.MULTILINE)
    assert len(fields) >= 25
    config = tutti.Config()
    for field in fields:
        setattr(config, field, getattr(config, field))
    config.gpu = "the fast one"
    with pytest.raises(ValueError, match="gpu: \"the fast one\" is no PCI bus id"):
        tutti.Communicator.init_all(1, config)


def test_late_operations_are_reported():
    import threading

    config = tutti.Config()
    config.late_after = 0.2
    a, b = tutti.Communicator.init_all(2, config)
    said: list[str] = []
    a.on_late(said.append)
    waiting = threading.Thread(target=a.barrier)
    waiting.start()
    time.sleep(0.8)
    b.barrier()
    waiting.join()
    assert len(said) == 1 and "late" in said[0] and "peer 1" in said[0]


def test_abort_from_another_thread(threads):
    import threading

    errors: list[BaseException] = []

    def wait() -> None:
        try:
            threads[0].barrier()
        except tutti.TuttiError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    threads[0].abort("enough")
    waiting.join(10)
    assert isinstance(errors[0], tutti.AbortedError) and "enough" in str(errors[0])
    assert isinstance(threads[0].get_async_error(), tutti.AbortedError)


# --- tutti.run, tutti.launch, mpi4py


def test_run_raises_what_a_rank_raised():
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="rank 2 fails") as caught:
        tutti.run(programs.fails, 3, timeout=30)
    assert "in rank 2" in str(caught.value.__cause__) and time.monotonic() - start < 20
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\]"):
        tutti.run(programs.sleeps, 2, timeout=2)


def test_run_of_a_lambda():
    assert tutti.run(lambda comm: comm.rank * 10, 2, timeout=30) == [0, 10]


def test_launch(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, numpy, tutti\ncomm = tutti.Communicator.from_environment()\n"
                      "x = numpy.ones(3)\ncomm.allreduce(x)\n"
                      "print(f'{comm.rank} {comm.nranks} {x[0]} {sys.argv[1:]}\\n', end='', flush=True)\n"
                      "if sys.argv[1:] == ['fail'] and comm.rank == 1: sys.exit(5)\n")
    done = python("-m", "tutti.launch", "-n", "3", str(script), "a", "-n", "b")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{r} 3 3.0 ['a', '-n', 'b']" for r in range(3)]
    assert python("-m", "tutti.launch", "-n", "2", str(script), "fail").returncode == 5
    module = python("-m", "tutti.launch", "-n", "2", "-m", "script", cwd=tmp_path)
    assert module.returncode == 0 and len(module.stdout.splitlines()) == 2
    assert python("-m", "tutti.launch", "-n", "0", str(script)).returncode == 2
    kill = tmp_path / "kill.py"
    kill.write_text("import os, signal, tutti\nc = tutti.Communicator.from_environment()\n"
                    "if c.rank: os.kill(os.getpid(), signal.SIGKILL)\nc.barrier()\n")
    assert python("-m", "tutti.launch", "-n", "2", str(kill)).returncode == 128 + signal.SIGKILL


def mpirun() -> list[str]:
    program = shutil.which("mpirun.openmpi")
    if program is None:
        pytest.skip("no Open MPI (mpirun.openmpi) here")
    return [program, "--allow-run-as-root", "--oversubscribe"]


def test_from_mpi():
    pytest.importorskip("mpi4py")
    # The wheel of mpi4py finds its MPI through this variable.
    library = next(pathlib.Path("/usr/lib").glob("*/openmpi/lib/libmpi.so*"), None)
    env = dict(os.environ, **({"MPI4PY_LIBMPI": str(library)} if library else {}))
    probe = python("-c", "from mpi4py import MPI; print(MPI.Get_library_version())", env=env)
    if "Open MPI" not in probe.stdout:
        pytest.skip(f"mpi4py does not find Open MPI: {(probe.stdout + probe.stderr).strip()[-200:]}")
    code = ("from mpi4py import MPI; import numpy, tutti\n"
            "comm = tutti.from_mpi(MPI.COMM_WORLD)\nx = numpy.ones(3)\ncomm.allreduce(x)\n"
            "assert x[0] == 2 and comm.rank == MPI.COMM_WORLD.Get_rank()\ncomm.destroy()\nprint('fine')\n")
    done = subprocess.run([*mpirun(), "-n", "2", sys.executable, "-c", code], capture_output=True,
                          text=True, timeout=60, env=env)
    assert done.stdout.count("fine") == 2, done.stdout + done.stderr


# --- what surrounds it


def test_unique_ids_are_pickled_compared_and_never_shown():
    uid = tutti.get_unique_id()
    assert pickle.loads(pickle.dumps(uid)) == uid != tutti.get_unique_id()
    assert bytes(uid).hex()[-32:] not in repr(uid)
    assert len({uid, tutti.UniqueId.from_bytes(bytes(uid))}) == 1 and uid != 3


def test_show_versions(capsys, monkeypatch):
    monkeypatch.setenv("TUTTI_SECRET", "hidden")
    tutti.show_versions()
    text = capsys.readouterr().out
    assert tutti.__version__ in text and "numpy" in text and "TUTTI_SECRET" in text and "hidden" not in text


def test_explain(alone):
    assert "all_reduce" in alone.explain("all_reduce", 100)
    with pytest.raises(ValueError, match="collective is unknown"):
        alone.explain("all_confuse", 1)


def test_array_module(alone):
    x = array.array("i", range(5))
    alone.allreduce(x)
    assert list(x) == list(range(5))


def test_types(tmp_path):
    """The package and a program that uses it pass a strict type check; wrong calls do not."""
    pytest.importorskip("mypy")
    package = pathlib.Path(tutti.__file__).parent
    good = tmp_path / "good.py"
    good.write_text("import numpy as np\nimport tutti\n\n"
                    "def program(comm: tutti.Communicator) -> int:\n"
                    "    x = np.ones(3)\n    comm.allreduce(x, op=tutti.MAX)\n"
                    "    comm.allreduce(bytearray(3))\n"
                    "    work: tutti.Work = comm.all_gather_async(x, np.ones(6))\n    work.wait(timeout=1.0)\n"
                    "    sub = comm.split(0)\n    return sub.rank if sub else comm.nranks\n\n"
                    "ranks: list[int] = tutti.run(program, 2)\n")
    bad = tmp_path / "bad.py"
    bad.write_text("import tutti\n\ndef program(comm: tutti.Communicator) -> None:\n"
                   "    comm.allreduce(3)\n    comm.allreduce(bytearray(3), op='sum')\n    comm.rank = 3\n"
                   "    x: int = comm.barrier_async()\n")
    mypy = ("-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"))
    env = dict(os.environ, MYPYPATH=str(package.parent))
    done = python(*mypy, str(good), str(package / "__init__.py"), str(package / "launch.py"), env=env, timeout=300)
    assert done.returncode == 0, done.stdout
    done = python(*mypy, str(bad), env=env, timeout=300)
    assert [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line] == ["4", "5", "6", "7"], done.stdout
