"""4. Compare: the same all-reduce on tutti and on torch's gloo, in turn, for a few sizes.

    python -m tutti.launch -n 4 04_compare_with_gloo.py
"""

import statistics
import time

import torch
import torch.distributed as dist

import tutti.torch  # noqa: F401

torch.set_num_threads(1)
dist.init_process_group("tutti")
groups = {"tutti": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
rank, ranks = dist.get_rank(), dist.get_world_size()

if rank == 0:
    print(f"{'bytes':>10} {'tutti us':>10} {'gloo us':>10} {'ratio':>6}   (medians, {ranks} ranks)")
for elements in (16, 1024, 65536, 1 << 20):
    times: dict[str, list[float]] = {name: [] for name in groups}
    for _ in range(15):
        for name, group in groups.items():
            x = torch.full((elements,), float(rank))
            dist.barrier(group)
            start = time.perf_counter()
            dist.all_reduce(x, group=group)
            times[name].append(time.perf_counter() - start)
            assert (x == sum(range(ranks))).all()
    tutti_time, gloo_time = (statistics.median(times[name]) * 1e6 for name in groups)
    if rank == 0:
        print(f"{elements * 4:>10} {tutti_time:>10.1f} {gloo_time:>10.1f} {tutti_time / gloo_time:>6.2f}")
dist.destroy_process_group()
