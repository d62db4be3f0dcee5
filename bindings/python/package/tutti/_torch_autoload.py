"""What `import torch` runs where tutti is installed: makes init_process_group("tutti") known.

Must cost nothing and never fail: the backend itself is loaded by the first process group that asks.
"""

from __future__ import annotations

from typing import Any


def _create(*arguments: Any) -> Any:
    import tutti.torch

    return tutti.torch._create(*arguments)


def register() -> None:
    try:
        import torch.distributed as dist

        if dist.is_available() and "TUTTI" not in dist.Backend._plugins:
            dist.Backend.register_backend("tutti", _create, devices=["cpu", "cuda"])
    except Exception:  # torch must load whatever happens here
        pass
