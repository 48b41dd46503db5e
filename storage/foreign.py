"""Checkpoints of others: pickled files of torch, read without running anything that is in them.

`torch.load` reads tensors and plain values itself, and refuses the rest. Files of fairseq hold settings as
objects of libraries that nobody here has, so what it refuses is read again by an unpickler that makes a
stand-in of everything it does not know: a stand-in remembers its name, and can be called, filled and thrown
away, which is all that a pickle asks for.
"""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self

import torch
from torch import _utils

from ..graph.errors import CheckpointError


class StandIn:
    """Something of a library that is not here.

    Attributes:
        of: Its name there.
        state: What it was filled with, if with anything.
    """

    of = ""

    def __new__(cls, *_args: Any, **_named: Any) -> Self:
        """Return a stand-in, whatever it would be made from."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_named: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_named: Any) -> StandIn:
        """Return itself, whatever it would compute."""
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Forget ``item``."""

    def extend(self, items: Any) -> None:
        """Forget ``items``."""


_KNOWN: Final[Mapping[tuple[str, str], Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): _utils._rebuild_tensor,  # noqa: SLF001 - what files name
    ("torch._utils", "_rebuild_tensor_v2"): _utils._rebuild_tensor_v2,  # noqa: SLF001
    ("torch._utils", "_rebuild_parameter"): _utils._rebuild_parameter,  # noqa: SLF001
}
_PIECE_BYTES: Final = 1 << 20
_STORAGES: Final = {
    name: getattr(torch, name)
    for name in dir(torch)
    if name.endswith("Storage") and not name.startswith(("_", "Untyped", "Typed"))
}


class _Unpickler(pickle.Unpickler):
    """Knows tensors and containers, and a stand-in for all else."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return type("StandIn", (StandIn,), {"of": f"{module}.{name}"})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PICKLE: Final = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="pickle")


def read_foreign(path: Path) -> Any:
    """Return what the file at ``path`` holds; what no tensor or plain value is are `StandIn`s.

    Raises:
        CheckpointError: There is no such file, or it is none of torch's (T0740).
    """
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise CheckpointError.of("T0740", message, "give a file such as checkpoint.pt") from error
    # Before 2016 torch wrote tars, which it unpacks to read them; nobody has models in them.
    is_zip = zipfile.is_zipfile(path)
    if not is_zip and (head != b"\x80\x02" or tarfile.is_tarfile(path)):
        raise _unreadable(path, "it is no file of torch")
    if is_zip:
        _refuse_damaged(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever it is, the next lines tell it better
        pass
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PICKLE)
    except Exception as error:  # a damaged pickle fails with whatever it stumbles over
        raise _unreadable(path, str(error).partition("\n")[0]) from error


def to_plain(value: Any) -> Any:
    """Return ``value`` with what its stand-ins were filled with, by name, in place of them.

    Containers of OmegaConf keep what they hold in ``_content``, and its values are in ``_val``.
    """
    if isinstance(value, StandIn):
        value = getattr(value, "state", None)
        for held in ("_content", "_val"):
            if isinstance(value, Mapping) and held in value:
                return to_plain(value[held])
    if isinstance(value, Mapping):
        return {str(name): to_plain(each) for name, each in value.items()}
    return value


def _refuse_damaged(path: Path) -> None:
    """Compare the parts of a file with their checksums, as torch does not.

    Where it was told to write none, they are 0.

    Raises:
        CheckpointError: A part is other than it was written (T0740).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.CRC:
                    with archive.open(part) as file:
                        while file.read(_PIECE_BYTES):
                            pass
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise _unreadable(path, f"it is damaged: {error}") from error


def _unreadable(path: Path, what: str) -> CheckpointError:
    help_ = "give a file that torch.save wrote, such as checkpoint.pt"
    return CheckpointError.of("T0740", f"{path} cannot be read: {what}", help_)
