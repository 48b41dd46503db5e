"""Digests of what ops make: equal values, equal digest, whatever lies between them in memory."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES = 16


def digest_values(values: Any) -> str:
    """Return the digest of an Arrow array, or of the bytes that a fit gives.

    Type, order and validity count; offsets into a longer array, padding and the bits under a null do not.
    """
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if isinstance(values, bytes):
        state.update(values)
    else:
        _add(state, values)
    return state.hexdigest()


def _add(state: Any, array: pa.Array) -> None:
    types, dtype = pa.types, array.type
    state.update(f"{dtype}:{len(array)};".encode())
    if isinstance(array, pa.ExtensionArray):
        _add(state, array.storage)
        return
    if types.is_dictionary(dtype):
        _add(state, array.dictionary_decode())
        return
    is_valid = np.asarray(array.is_valid())
    state.update(np.packbits(is_valid).tobytes())
    if types.is_struct(dtype):
        for number in range(dtype.num_fields):
            _add(state, pc.struct_field(array, number))
    elif types.is_nested(dtype):
        lengths = pc.list_value_length(array).fill_null(0)
        state.update(np.asarray(lengths, np.int64).tobytes())
        _add(state, array.flatten())
    elif types.is_integer(dtype) or types.is_floating(dtype):
        known = array.fill_null(0) if array.null_count else array
        state.update(np.ascontiguousarray(np.asarray(known)).tobytes())
    else:
        for value in array.to_pylist():
            content = value if isinstance(value, bytes) else str(value).encode()
            state.update(f"{len(content)}:".encode() + content)
