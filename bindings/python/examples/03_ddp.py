"""3. DDP: torch's DistributedDataParallel on tutti.

    python -m tutti.launch -n 4 03_ddp.py          (or torchrun --nproc-per-node 4 03_ddp.py)
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tutti.torch  # registers the backend "tutti"

torch.set_num_threads(1)
dist.init_process_group("tutti")
rank, ranks = dist.get_rank(), dist.get_world_size()

torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1)))
# Averages inside the all-reduce; DdpState(compress=torch.bfloat16) would also halve the bytes.
model.register_comm_hook(tutti.torch.DdpState(), tutti.torch.ddp_hook)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

generator = torch.Generator().manual_seed(1)
x = torch.randn(512, 16, generator=generator)
y = x.pow(2).mean(1, keepdim=True)
losses = []
for _ in range(60):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x[rank::ranks]), y[rank::ranks])
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
if rank == 0:
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} on {ranks} ranks")
assert losses[-1] < losses[0] / 2
dist.destroy_process_group()
