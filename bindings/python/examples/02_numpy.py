"""2. NumPy: the collectives, shared memory, asynchronous calls and groups.

    python -m tutti.launch -n 4 02_numpy.py
"""

import numpy as np

import tutti

comm = tutti.Communicator.from_environment()
rank, ranks = comm.rank, comm.nranks

# Out of place and in place. Count and type are the array's.
mine = np.full((2, 3), float(rank))
total = np.empty_like(mine)
comm.allreduce(mine, total)
assert (total == sum(range(ranks))).all()
comm.allreduce(mine, op=tutti.MAX)
assert (mine == ranks - 1).all()

# Blocks of ranks are rows: row i of an all_gather's result is rank i's.
table = np.empty((ranks, 2), "int32")
comm.allgather(np.array([rank, rank * rank], "int32"), table)
assert (table[:, 1] == np.arange(ranks) ** 2).all()

# Memory that the ranks of a host share: large reductions copy less.
gradients = tutti.empty(1 << 20, "float32")
gradients[:] = rank
work = comm.allreduce_async(gradients, op=tutti.AVG)  # goes on while we compute
local = np.linalg.norm(np.arange(1000.0))
work.wait()
assert (gradients == (ranks - 1) / 2).all() and local > 0

# In a group, sends and receives cannot wait for each other.
right, left = (rank + 1) % ranks, (rank - 1) % ranks
out, into = np.full(3, rank), np.empty(3, int)
with tutti.group():
    comm.send(out, right)
    comm.recv(into, left)
assert (into == left).all()

# Errors name the argument and leave the communicator usable.
try:
    comm.allreduce(mine, np.empty(7))
except ValueError as error:
    if rank == 0:
        print("as it should be:", error)

# Half of the ranks among themselves.
half = comm.split(rank % 2)
assert half is not None
count = np.ones(1)
half.allreduce(count)
print(f"rank {rank}: {int(count[0])} of {ranks} ranks share my parity")
comm.destroy()
