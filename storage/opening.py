"""Opening: where a store is, and whether it is one that this code reads."""

from __future__ import annotations

import os
from typing import Final

from ..graph.errors import StoreError
from .access import Access, check_url
from .files import decode_json, local_path, scheme_of
from .folder import Folder, LocalFolder
from .remote import RemoteFolder

FORMAT: Final = 1

MARK: Final = "store.json"
"""Name of the file that makes a folder a store."""

_READ_ONLY: Final = frozenset({"http", "https", "data", "github", "git"})


def open_folder(location: str | os.PathLike[str], access: Access) -> Folder:
    """Return the folder at a path, or behind a URL.

    Raises:
        StoreError: No store can be at the URL (T0501).
    """
    if not scheme_of(location):
        return LocalFolder(local_path(location))
    url = os.fspath(location)
    check_url(url)
    if (scheme := scheme_of(url)) in _READ_ONLY:
        message = f"a store cannot be on {scheme}, which is only read"
        raise StoreError.of("T0501", message, "give a path, or a URL of an object store")
    return RemoteFolder(url.rstrip("/"), access)


def is_free(folder: Folder) -> bool:
    """Return whether nothing is there."""
    return folder.size("") is None and not folder.files("") and not folder.folders("")


def check_format(folder: Folder) -> None:
    """Refuse what is no store, and what is one of a newer format.

    Raises:
        StoreError: It is none (T0503), damaged (T0504) or newer (T0502).
    """
    where, mark = folder.spell(), folder.spell(MARK)
    try:
        version = decode_json(folder.read(MARK), mark)["format"]
    except FileNotFoundError:
        message = f"there is no store at {where}"
        if not is_free(folder):
            message = f"{where} is not a store: it has no store.json"
        help_ = "give the path that was built into; a build makes the store"
        raise StoreError.of("T0503", message, help_) from None
    except (KeyError, TypeError):
        version = None
    if not isinstance(version, int):
        raise StoreError.of("T0504", f"{mark} is damaged: it names no format")
    if version > FORMAT:
        message = f"{where} has format {version}, and this taskloom reads up to {FORMAT}"
        help_ = "use the version of taskloom that made it, or a newer one"
        raise StoreError.of("T0502", message, help_)
