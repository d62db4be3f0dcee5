"""The torch.distributed backend "tutti", registered by `import tutti.torch`.

    import torch.distributed as dist, tutti.torch
    dist.init_process_group("tutti")

Serves CPU and CUDA tensors: every collective, point-to-point, futures, DDP, FSDP, sub-groups. On CPU
tensors the timeout of a process group bounds each operation; on CUDA tensors operations are enqueued in
stream order, and wait() makes the current stream wait. An error names the rank that is to blame.
"""

# No `from __future__ import annotations`: DDP reads the annotations of its hooks.
import atexit
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Union

import torch
import torch.distributed as dist

from tutti import _torch_build

_extension = _torch_build.load()


def _create(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    return _extension.create_backend(store, rank, size, timeout)


def register() -> None:
    """Makes init_process_group("tutti") work; importing this module has called it."""
    if "TUTTI" not in dist.Backend._plugins:
        dist.Backend.register_backend("tutti", _create, devices=["cpu", "cuda"])


register()
atexit.register(_extension.shutdown_all)


@dataclass
class DdpState:
    """What ddp_hook needs to know.

    process_group: the group whose gradients are averaged (None: the default group).
    compress: torch.float16 or torch.bfloat16 to send gradients in half the bytes, summed in fp32 and
        rounded once; None sends them as they are.
    """

    process_group: Any = None
    compress: Union[torch.dtype, None] = None


def ddp_hook(state: Union[DdpState, None], bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A DDP communication hook that averages inside the all-reduce, without DDP's own pass over the
    gradients: `model.register_comm_hook(tutti.torch.DdpState(), tutti.torch.ddp_hook)`."""
    state = state or DdpState()
    group = state.process_group or dist.group.WORLD
    gradients = bucket.buffer()
    if state.compress is None or gradients.dtype == state.compress:
        work = dist.all_reduce(gradients, op=dist.ReduceOp.AVG, group=group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])
    small = gradients.to(state.compress)
    work = dist.all_reduce(small, op=dist.ReduceOp.AVG, group=group, async_op=True)

    def expand(done: Any) -> torch.Tensor:
        gradients.copy_(done.value()[0])
        return gradients

    return work.get_future().then(expand)


__all__ = ["DdpState", "ddp_hook", "register"]
