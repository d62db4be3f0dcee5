"""All-reduce of ResNet-18's gradients, bucketed as DDP does, on tutti and on gloo in turn.

    python -m tutti.launch -n 4 bindings/python/benchmarks/ddp_buckets.py [iterations]

Each iteration issues every bucket asynchronously, in the order DDP does, and waits for all; tutti and
gloo alternate, so that both see the same machine. Prints the medians of the slowest rank's times.
"""

from __future__ import annotations

import statistics
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

import tutti.torch  # noqa: F401  registers the backend


def resnet18_shapes() -> list[tuple[int, ...]]:
    """Parameter shapes of torchvision's resnet18, in order (11,689,512 parameters)."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for stage, out in enumerate((64, 128, 256, 512)):
        for block in range(2):
            shapes += [(out, width, 3, 3), (out,), (out,), (out, out, 3, 3), (out,), (out,)]
            if block == 0 and stage > 0:
                shapes += [(out, width, 1, 1), (out,), (out,)]
            width = out
    return [*shapes, (1000, 512), (1000,)]


def buckets() -> list[torch.Tensor]:
    parameters = [torch.zeros(s) for s in reversed(resnet18_shapes())]
    groups, _ = dist._compute_bucket_assignment_by_size(parameters, [1 << 20, 25 << 20])
    return [torch.zeros(sum(parameters[i].numel() for i in g)) for g in groups]


def main() -> None:
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    groups = {"gloo": dist.group.WORLD, "tutti": dist.new_group(backend="tutti")}
    tensors = buckets()
    times: dict[str, list[float]] = {name: [] for name in groups}
    for i in range(iterations + 3):
        for name, group in groups.items():
            for t in tensors:
                t.fill_(dist.get_rank())
            dist.barrier(group)
            start = time.perf_counter()
            for work in [dist.all_reduce(t, group=group, async_op=True) for t in tensors]:
                work.wait()
            took = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
            dist.all_reduce(took, op=dist.ReduceOp.MAX)
            if i >= 3:
                times[name].append(float(took))
            expected = dist.get_world_size() * (dist.get_world_size() - 1) / 2
            assert all(bool((t == expected).all()) for t in tensors), name
    if dist.get_rank() == 0:
        megabytes = sum(t.nbytes for t in tensors) / 1e6
        print(f"{len(tensors)} buckets, {megabytes:.1f} MB, {dist.get_world_size()} ranks, "
              f"{iterations} iterations")
        middle = {name: statistics.median(t) * 1e3 for name, t in times.items()}
        for name, t in times.items():
            low, _, high = statistics.quantiles(t, n=4)
            print(f"{name:6} {middle[name]:8.2f} ms   quartiles {low * 1e3:.2f} {high * 1e3:.2f}")
        print(f"tutti / gloo = {middle['tutti'] / middle['gloo']:.2f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
