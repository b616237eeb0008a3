"""What produced a number: version, commit, hardware. Written beside every metric."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

from .. import __version__


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Version, git commit (with ``+`` when the tree has changes; None outside a checkout), torch, and what computes."""
    import torch

    return {
        "cryozoo": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "hardware": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
