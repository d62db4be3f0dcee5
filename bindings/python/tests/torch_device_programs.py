"""What test_torch_device.py runs on every rank, on tensors of a device: CUDA's, or those of the fake one.

    TUTTI_TEST_DEVICE=cuda python -m tutti.launch -n 2 torch_device_programs.py NAME
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tutti.torch
from torch_programs import net, same, train

KIND = os.environ["TUTTI_TEST_DEVICE"]
FAKE = KIND == "fake"
# Which device a rank has: its own, or all of them the first.
SHARED = os.environ.get("TUTTI_TEST_SHARED") == "1"
OPS = dist.ReduceOp
# Work that holds up a stream, and what a host that does not wait takes at most.
LONG, SHORT = 0.6, 0.3


def load_fake() -> None:
    torch.utils.rename_privateuse1_backend("fake")
    torch.ops.load_library(os.environ["TUTTI_FAKE_ACCELERATOR"])

    class Module:
        """What torch looks for in torch.fake."""

        is_available = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 4)
        current_device = staticmethod(torch.accelerator.current_device_index)
        is_initialized = staticmethod(lambda: True)
        _is_in_bad_fork = staticmethod(lambda: False)
        manual_seed_all = staticmethod(lambda seed: None)

    torch._register_device_module("fake", Module)

    def create(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        return tutti.torch._extension.create_backend(store, rank, size, timeout, "fake")

    dist.Backend.register_backend("tutti_fake", create, devices=["cpu", "fake"])


def start(timeout: float = 60) -> tuple[int, int, torch.device]:
    """Rank, size and this rank's device, which is not the current one."""
    torch.set_num_threads(1)
    if FAKE:
        load_fake()
    dist.init_process_group("tutti_fake" if FAKE else "tutti", timeout=timedelta(seconds=timeout))
    rank, size = dist.get_rank(), dist.get_world_size()
    count = 4 if FAKE else torch.cuda.device_count()
    return rank, size, torch.device(KIND, 0 if SHARED else (rank + 1) % count)


def hold_up(device: torch.device, seconds: float = LONG) -> None:
    """The device's current stream stands still for so long."""
    if FAKE:
        torch.ops.fake_accelerator.delay(device.index, round(seconds * 1000))
    else:
        with torch.cuda.device(device):
            torch.cuda._sleep(round(seconds * 1.5e9))


@contextmanager
def at_once(what: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < SHORT, f"{what} took {time.monotonic() - begin:.2f} s"


def placed(t: torch.Tensor, device: torch.device, form: int) -> torch.Tensor:
    """The values on the device; a third of them transposed, a third with gaps."""
    if form == 0 and t.dim() > 1:
        return t.transpose(0, 1).contiguous().to(device).transpose(0, 1)
    if form == 1 and t.dim() > 0:
        wide = torch.zeros((*t.shape[:-1], t.shape[-1] * 2), dtype=t.dtype, device=device)
        wide[..., ::2].copy_(t)
        return wide[..., ::2]
    return t.to(device)


def folded(tensors: list[torch.Tensor], op: Any) -> torch.Tensor:
    fold = {OPS.SUM: torch.add, OPS.PRODUCT: torch.mul, OPS.MIN: torch.minimum, OPS.MAX: torch.maximum,
            OPS.BAND: torch.bitwise_and, OPS.BOR: torch.bitwise_or, OPS.BXOR: torch.bitwise_xor}
    result = tensors[0]
    for t in tensors[1:]:
        result = fold[op](result, t)
    return result


def ops() -> None:
    """Every collective on random shapes, types and layouts, against what it should give."""
    rank, size, device = start()
    types = [torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]
    for case in range(24):
        rng = random.Random(case)
        dtype = rng.choice(types)
        shape = tuple(rng.randrange(1, 9) for _ in range(rng.randrange(1, 4)))
        if case % 9 == 0:
            shape = (rng.randrange(10000, 60000),)
        root, async_op = rng.randrange(size), rng.random() < 0.5
        op = rng.choice([OPS.SUM, OPS.PRODUCT, OPS.MIN, OPS.MAX])
        if not dtype.is_floating_point and rng.random() < 0.5:
            op = rng.choice([OPS.BAND, OPS.BOR, OPS.BXOR])
        form = rng.randrange(3)

        def value(r: int, salt: int = 0) -> torch.Tensor:
            g = torch.Generator().manual_seed((case * 64 + r) * 64 + salt)
            return torch.randint(0, 3, shape, generator=g).to(dtype)

        def mine(salt: int = 0) -> torch.Tensor:
            return placed(value(rank, salt), device, form)

        def room(*more: int) -> torch.Tensor:
            return placed(torch.zeros((*more, *shape), dtype=dtype), device, form)

        def done(work: Any) -> None:
            if work is not None and async_op:
                work.wait()

        def expect(got: Any, want: Any, what: str) -> None:
            got = [g.cpu() for g in ([got] if isinstance(got, torch.Tensor) else got)]
            same(got, [want] if isinstance(want, torch.Tensor) else want,
                 f"case {case}: {what} {dtype} {shape} {op} root {root} form {form}")

        every = [value(r) for r in range(size)]
        t = mine()
        done(dist.all_reduce(t, op, async_op=async_op))
        expect(t, folded(every, op), "all_reduce")
        t = mine()
        done(dist.reduce(t, root, op, async_op=async_op))
        expect(t, folded(every, op) if rank == root else every[rank], "reduce")
        t = mine()
        done(dist.broadcast(t, root, async_op=async_op))
        expect(t, every[root], "broadcast")
        outs = [room() for _ in range(size)]
        done(dist.all_gather(outs, mine(), async_op=async_op))
        expect(outs, every, "all_gather")
        whole = torch.zeros((size * shape[0], *shape[1:]), dtype=dtype, device=device)
        done(dist.all_gather_into_tensor(whole, mine().contiguous(), async_op=async_op))
        expect(whole, torch.cat(every), "all_gather_into_tensor")
        out = room()
        done(dist.reduce_scatter(out, [mine(to) for to in range(size)], op, async_op=async_op))
        blocks = [folded([value(r, to) for r in range(size)], op) for to in range(size)]
        expect(out, blocks[rank], "reduce_scatter")
        out = room()
        done(dist.reduce_scatter_tensor(out, torch.cat([mine(to) for to in range(size)]), op, async_op=async_op))
        expect(out, blocks[rank], "reduce_scatter_tensor")
        outs = [room() for _ in range(size)] if rank == root else None
        done(dist.gather(mine(), outs, dst=root, async_op=async_op))
        if outs is not None:
            expect(outs, every, "gather")
        out = room()
        ins = [mine(to) for to in range(size)] if rank == root else None
        done(dist.scatter(out, ins, src=root, async_op=async_op))
        expect(out, value(root, rank), "scatter")
        # What rank a sends to rank b: splits[a][b] rows.
        splits = [[(a * 5 + b * 3 + case) % 4 for b in range(size)] for a in range(size)]
        rows = [torch.arange(sum(splits[a]) * 3).reshape(-1, 3).to(dtype) + a for a in range(size)]
        received = [splits[a][rank] for a in range(size)]
        out = torch.zeros((sum(received), 3), dtype=dtype, device=device)
        done(dist.all_to_all_single(out, rows[rank].to(device), received, splits[rank], async_op=async_op))
        expect(out, torch.cat([rows[a].split(splits[a])[rank] for a in range(size)]), "all_to_all_single")
        outs = [torch.zeros(r + rank + 1, dtype=dtype, device=device) for r in range(size)]
        ins = [torch.full((r + rank + 1,), rank, dtype=dtype, device=device) for r in range(size)]
        done(dist.all_to_all(outs, ins, async_op=async_op))
        expect(outs, [torch.full((r + rank + 1,), r, dtype=dtype) for r in range(size)], "all_to_all")
    extras(rank, size, device)
    print("fine")


def extras(rank: int, size: int, device: torch.device) -> None:
    total = size * (size - 1) // 2
    full = lambda n, x, **more: torch.full((n,), x, device=device, **more)  # noqa: E731
    t = full(5, float(rank))
    dist.all_reduce(t, OPS.AVG)
    same(t.cpu(), torch.full((5,), (size - 1) / 2), "avg")
    t = full(4, 2.0)
    dist.all_reduce(t, dist._make_nccl_premul_sum(0.5))
    same(t.cpu(), torch.full((4,), float(size)), "premul_sum")
    flags = torch.tensor([rank == 0, True, False]).to(device)
    dist.all_reduce(flags)
    same(flags.cpu(), torch.tensor([True, True, False]), "bool sum is any")
    for dtype in (torch.int16, torch.complex64, torch.float8_e4m3fn, torch.bool):
        t = torch.full((7,), rank % 2).to(dtype).to(device)
        dist.broadcast(t, src=1)
        same(t.cpu(), torch.full((7,), 1).to(dtype), f"broadcast of {dtype}")
    dist.all_reduce(torch.zeros(0, device=device))
    many = [full(i + 1, float(rank)) for i in range(5)]
    dist.all_reduce_coalesced(many)
    with dist._coalescing_manager(device=device, async_ops=True) as cm:
        for m in many:
            dist.all_reduce(m)
    cm.wait()
    for i, m in enumerate(many):
        same(m.cpu(), torch.full((i + 1,), float(size * total)), "coalesced")
    outs = [torch.zeros(size * 2, device=device) for _ in range(3)]
    with dist._coalescing_manager() as cm:
        for o in outs:
            dist.all_gather_into_tensor(o, full(2, float(rank)))
    same(outs[2].cpu(), torch.arange(size).repeat_interleave(2).float(), "coalesced all_gather")
    uneven = [torch.zeros(r + 1, device=device) for r in range(size)]
    dist.all_gather(uneven, full(rank + 1, float(rank)))
    same([u.cpu() for u in uneven], [torch.full((r + 1,), float(r)) for r in range(size)], "uneven all_gather")
    # CPU and device in turns, in one process group, and objects.
    for _ in range(3):
        here, there = torch.full((3,), rank), full(3, rank)
        works = [dist.all_reduce(here, async_op=True), dist.all_reduce(there, async_op=True)]
        for w in works:
            w.wait()
        same([here, there.cpu()], [torch.full((3,), total)] * 2, "in turns")
    objects: list[Any] = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": r} for r in range(size)]
    other = torch.device(KIND, (device.index + 1) % 4)
    refused: list[tuple[str, Callable[[], Any]]] = [
        ("tensor 1 is on", lambda: dist.all_gather_into_tensor(torch.zeros(size, device=device), torch.zeros(1))),
        ("cannot reduce", lambda: dist.all_reduce(torch.zeros(3, dtype=torch.int16, device=device))),
        ("is on meta", lambda: dist.distributed_c10d._get_default_group()._get_backend(device).allreduce(
            [torch.zeros(3, device="meta")], dist.AllreduceOptions())),
        ("any rank is not supported", lambda: dist.recv(torch.zeros(3, device=device))),
    ]
    if FAKE:
        refused.append(("tensor 1 is on fake", lambda: dist.all_gather_into_tensor(
            torch.zeros(size, device=device), torch.zeros(1, device=other))))
    else:
        refused.append(("layout", lambda: dist.all_reduce(torch.ones(3, 3, device=device).to_sparse())))
    for match, call in refused:
        try:
            call()
        except Exception as error:
            assert match in str(error), (match, error)
        else:
            raise AssertionError(f"no error: {match}")


def streams() -> None:
    """Stream order without a host that waits; futures; memory that is given up early."""
    rank, size, device = start()
    total = float(size * (size + 1) // 2)
    x, y = torch.zeros(1000, device=device), torch.zeros(1000, device=device)
    dist.all_reduce(x)
    late = rank == size - 1
    for stream in (None, torch.Stream(device)):
        if stream is not None:
            stream.__enter__()
        # What the current stream holds comes first, and what it gets later comes after.
        x.zero_()
        y.zero_()
        if late:
            hold_up(device)
        x.fill_(rank + 1.0)
        with at_once("async all_reduce and wait()"):
            work = dist.all_reduce(x, async_op=True)
            assert not work.is_completed() and work.is_success() is False
            work.wait()
            y.copy_(x)
        same(y.cpu(), torch.full((1000,), total), "in stream order")
        assert work.is_completed() and work.is_success() and work.exception() is None
        # The same of a call that is not asynchronous.
        if late:
            hold_up(device)
        x.fill_(rank + 1.0)
        with at_once("all_reduce"):
            dist.all_reduce(x)
            y.copy_(x)
        same(y.cpu(), torch.full((1000,), total), "not asynchronous")
        # A future's callbacks run at once, on a stream that waits.
        if late:
            hold_up(device)
        x.fill_(rank + 1.0)
        with at_once("then()"):
            done = dist.all_reduce(x, async_op=True).get_future().then(lambda f: y.copy_(f.value()[0]))
            done.wait()
        same(y.cpu(), torch.full((1000,), total), "future")
        several = []
        if late:
            hold_up(device)
        with at_once("several"):
            with dist._coalescing_manager(device=device, async_ops=True) as cm:
                dist.broadcast(x.fill_(rank + 1.0), size - 1)
                dist.all_gather_into_tensor(z := torch.zeros(size, device=device), x[:1])
            several = cm.works
            results = several[0].get_future().then(lambda f: [t.clone() for t in f.value()]).wait()
        same([r.cpu() for r in results], [torch.full((1000,), float(size)), torch.full((size,), float(size))],
             "one future for several")
        assert z.cpu().tolist() == [float(size)] * size
        # Nobody keeps these: the memory is not reused before the device is through.
        for how in ("no wait", "wait", "wait elsewhere"):
            if late:
                hold_up(device)
            first = dist.all_reduce(torch.ones(1000, device=device), async_op=True)
            given_up = torch.full((1000,), rank + 1.0, device=device)
            work = dist.all_reduce(given_up, async_op=True)
            kept = torch.full((1000,), rank + 1.0, device=device)
            last = dist.all_reduce(kept, async_op=True)
            if how == "wait":
                work.wait()
            if how == "wait elsewhere":
                with torch.Stream(device):
                    work.wait()
            outcome = work.get_future() if late else None  # the others give theirs up
            del work, given_up
            for _ in range(3):
                torch.full((1000,), -1.0, device=device)
            first.wait()
            last.wait()
            same(kept.cpu(), torch.full((1000,), total), how)
            if outcome is not None:
                same(outcome.wait()[0].cpu(), torch.full((1000,), total), how)
        if stream is not None:
            stream.__exit__(None, None, None)
    # barrier() of a device comes after what is on it, everywhere, and blocks the host.
    begin = time.monotonic()
    if late:
        hold_up(device)
    dist.barrier(device_ids=[device.index])
    assert time.monotonic() - begin > LONG * 0.8
    # An explicit timeout blocks the host, too.
    begin = time.monotonic()
    if late:
        hold_up(device)
    work = dist.all_reduce(x, async_op=True)
    work.wait(timedelta(seconds=30))
    assert work.is_completed() and time.monotonic() - begin > LONG * 0.8
    # What is on the streams is done even when the group goes first.
    if late:
        hold_up(device)
    x.fill_(rank + 1.0)
    dist.all_reduce(x)
    dist.destroy_process_group()
    same(x.cpu(), torch.full((1000,), total), "destroyed early")
    print("fine")


def messages() -> None:
    """Sends and receives in any order, in batches, from and into what is not contiguous."""
    rank, size, device = start()
    right, left = (rank + 1) % size, (rank - 1) % size
    for n in (1, 1000, 300000):
        for first in ("recv", "send"):
            out, into = torch.full((n,), float(rank), device=device), torch.zeros(n, device=device)
            if first == "recv":
                works = [dist.irecv(into, left), dist.isend(out, right)]
            else:
                works = [dist.isend(out, right), dist.irecv(into, left)]
            for w in works:
                w.wait()
            same(into.cpu(), torch.full((n,), float(left)), "ring")
    # A message comes after what its sender's stream holds; the receiver's host does not wait.
    x = torch.zeros(100, device=device)
    if rank == 0:
        hold_up(device)
        with at_once("send"):
            dist.send(x.fill_(7.0), right)
    if rank == 1:
        with at_once("recv"):
            dist.recv(x, left)
            y = x.clone()
        same(y.cpu(), torch.full((100,), 7.0), "in stream order")
    wide = torch.zeros(6, 2, device=device)
    batch = [dist.P2POp(dist.isend, torch.full((6,), float(rank), device=device), p) for p in range(size) if p != rank]
    into = {p: torch.zeros(6, device=device) for p in range(size) if p != rank}
    into[left] = wide[:, 0]
    batch += [dist.P2POp(dist.irecv, t, p) for p, t in into.items()]
    for w in dist.batch_isend_irecv(batch):
        w.wait()
    for p, t in into.items():
        same(t.cpu(), torch.full((6,), float(p)), "batch")
    for n in (1, 200000):
        out, into_one = torch.full((n,), float(rank), device=device), torch.zeros(n, device=device)
        ring = [dist.P2POp(dist.isend, out, right), dist.P2POp(dist.irecv, into_one, left)]
        for w in dist.batch_isend_irecv(ring):
            w.wait()
        same(into_one.cpu(), torch.full((n,), float(left)), "batched ring")
    odd = [dist.new_group([r for r in range(size) if r % 2 == part]) for part in (0, 1)][rank % 2]
    t = torch.tensor([rank]).to(device)
    dist.all_reduce(t, group=odd)
    assert int(t) == sum(r for r in range(size) if r % 2 == rank % 2)
    dist.destroy_process_group()
    print("fine")


def ddp() -> None:
    """DDP on device tensors against one process on the CPU."""
    rank, size, device = start()
    alone = net()
    train(alone, 0, 1)
    single = torch.cat([p.detach().flatten() for p in alone.parameters()])

    def weights(hook: Any = None, state: Any = None, **options: Any) -> torch.Tensor:
        model = DistributedDataParallel(net().to(device), bucket_cap_mb=0.1, **options)
        if hook is not None:
            model.register_comm_hook(state, hook)
        losses = train(model, rank, size, device=device)
        assert losses[-1] < losses[0] * 0.8, losses
        return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()

    plain = weights()
    # Sums are rounded in another order, and on a GPU the products, too.
    assert torch.allclose(plain, single, rtol=1e-4, atol=1e-5), float((plain - single).abs().max())
    fused = weights(tutti.torch.ddp_hook, tutti.torch.DdpState())
    assert torch.allclose(fused, single, rtol=1e-4, atol=1e-5), float((fused - single).abs().max())
    small = weights(tutti.torch.ddp_hook, tutti.torch.DdpState(compress=torch.bfloat16))
    assert torch.allclose(small, single, rtol=0.05, atol=5e-3), float((small - single).abs().max())
    views = weights(gradient_as_bucket_view=True)
    assert torch.allclose(views, single, rtol=1e-4, atol=1e-5)
    for w in (plain, fused, small):
        copies = [torch.zeros_like(w) for _ in range(size)]
        dist.all_gather(copies, w)
        same(copies, [w] * size, "weights of the ranks")
    dist.destroy_process_group()
    print(f"fine; largest difference from one process {float((plain - single).abs().max()):.1e}")


def capture() -> None:
    """A graph with a collective in it, replayed (the fake device's graphs; see also cuda_graph)."""
    rank, size, device = start()
    x, y = torch.zeros(500, device=device), torch.zeros(500, device=device)
    dist.all_reduce(x)
    x.cpu()
    with torch.Stream(device) as stream:
        torch.ops.fake_accelerator.begin_capture(device.index)
        dist.all_reduce(x, async_op=True).wait()
        y.copy_(x)
        torch.ops.fake_accelerator.end_capture(device.index)
        same(y.cpu(), torch.zeros(500), "nothing has run")
        for turn in range(3):
            x.fill_(float(rank + turn))
            torch.ops.fake_accelerator.replay(device.index)
            same(y.cpu(), torch.full((500,), float(sum(r + turn for r in range(size)))), f"replay {turn}")
        stream.synchronize()
    dist.destroy_process_group()
    print("fine")


def cuda_graph() -> None:
    """A CUDA graph with a collective in it, replayed."""
    rank, size, device = start()
    x = torch.zeros(500, device=device)
    dist.all_reduce(x)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        y = x * 1
        dist.all_reduce(y)
    for turn in range(3):
        x.fill_(float(rank + turn))
        graph.replay()
        same(y.cpu(), torch.full((500,), float(sum(r + turn for r in range(size)))), f"replay {turn}")
    del graph
    dist.destroy_process_group()
    print("fine")


def death() -> None:
    """Rank 1 is killed; the others get an error that names it, in time."""
    rank, _, device = start(timeout=30)
    t = torch.ones(1000, device=device)
    dist.all_reduce(t)
    t.cpu()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        while True:
            dist.all_reduce(t)
            t.cpu()
    except dist.DistBackendError as error:
        assert "rank 1" in str(error) or "peer 1" in str(error), error
        assert time.monotonic() - begin < 10
        print("fine", flush=True)
    os._exit(0)


def overdue() -> None:
    """A rank that does not come, to a first call and to a later one."""
    rank, _, device = start(timeout=2 if sys.argv[2] == "first" else 60)
    t = torch.ones(3, device=device)
    if sys.argv[2] == "later":
        dist.all_reduce(t)
        t.cpu()
    if rank == 1:
        time.sleep(8)
        os._exit(0)
    begin = time.monotonic()
    try:
        dist.all_reduce(t, async_op=True).wait(timedelta(seconds=2))
    except dist.DistBackendError as error:
        assert "rank" in str(error), error
        assert 1 < time.monotonic() - begin < 6
        print("fine", flush=True)
    os._exit(0)


def interrupted() -> None:
    """Ctrl-C while the other ranks have not come to the first call."""
    rank, _, device = start(timeout=30)
    if rank == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        begin = time.monotonic()
        try:
            dist.all_reduce(torch.ones(3, device=device))
        except KeyboardInterrupt:
            assert time.monotonic() - begin < 4
            print("fine", flush=True)
    else:
        time.sleep(4)
    os._exit(0)


def leaves() -> None:
    """The program ends without destroy_process_group(), with work on the streams."""
    rank, size, device = start(timeout=20)
    t = torch.full((1000,), rank + 1.0, device=device)
    dist.all_reduce(t)
    if rank == 0:
        hold_up(device)
    dist.all_reduce(t)
    if rank != 0:
        same(t.cpu(), torch.full((1000,), float(size * size * (size + 1) // 2)), "before the end")
    print("fine", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
