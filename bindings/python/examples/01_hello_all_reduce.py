"""1. Hello: every rank adds its number to everybody else's.

    python -m tutti.launch -n 4 01_hello_all_reduce.py
"""

import tutti

# Rank, size and how to find the others come from the launcher (also torchrun, mpirun, srun).
comm = tutti.Communicator.from_environment()

# Anything that is a writable buffer will do: four bytes here, one of them ours.
numbers = bytearray(comm.nranks)
numbers[comm.rank] = comm.rank + 1
comm.allreduce(numbers)  # in place; the operator is SUM

print(f"rank {comm.rank} of {comm.nranks}: {list(numbers)}")
assert list(numbers) == list(range(1, comm.nranks + 1))
comm.destroy()
