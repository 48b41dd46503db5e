"""Access: how URLs are opened, and what may not be said of it.

The options are those of the file system's library, such as ``key``, ``secret`` and ``endpoint_url`` of s3fs.
They are no part of any record, and whatever such a library says goes out without them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from ..graph.errors import MissingExtraError, StoreError, TaskloomError, suggest
from .files import scheme_of

WITH_QUERY: Final = frozenset({"http", "https"})
_COMMON: Final = ("s3", "gs", "abfs", "hdfs", "sftp", "https", "memory", "file")
_SHORTEST_SECRET: Final = 3


@dataclass(frozen=True, slots=True)
class Access:
    """How URLs are opened.

    Attributes:
        options: Options of the file system.
        cache_bytes: Most bytes of files to keep on this machine; if not given, what its environment says.
    """

    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, hash=False)
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.cache_bytes is not None and self.cache_bytes < 1:
            raise StoreError.of("T0501", f"cache_bytes must be positive, got {self.cache_bytes}")

    def file_system(self, url: str) -> Any:
        """Return the file system that ``url`` is on.

        Raises:
            StoreError: There is none of that scheme, or the URL holds a password or another secret (T0501), or
                its options are wrong (T0520).
            MissingExtraError: Its library is not installed.
        """
        import fsspec  # noqa: PLC0415 - most stores are folders, and this takes a while

        scheme = scheme_of(url)
        check_url(url)
        if scheme not in fsspec.available_protocols():
            message = f'"{scheme}" is no scheme of a URL that is known here'
            raise StoreError.of("T0501", message, suggest(scheme, _COMMON))
        try:
            return fsspec.filesystem(scheme, use_listings_cache=False, **self.options)
        except ImportError as error:
            message = f"{scheme}:// needs a library that is not installed: {error}"
            help_ = 'pip install "taskloom[remote]" for s3://; other schemes have their own library'
            raise MissingExtraError.of("T0901", message, help_) from error
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            raise self.explain(error, url) from None

    def explain(self, error: Exception, url: str) -> TaskloomError:
        """Return what the library of a file system said of ``url``, without anything secret."""
        name = type(error).__name__
        text = self._mask(" ".join(str(error).split())) or name
        if isinstance(error, PermissionError) or "Credentials" in name:
            message = f"no permission for {url}: {text}"
            help_ = "give storage_options with credentials that may read and write there, or set them up "
            return StoreError.of(
                "T0506", message, f"{help_}as the file system's library reads them"
            )
        message = f"cannot reach {url}: {name}: {text}"
        help_ = "see that the network is up, and that the URL and storage_options are right"
        return StoreError.of("T0520", message, f"{help_}; what is committed is kept")

    def _mask(self, text: str) -> str:
        for secret in sorted(_texts(self.options), key=len, reverse=True):
            text = text.replace(secret, "***")
        return re.sub(r"(?i)((?:signature|credential|token)=)[^&\s\"']+", r"\1***", text)


def check_url(url: str) -> None:
    """Refuse a URL that holds a secret: URLs are kept in records, and shown.

    Raises:
        StoreError: It does, or names a file system inside another one.
    """
    scheme = scheme_of(url)
    if "::" in url:
        message = f'a URL of a file system inside another one cannot be used ("{scheme}::")'
        raise StoreError.of("T0501", message, "unpack it to a place of its own")
    parts = urlsplit(url)
    if parts.password is not None or (scheme in WITH_QUERY and parts.query):
        message = f"a URL on {scheme} holds a password or a query, which records would keep"
        raise StoreError.of("T0501", message, "give credentials as storage_options")


def no_options(url: str) -> Access:
    """Return how ``url`` is opened by default: as its file system finds out by itself."""
    del url
    return Access()


def is_url(location: str | os.PathLike[str]) -> bool:
    """Return whether ``location`` is behind a URL, rather than on a file system of this machine."""
    return bool(scheme_of(location))


def _texts(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield every text among ``options`` that may be a secret, however deep."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str) and len(value) >= _SHORTEST_SECRET and "url" not in name:
            yield value
