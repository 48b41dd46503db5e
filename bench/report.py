"""What every bench tells beside its figures: the machine, how busy it was, and versions; and where to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe(*libraries: str) -> dict[str, Any]:
    """Return the machine, its load average of the last minute, and versions of Python and ``libraries``."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load average": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
        },
    }


def describe_gpu() -> dict[str, Any]:
    """Return the GPU, its driver, and the version of CUDA that torch was built for; nothing without one."""
    import torch  # noqa: PLC0415 - seconds, for benches that need none

    if not torch.cuda.is_available():
        return {}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "GPU": torch.cuda.get_device_name(),
        "driver": driver or "unknown",
        "CUDA": torch.version.cuda,
    }


def tell(result: Mapping[str, Any], out: Path | None) -> None:
    """Print ``result`` as JSON, and write it to ``out`` if there is one."""
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.write_text(f"{text}\n", "utf-8")
