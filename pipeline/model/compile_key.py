"""What compiled code depends on: versions, processor, GPU, and the source of what is compiled.

torch's compiler looks its own code up by all that it depends on, so that code which does not fit is never
run. The key tells the same before anything is unpacked, and in words: which part differs, and how.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch

from ..versions import installed_version

DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileKey:
    """What compiled code depends on.

    Attributes:
        torch: Version of torch, which says CUDA's too.
        triton: Version of triton; ``"unknown"`` where it is not installed.
        python: Version and binary interface of Python.
        system: Operating system and machine.
        processor: Instructions that the processor has: their class, and a digest of all of them. Code for the
            host is compiled for exactly these.
        gpu: Architecture of the GPU; empty without any.
        source: Digest of the device ops of taskloom and of the program that they make up.
    """

    torch: str
    triton: str
    python: str
    system: str
    processor: str
    gpu: str
    source: str

    @classmethod
    def here(cls) -> Self:
        """Return the key of this process."""
        return cls(
            torch=str(torch.__version__),
            triton=installed_version("triton"),
            python=f"{platform.python_version()} {sysconfig.get_config_var('SOABI')}",
            system=f"{platform.system()} {platform.machine()} {'-'.join(platform.libc_ver())}",
            processor=f"{torch.backends.cpu.get_cpu_capability()} {_digest(_read_flags())}",
            gpu=_name_gpu(),
            source=_digest(_read_sources()),
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return a key that was kept as `to_plain` gives it.

        Raises:
            TypeError: It has other parts, or has them as no text.
        """
        if not all(isinstance(value, str) for value in plain.values()):
            raise TypeError("a part of the key is no text")
        return cls(**plain)

    def to_plain(self) -> dict[str, str]:
        """Return the parts by name."""
        return asdict(self)

    def differences(self, other: CompileKey) -> tuple[str, ...]:
        """Say what ``other`` has otherwise, a sentence for each part."""
        ours, theirs = self.to_plain(), other.to_plain()
        return tuple(
            f'{name} was "{theirs[name]}", is "{ours[name]}"'
            for name in ours
            if ours[name] != theirs[name]
        )


def list_sources() -> dict[str, Path]:
    """Return the files whose code is compiled, by their names within taskloom, in order."""
    package = Path(__file__).parents[2]
    paths = [*(package / "ops/device").rglob("*.py"), package / "pipeline/model/program.py"]
    return {path.relative_to(package).as_posix(): path for path in sorted(paths)}


def _name_gpu() -> str:
    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def _read_flags() -> Iterator[bytes]:
    """Yield the names of the instructions that Linux lists; other systems name the processor."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    yield from sorted(flag.encode() for flag in (flags or platform.processor()).split())


def _read_sources() -> Iterator[bytes]:
    for name, path in list_sources().items():
        yield name.encode()
        yield path.read_bytes()


def _digest(parts: Iterator[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
