"""What test_torch.py runs on every rank: python -m tutti.launch -n 4 torch_programs.py NAME."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from datetime import timedelta
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tutti.torch

OPS = dist.ReduceOp


def start(timeout: float = 60) -> tuple[int, int, Any]:
    """Rank, size and a gloo group for reference; tutti is the default group."""
    torch.set_num_threads(1)
    dist.init_process_group("tutti", timeout=timedelta(seconds=timeout))
    gloo = dist.new_group(backend="gloo")
    return dist.get_rank(), dist.get_world_size(), gloo


def tensor(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype, salt: int) -> torch.Tensor:
    """Small whole numbers, which every type adds exactly; a third of them not contiguous."""
    g = torch.Generator().manual_seed(rng.randrange(1 << 30) * 64 + salt)
    values = torch.randint(0, 3, shape, generator=g)
    t = values.to(dtype)
    form = rng.randrange(3)
    if form == 0 and len(shape) > 1:
        return t.transpose(0, 1).contiguous().transpose(0, 1)
    if form == 1:
        wide = torch.zeros((*shape[:-1], shape[-1] * 2), dtype=dtype)
        wide[..., ::2] = t
        return wide[..., ::2]
    return t


def same(a: Any, b: Any, what: str) -> None:
    a, b = ([x] if isinstance(x, torch.Tensor) else x for x in (a, b))
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype and torch.equal(x, y), f"{what}\n{x}\n{y}"


def ops() -> None:
    """Every operation of c10d against gloo, on random shapes, types and layouts."""
    rank, size, gloo = start()
    tutti_group = dist.group.WORLD
    moving = [torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
              torch.float64, torch.bool]
    for case in range(40):
        rng = random.Random(case)
        dtype = rng.choice(moving[:-1])
        shape = tuple(rng.randrange(1, 9) for _ in range(rng.randrange(1, 4)))
        if case % 9 == 0:
            shape = (rng.randrange(10000, 60000),)
        root = rng.randrange(size)
        op = rng.choice([OPS.SUM, OPS.PRODUCT, OPS.MIN, OPS.MAX])
        if not dtype.is_floating_point and rng.random() < 0.5:
            op = rng.choice([OPS.BAND, OPS.BOR, OPS.BXOR])
        async_op = rng.random() < 0.5
        draw = rng.getstate()
        strided = True

        def both(run: Callable[[Any], Any], what: str) -> None:
            nonlocal strided
            results = []
            for group in (tutti_group, gloo):
                rng.setstate(draw)
                strided = group is tutti_group  # gloo gets the same values, one after the other
                results.append(run(group))
            same(results[0], results[1], f"case {case}: {what} {dtype} {shape} {op} root {root}")

        def mine(salt: int = 0) -> torch.Tensor:
            t = tensor(rng, shape, dtype, rank * 16 + salt)
            return t if strided else t.contiguous()

        def done(work: Any) -> None:
            if work is not None and async_op:
                work.wait()

        def allreduce(group: Any) -> Any:
            t = mine()
            done(dist.all_reduce(t, op, group=group, async_op=async_op))
            return t

        def reduce(group: Any) -> Any:
            t = mine()
            done(dist.reduce(t, root, op, group=group, async_op=async_op))
            return t if rank == root else []

        def broadcast(group: Any) -> Any:
            t = mine()
            done(dist.broadcast(t, root, group=group, async_op=async_op))
            return t

        def all_gather(group: Any) -> Any:
            out = [torch.zeros(shape, dtype=dtype) for _ in range(size)]
            done(dist.all_gather(out, mine(), group=group, async_op=async_op))
            return out

        def all_gather_into_tensor(group: Any) -> Any:
            out = torch.zeros((size * shape[0], *shape[1:]), dtype=dtype)
            done(dist.all_gather_into_tensor(out, mine().contiguous(), group=group, async_op=async_op))
            return out

        def reduce_scatter(group: Any) -> Any:
            out = torch.zeros(shape, dtype=dtype)
            ins = [mine(r).contiguous() for r in range(size)]
            if group is gloo:  # has no reduce_scatter of lists everywhere: by its own all_reduce
                for t in ins:
                    dist.all_reduce(t, op, group=gloo)
                return ins[rank]
            done(dist.reduce_scatter(out, ins, op, group=group, async_op=async_op))
            return out

        def reduce_scatter_tensor(group: Any) -> Any:
            out = torch.zeros(shape, dtype=dtype)
            whole = torch.cat([mine(r) for r in range(size)])
            if group is gloo:
                dist.all_reduce(whole, op, group=gloo)
                return whole[rank * shape[0]:(rank + 1) * shape[0]]
            done(dist.reduce_scatter_tensor(out, whole, op, group=group, async_op=async_op))
            return out

        def gather(group: Any) -> Any:
            out = [torch.zeros(shape, dtype=dtype) for _ in range(size)] if rank == root else None
            done(dist.gather(mine(), out, dst=root, group=group, async_op=async_op))
            return out or []

        def scatter(group: Any) -> Any:
            out = torch.zeros(shape, dtype=dtype)
            ins = [mine(r).contiguous() for r in range(size)] if rank == root else None
            done(dist.scatter(out, ins, src=root, group=group, async_op=async_op))
            return out

        def all_to_all_single(group: Any) -> Any:
            # What rank a sends to rank b: splits[a][b] rows.
            splits = [[(a * 5 + b * 3 + case) % 4 for b in range(size)] for a in range(size)]
            received = [splits[a][rank] for a in range(size)]
            data = torch.arange(sum(splits[rank]) * 3).reshape(-1, 3).to(dtype)
            out = torch.zeros((sum(received), 3), dtype=dtype)
            done(dist.all_to_all_single(out, data, received, splits[rank], group=group, async_op=async_op))
            return out

        def all_to_all(group: Any) -> Any:
            ins = [torch.full((r + rank + 1,), rank, dtype=dtype) for r in range(size)]
            out = [torch.zeros(r + rank + 1, dtype=dtype) for r in range(size)]
            if group is gloo:
                return [torch.full((r + rank + 1,), r, dtype=dtype) for r in range(size)]
            done(dist.all_to_all(out, ins, group=group, async_op=async_op))
            return out

        chosen = [allreduce, reduce, broadcast, all_gather, all_gather_into_tensor, reduce_scatter,
                  reduce_scatter_tensor, gather, scatter, all_to_all_single, all_to_all]
        for run in chosen:
            both(run, run.__name__)
    extras(rank, size)
    dist.barrier()
    print("fine")


def extras(rank: int, size: int) -> None:
    """What gloo has not, or not for these types."""
    t = torch.full((5,), float(rank))
    dist.all_reduce(t, OPS.AVG)
    same(t, torch.full((5,), (size - 1) / 2), "avg")
    flags = torch.tensor([rank == 0, True, False])
    dist.all_reduce(flags, OPS.SUM)
    same(flags, torch.tensor([True, True, False]), "bool sum is any")
    flags = torch.tensor([rank == 0, True])
    dist.all_reduce(flags, OPS.PRODUCT)
    same(flags, torch.tensor([False, True]), "bool product is all")
    for dtype in (torch.int16, torch.complex64, torch.float8_e4m3fn, torch.bool):
        t = torch.full((7,), rank % 2).to(dtype)
        dist.broadcast(t, src=1)
        same(t, torch.full((7,), 1).to(dtype), f"broadcast of {dtype}")
    z = torch.full((3,), 1 + 2j)
    dist.all_reduce(z)
    same(z, torch.full((3,), size * (1 + 2j)), "complex sum")
    factor = dist._make_nccl_premul_sum(0.5)
    t = torch.full((4,), 2.0)
    dist.all_reduce(t, factor)
    same(t, torch.full((4,), float(size)), "premul_sum")
    empty = torch.zeros(0)
    dist.all_reduce(empty)
    many = [torch.full((i + 1, 2), float(rank)) for i in range(5)]
    dist.all_reduce_coalesced(many)
    for m in many:
        same(m, torch.full(m.shape, size * (size - 1) / 2), "all_reduce_coalesced")
    with dist._coalescing_manager(async_ops=True) as cm:
        for m in many:
            dist.all_reduce(m)
    cm.wait()
    same(many[3], torch.full((4, 2), size * size * (size - 1) / 2), "coalescing manager")
    outs = [torch.zeros(size * 2) for _ in range(3)]
    with dist._coalescing_manager() as cm:
        for o in outs:
            dist.all_gather_into_tensor(o, torch.full((2,), float(rank)))
    same(outs[2], torch.arange(size).repeat_interleave(2).float(), "coalesced all_gather")
    uneven = [torch.zeros(r + 1) for r in range(size)]
    dist.all_gather(uneven, torch.full((rank + 1,), float(rank)))
    same(uneven, [torch.full((r + 1,), float(r)) for r in range(size)], "uneven all_gather")
    objects: list[Any] = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": r} for r in range(size)]
    for match, call in [
        ("cannot reduce", lambda: dist.all_reduce(torch.zeros(3, dtype=torch.int16))),
        ("Cannot use ReduceOp.BAND", lambda: dist.all_reduce(torch.zeros(3), OPS.BAND)),
        ("Cannot use ReduceOp.AVG", lambda: dist.all_reduce(torch.zeros(3, dtype=torch.bool), OPS.AVG)),
        ("layout", lambda: dist.all_reduce(torch.ones(3, 3).to_sparse())),
        ("any rank is not supported", lambda: dist.recv(torch.zeros(3))),
        ("names peer", lambda: dist.distributed_c10d._get_default_group().send([torch.zeros(3)], rank, 0)),
    ]:
        try:
            call()
        except Exception as error:
            assert match in str(error), (match, error)
        else:
            raise AssertionError(f"no error: {match}")


def messages() -> None:
    """Point to point: rings in any order, tags, batches, sizes that differ, futures, sub-groups at once."""
    rank, size, _ = start()
    right, left = (rank + 1) % size, (rank - 1) % size
    for n in (1, 1000, 500000):
        # irecv first everywhere, then isend first everywhere: neither may wait for the other.
        for first in ("recv", "send"):
            out, into = torch.full((n,), float(rank)), torch.zeros(n)
            if first == "recv":
                works = [dist.irecv(into, left), dist.isend(out, right)]
            else:
                works = [dist.isend(out, right), dist.irecv(into, left)]
            for w in works:
                w.wait()
            same(into, torch.full((n,), float(left)), "ring")
    a, b = torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    works = [dist.irecv(a, left, tag=7), dist.irecv(b, left, tag=3)]
    dist.send(torch.tensor([3, 3, 3]), right, tag=3)
    dist.send(torch.tensor([7, 7]), right, tag=7)
    for w in works:
        w.wait()
    same([a, b], [torch.tensor([7, 7]), torch.tensor([3, 3, 3])], "tags")
    wide = torch.zeros(6, 2)
    batch = [dist.P2POp(dist.isend, torch.full((6,), float(rank)), p) for p in range(size) if p != rank]
    into = {p: torch.zeros(6) for p in range(size) if p != rank}
    into[left] = wide[:, 0]
    batch += [dist.P2POp(dist.irecv, t, p) for p, t in into.items()]
    for w in dist.batch_isend_irecv(batch):
        w.wait()
    for p, t in into.items():
        same(t, torch.full((6,), float(p)), "batch")
    work = dist.irecv(torch.zeros(2), left, tag=9)
    dist.send(torch.zeros(5), right, tag=9)
    try:
        work.wait()
    except Exception as error:
        assert "8 bytes" in str(error) and "has 20" in str(error) and f"rank {left}" in str(error), error
    else:
        raise AssertionError("no error for a message of another size")
    future = dist.all_reduce(torch.ones(3), async_op=True).get_future()
    assert future.then(lambda f: f.value()[0] * 2).wait()[0] == 2 * size
    futures = [dist.broadcast(torch.full((1000,), float(rank)), r, async_op=True).get_future() for r in range(size)]
    got = [f.value()[0][0] for f in torch.futures.collect_all(futures).wait()]
    assert got == [float(r) for r in range(size)], got
    big = torch.zeros(300000)
    failing = dist.irecv(big, left, tag=11).get_future() if rank == 0 else None
    if rank == size - 1:
        dist.send(torch.zeros(1), right, tag=11)
    if failing is not None:
        try:
            failing.wait()
        except Exception as error:
            assert "1200000 bytes" in str(error), error
        else:
            raise AssertionError("a future without its error")
    # Groups progress independently: the order of issue differs between ranks.
    groups = [dist.new_group(list(range(size))) for _ in range(3)]
    order = random.Random(rank).sample(range(3), 3)
    tensors = [torch.full((200000,), float(i)) for i in range(3)]
    works = [dist.all_reduce(tensors[i], group=groups[i], async_op=True) for i in order]
    for w in works:
        w.wait()
    same([t[:1] for t in tensors], [torch.tensor([float(i * size)]) for i in range(3)], "groups")
    pair = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    t = torch.tensor([rank])
    dist.all_reduce(t, group=pair)
    assert int(t) == (1 if rank < 2 else 5)
    # What FSDP's older forms call, and messages inside a group of a group.
    world = dist.distributed_c10d._get_default_group()
    whole = torch.zeros(size * 3)
    world._allgather_base(whole, torch.full((3,), float(rank))).wait()
    same(whole, torch.arange(size).repeat_interleave(3).float(), "_allgather_base")
    part = torch.zeros(3)
    world._reduce_scatter_base(part, torch.ones(size * 3)).wait()
    same(part, torch.full((3,), float(size)), "_reduce_scatter_base")
    half = dist.split_group(split_ranks=[[0, 2], [1, 3]])
    t = torch.tensor([rank])
    dist.all_reduce(t, group=half)
    assert int(t) == (2 if rank % 2 == 0 else 4)
    dist.destroy_process_group()
    print("fine")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 5))


def train(model: nn.Module, rank: int, size: int, steps: int = 16, device: torch.device | None = None) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 20, generator=g).to(device), torch.randint(0, 5, (64,), generator=g).to(device)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rank::size]), y[rank::size])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def ddp() -> None:
    """DDP on tutti, with and without its hook, against gloo and against one process."""
    rank, size, gloo = start()

    def weights(group: Any, hook: Any = None, state: Any = None, **options: Any) -> torch.Tensor:
        model = DistributedDataParallel(net(), process_group=group, bucket_cap_mb=0.1, **options)
        if hook is not None:
            model.register_comm_hook(state, hook)
        losses = train(model, rank, size)
        assert losses[-1] < losses[0] * 0.8, losses
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    ours, theirs = weights(None), weights(gloo)
    alone = net()
    train(alone, 0, 1)
    single = torch.cat([p.detach().flatten() for p in alone.parameters()])
    # The sums of four numbers differ by the order of addition: a few units in the last place.
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6), float((ours - theirs).abs().max())
    assert torch.allclose(ours, single, rtol=1e-4, atol=1e-5), float((ours - single).abs().max())
    fused = weights(None, tutti.torch.ddp_hook, tutti.torch.DdpState())
    assert torch.allclose(fused, theirs, rtol=1e-5, atol=1e-6)
    small = weights(None, tutti.torch.ddp_hook, tutti.torch.DdpState(compress=torch.bfloat16))
    assert torch.allclose(small, theirs, rtol=0.05, atol=5e-3), float((small - theirs).abs().max())
    # Gradients that are views of the buckets, and a graph that stays.
    views = weights(None, gradient_as_bucket_view=True)
    assert torch.equal(views, ours), float((views - ours).abs().max())
    assert torch.equal(weights(None, gradient_as_bucket_view=True, static_graph=True), ours)
    # Every rank has the same bits.
    copies = [torch.zeros_like(ours) for _ in range(size)]
    for w in (ours, fused, small):
        dist.all_gather(copies, w)
        same(copies, [w] * size, "weights of the ranks")
    dist.destroy_process_group()
    print(f"fine; largest difference from gloo {float((ours - theirs).abs().max()):.1e}")


def fsdp() -> None:
    """fully_shard and FSDP on CPU: the loss falls, and the weights are those of one process."""
    rank, size, _ = start()
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    alone = net()
    train(alone, 0, 1)
    expected = torch.cat([p.detach().flatten() for p in alone.parameters()])
    mesh = init_device_mesh("cpu", (size,))
    model = net()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    losses = train(model, rank, size)
    assert losses[-1] < losses[0] * 0.8, losses
    got = torch.cat([p.full_tensor().detach().flatten() for p in model.parameters()])  # type: ignore[attr-defined]
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5), float((got - expected).abs().max())
    old = FullyShardedDataParallel(net(), device_id=torch.device("cpu"))
    losses = train(old, rank, size)
    with FullyShardedDataParallel.summon_full_params(old):
        got = torch.cat([p.detach().flatten() for p in old.parameters()])
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5), float((got - expected).abs().max())
    dist.destroy_process_group()
    print("fine")


def death() -> None:
    """Rank 1 is killed; the others get an error that names it, in time."""
    rank, _, _ = start(timeout=30)
    t = torch.ones(1000)
    dist.all_reduce(t)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        while True:
            dist.all_reduce(t, async_op=rank == 0).wait() if rank == 0 else dist.all_reduce(t)
    except dist.DistBackendError as error:
        assert "rank 1" in str(error) or "peer 1" in str(error), error
        assert time.monotonic() - begin < 5
        print("fine", flush=True)
    os._exit(0)


def overdue() -> None:
    """A rank that does not come: the timeout of the group ends the wait and names it."""
    rank, _, _ = start(timeout=2)
    if rank == 1:
        time.sleep(6)
        os._exit(0)
    begin = time.monotonic()
    try:
        dist.all_reduce(torch.ones(3))
    except dist.DistBackendError as error:
        assert "peer 1" in str(error) or "rank 1" in str(error), error
        assert 1 < time.monotonic() - begin < 5
        print("fine", flush=True)
    os._exit(0)


def interrupted() -> None:
    """Ctrl-C inside wait() and inside a blocking operation."""
    rank, _, _ = start(timeout=30)
    if rank == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        begin = time.monotonic()
        try:
            if len(sys.argv) > 2:
                dist.all_reduce(torch.ones(3), async_op=True).wait()
            else:
                dist.all_reduce(torch.ones(3))
        except KeyboardInterrupt:
            assert time.monotonic() - begin < 2
            print("fine", flush=True)
    else:
        time.sleep(2)
    os._exit(0)


def leaves() -> None:
    """The program ends without destroy_process_group(), with work outstanding on rank 0."""
    rank, _, _ = start(timeout=20)
    dist.all_reduce(torch.ones(3))
    print("fine", flush=True)
    store = dist.distributed_c10d._get_default_store()
    store.add("through", 1)
    while rank == 0 and store.add("through", 0) < dist.get_world_size():
        time.sleep(0.01)
    if rank == 0:
        globals()["kept"] = dist.all_reduce(torch.ones(3), async_op=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
