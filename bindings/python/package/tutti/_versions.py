"""What runs here, for bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from tutti import _core


def get_version() -> str:
    """The library's version, such as "0.1.0"."""
    return _core.version()


def show_versions() -> None:
    """Prints the versions that a bug report needs: tutti, Python, the system, related packages.

    Of the environment it prints the names of TUTTI_* and NCCL_* variables that are set, no values.
    """
    lines = {
        "tutti": get_version(),
        "core": _core.__file__,
        "python": sys.version.replace("\n", " "),
        "platform": platform.platform(),
        "cpus": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
    }
    for package in ("numpy", "ml_dtypes", "torch", "mpi4py"):
        try:
            lines[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            lines[package] = "not installed"
    set_here = sorted(n for n in os.environ if n.startswith(("TUTTI_", "NCCL_")))
    lines["variables"] = ", ".join(set_here) or "none"
    for complaint in _core.Config.unknown_variables():
        lines[f"warning ({complaint.split()[0]})"] = complaint
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
