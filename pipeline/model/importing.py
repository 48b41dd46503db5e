"""Checkpoints of OFA and OFASys made ours, and parameters taken over from one vocabulary to another.

A checkpoint that was imported holds weights and no instructions, so it answers nothing by itself: a run
begins with it. Its rows of the vocabulary stay in the order of its dictionary, which is kept beside them;
whoever begins with it finds every row by what it stands for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...graph.errors import CheckpointError, Problem
from ...graph.vocabulary import Block, Place, Vocabulary, find_rows, read_symbols, write_symbols
from ...ops.device.config import ModelConfig
from ...ops.device.lora import fold_pairs
from ...ops.device.modality import shared_name
from ...ops.device.relative.inferred import infer_config
from ...ops.device.relative.names import KEPT, VOCABULARY, from_ofasys
from ...ops.device.relative.older import DERIVED, from_ofa
from ...ops.device.relative.settings import Settings
from ...ops.device.relative.unscaled import make_up_for_scales
from ...ops.recipe.text import BLOCK, BPE
from ...storage.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    read_checkpoint,
    refuse_existing,
    write_checkpoint,
)
from ...storage.files import local_path
from ...storage.foreign import read_foreign, to_plain
from ..versions import installed_version
from .program import Program

SCOPES: Final = "scopes."
"""What names of parameters begin with in a program."""

SYMBOLS: Final = "symbols.txt"
"""Artifact of an imported checkpoint: what each row of its vocabulary stands for."""

KEPT_TENSORS: Final = "kept.safetensors"
"""Artifact of an imported checkpoint: tensors as they were, by their names there."""

IN_LAYER: Final = re.compile(r"(encoder|decoder)\.layers\.\d+\..+")
"""Names of parts of layers, here and there."""

_NUM_CODES, _NUM_BINS = 8192, 1000
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import found.

    Attributes:
        path: The checkpoint.
        model: Sizes of the model.
        num_ids: Rows of the vocabulary.
        kept: Names of tensors that no part of a model reads; they are kept beside it.
        left_out: Names of what follows from the rest.
        has_symbols: Whether it is known what the rows of the vocabulary stand for.
    """

    path: Path
    model: ModelConfig
    num_ids: int
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    has_symbols: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a program took over.

    Attributes:
        names: Parameters that are now those of the checkpoint.
        missing: Parameters that the checkpoint lacks; they are as they were.
        unused: Parameters of the checkpoint that the program lacks.
        new_ids: Ids whose rows the checkpoint lacks.
    """

    names: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    new_ids: int


def import_checkpoint(
    path: Path, out: Path, *, symbols: Path | None = None, has_biases: bool | None = None
) -> Imported:
    """Write the model in the file at ``path`` as a checkpoint to ``out``; nothing in the file is run.

    Args:
        path: A file that torch wrote: a state by name, or one under ``model``.
        out: Directory to become.
        symbols: The model's dictionary, a symbol a line, or ``dict.txt`` as fairseq has it; by default that in
            the file, if there is one.
        has_biases: Whether its attention has biases, ``use_self_attn_bias`` of OFASys; by default as settings
            in the file say, or whether there are layers that make them.

    Raises:
        CheckpointError: The file cannot be read (T0740) or holds no model of the family (T0741), its layers
            have parts that no layer here has (T0744), or ``out`` cannot be written.
        PlanError: The dictionary is not that of the model (T0742).
        StoreError: ``out`` is a URL.
    """
    out = local_path(out)
    refuse_existing(out)
    content = read_foreign(path)
    state, left_out = _find_state(content, path)
    state = from_ofa(state)
    converted = from_ofasys(state)
    _refuse_parts(converted.kept, path)
    tensors = {n: t for n, t in converted.tensors.items() if not n.startswith(KEPT)}
    settings = Settings.read(_find_settings(content))
    if has_biases is not None:
        settings = replace(settings, has_biases=has_biases)
    model = infer_config(tensors, settings)
    kept = {name: state[name] for name in converted.kept}
    if not model.relative_bias:
        changed = make_up_for_scales(state, model.attn_scale_factor)
        kept |= {name: state[name] for name in changed}
        renamed = from_ofasys({**state, **changed}).tensors
        tensors = {name: renamed[name] for name in tensors}
    num_ids = len(tensors[VOCABULARY])
    known = _find_symbols(content, symbols, num_ids)
    artifacts = {SYMBOLS: "\n".join(known).encode()} if known else {}
    if kept:
        artifacts[KEPT_TENSORS] = save_tensors(
            {name: tensor.contiguous() for name, tensor in kept.items()}
        )
    record = {
        "taskloom": installed_version("taskloom"),
        "imported": path.name,
        "model": asdict(model),
        "num_ids": num_ids,
    }
    scoped = {SCOPES + name: tensor for name, tensor in tensors.items()}
    write_checkpoint(out, tensors=scoped, record=record, artifacts=artifacts)
    return Imported(
        path=out,
        model=model,
        num_ids=num_ids,
        kept=converted.kept,
        left_out=left_out,
        has_symbols=bool(known),
    )


def take_over(
    program: Program,
    vocabulary: Vocabulary,
    path: Path,
    artifacts: Mapping[str, bytes] = MappingProxyType({}),
) -> Taken:
    """Give ``program`` the parameters of a checkpoint, as far as both have them.

    Where the program has feed-forward weights for each modality and the checkpoint has not, those of every
    modality begin as copies of what all share there.

    Args:
        program: The program.
        vocabulary: Its blocks of ids: rows go to the ids that stand for the same.
        path: A run, a checkpoint of one, or one that was imported.
        artifacts: What it answers with. Where its texts are split otherwise than the checkpoint's, rows go to
            the ids of the same bytes.

    Raises:
        CheckpointError: There is no checkpoint, or a tensor has another size there (T0743).
    """
    checkpoint = read_checkpoint(latest_checkpoint(path) or path)
    ours = program.state_dict()
    theirs = fold_pairs(checkpoint.tensors, kept=ours)
    _copy_shared(theirs, ours)
    name = SCOPES + VOCABULARY
    new_ids = 0
    if name in ours and name in theirs and ours[name].shape[1:] == theirs[name].shape[1:]:
        places = _renumber_texts(find_places(checkpoint), checkpoint.artifacts, artifacts)
        rows = torch.tensor(find_rows(places, vocabulary.places))
        is_known = rows >= 0
        table = ours[name].clone()
        table[is_known] = theirs[name][rows[is_known]].to(table)
        theirs[name], new_ids = table, int((~is_known).sum())
    if told := [
        f"{each} is {tuple(theirs[each].shape)} in {path}, {tuple(tensor.shape)} here"
        for each, tensor in ours.items()
        if each in theirs and theirs[each].shape != tensor.shape
    ]:
        help_ = "begin with sizes as they are there: `taskloom import-checkpoint` tells them"
        raise CheckpointError(*(Problem("T0743", message, help_) for message in told))
    taken = {each: theirs[each] for each in ours if each in theirs}
    program.load_state_dict(taken, strict=False)
    return Taken(
        names=tuple(taken),
        missing=tuple(each for each in ours if each not in theirs),
        unused=tuple(each for each in theirs if each not in ours),
        new_ids=new_ids,
    )


def _copy_shared(theirs: dict[str, Tensor], ours: Collection[str]) -> None:
    """Put copies of shared weights under the names that they have in ``ours`` for each modality."""
    shared = {name: shared_name(name) or "" for name in ours if name not in theirs}
    copied = {name: other for name, other in shared.items() if other in theirs}
    theirs |= {name: theirs[other] for name, other in copied.items()}
    for name in set(copied.values()):
        theirs.pop(name)


def _find_state(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a file by name, and the names of those that follow from them."""
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise CheckpointError.of("T0741", f"{path} holds no tensors by name")
    tensors = {str(n): t.detach() for n, t in state.items() if isinstance(t, Tensor)}
    if odd := [n for n, t in tensors.items() if t.layout is not torch.strided or t.is_quantized]:
        message = f"{path} has tensors that are sparse or quantised: {name_some(odd)}"
        raise CheckpointError.of("T0741", message, "save them as plain ones, `tensor.to_dense()`")
    left_out = tuple(name for name in tensors if DERIVED.fullmatch(name))
    return {n: t for n, t in tensors.items() if n not in left_out}, left_out


def name_some(names: Sequence[str]) -> str:
    """Return the first of ``names``, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _refuse_parts(kept: Sequence[str], path: Path) -> None:
    """Check that none of ``kept`` is a part of a layer: without it the layer would compute something else."""
    parts = [name for name in kept if IN_LAYER.fullmatch(name)]
    if not parts:
        return
    message = f"layers in {path} have parts that no layer here has: {name_some(parts)}"
    help_ = "take them out of the state if the model computes the same without"
    if any(".experts_" in name for name in parts):
        help_ = "experts of OFASys were learned with tokens of other modalities: begin with a model without"
    raise CheckpointError.of("T0744", message, help_)


def _find_settings(content: Any) -> Mapping[str, Any]:
    """Return the model's settings, or nothing where there are none; older files have them as ``args``."""
    settings = {}
    if isinstance(content, Mapping):
        settings = to_plain(content.get("cfg") or content.get("args"))
    if isinstance(settings, Mapping):
        settings = settings.get("model", settings)
    return settings if isinstance(settings, Mapping) else {}


def _find_symbols(content: Any, path: Path | None, num_ids: int) -> list[str]:
    """Return the symbol of every row, or nothing where they are not known."""
    symbols = _read_indices(content) if path is None else _read_dictionary(path, num_ids)
    if symbols and len(symbols) != num_ids:
        message = f"the dictionary has {len(symbols):,} symbols, the model {num_ids:,} rows"
        raise CheckpointError.of("T0742", message, "give the dictionary that it was trained with")
    read_symbols(symbols)
    return symbols


def _read_indices(content: Any) -> list[str]:
    """Return the symbols of the dictionary in a file by row, or nothing where there is none."""
    indices = content.get("global_dict_indices") if isinstance(content, Mapping) else None
    if indices is None:
        return []
    is_mapping = isinstance(indices, Mapping)
    rows = {row: symbol for symbol, row in indices.items()} if is_mapping else {}
    whole = [rows.get(row) for row in range(len(indices))] if is_mapping else [None]
    symbols = [symbol for symbol in whole if isinstance(symbol, str)]
    if len(symbols) < len(whole):
        message = "global_dict_indices does not give every row from 0 on one symbol"
        raise CheckpointError.of("T0742", message, "give the dictionary in a file: --symbols")
    return symbols


def _read_dictionary(path: Path, num_ids: int) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        raise CheckpointError.of(
            "T0742", message, "give a text file with a symbol a line"
        ) from error
    if "<s>" in lines:
        return lines
    # Of fairseq: ids of GPT-2's BPE and counts. What follows them in every model of OFA is known.
    counted = [line.rpartition(" ") for line in lines if line]
    for number, (symbol, _, count) in enumerate(counted, 1):
        if not symbol or not count.isdecimal():
            message = f'line {number} of {path} is "{" ".join((symbol, count)).strip()}"'
            help_ = "lines are such as 262 18523, or all of them symbols, <s> among them"
            raise CheckpointError.of("T0742", message, help_)
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *(f"<text>_{symbol}" for symbol, *_ in counted)]
    # Models without pictures end sooner, but never within a block.
    for block, size in (("mask", 1), ("code", _NUM_CODES), ("bin", _NUM_BINS)):
        if len(symbols) < num_ids:
            symbols += write_symbols([(block, number) for number in range(size)])
    return symbols


def find_places(checkpoint: Checkpoint) -> Sequence[Place]:
    """Return what each row of a checkpoint's vocabulary stands for."""
    if SYMBOLS in checkpoint.artifacts:
        return read_symbols(checkpoint.artifacts[SYMBOLS].decode().split("\n"))
    blocks = checkpoint.record.get("vocabulary")
    if blocks is not None:
        return Vocabulary(tuple(Block(*block) for block in blocks)).places
    return ()


def _renumber_texts(
    places: Sequence[Place], was: Mapping[str, bytes], now: Mapping[str, bytes]
) -> Sequence[Place]:
    """Return ``places`` with ids of texts numbered as they are ``now``; numbers below 0 are nowhere."""
    if BPE not in was or BPE not in now or was[BPE] == now[BPE]:
        return places
    before, after = (_read_tokens(each[BPE]) for each in (was, now))
    numbers = {token: number for number, token in enumerate(after)}
    renumbered = [numbers.get(token, -1 - number) for number, token in enumerate(before)]
    return [
        (block, renumbered[number])
        if block == BLOCK and number < len(renumbered)
        else (block, number)
        for block, number in places
    ]


def _read_tokens(bpe: bytes) -> list[str]:
    """Return what each id of a BPE vocabulary stands for: bytes, each as the letter that GPT-2 has for it."""
    numbers: dict[str, int] = json.loads(bpe)["model"]["vocab"]
    return sorted(numbers, key=numbers.__getitem__)
