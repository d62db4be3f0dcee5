"""A plain DDP training script that knows nothing of tutti: every rank on cuda:0, backend "nccl".

Prints one line "loss STEP VALUE" per step on rank 0. Alone (WORLD_SIZE unset) it trains on the whole
batch in one process; the loss curves must agree up to rounding.
"""

import os

import torch
import torch.distributed as dist
from torch import nn

STEPS, BATCH = 20, 64


def main() -> None:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda", 0)
    model: nn.Module = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 1)).to(device)
    if world > 1:
        dist.init_process_group("nccl", rank=rank, world_size=world)
        model = nn.parallel.DistributedDataParallel(model, device_ids=[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(BATCH, 32, generator=generator).to(device)
        y = x.sin().sum(dim=1, keepdim=True)
        share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        loss = (model(x[share]) - y[share]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        if world > 1:
            dist.all_reduce(total)
        if rank == 0:
            print(f"loss {step} {total.item() / world:.7f}", flush=True)
    if world > 1:
        dist.destroy_process_group()


main()
