"""Packaging: what a task of a model computes, as native code that runs without Python.

A package is a folder. ``encoder.pt2`` reads documents and returns what is kept of them; ``step.pt2`` writes one
more id of each, the likeliest of those that the task allows. AOTInductor makes both ahead of time: torch's C++
library loads and runs them, and so does its Python. ``package.json`` says which tensors they take and what the
documents are made of, ``tokenizer.json`` holds the vocabulary of texts.

Shape letters: as in `taskloom.pipeline.answerer.package_programs`.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...graph.errors import TrainingError
from ...graph.vocabulary import EOS, PAD
from ...ops.device.decode.int8 import Int8Linear
from ...ops.device.decode.search import Search
from ...ops.device.language import FINISHED
from ...ops.pack_layout import PackLayout
from ...storage.checkpoint import refuse_existing
from ...storage.files import count_bytes, local_path, replacing, write_json
from ...storage.template import ConstPiece, GroupPiece, IdsPiece, Piece, Template, TensorPiece
from ..model.program import Program
from ..planner.document import make_templates
from ..task import Task
from ..versions import installed_version
from .inference import Model
from .package_programs import Encoder, Lanes, Step
from .reading import TILE
from .writing import Writer

ENCODER: Final = "encoder.pt2"
STEP: Final = "step.pt2"
RECORD: Final = "package.json"
TOKENIZER: Final = "tokenizer.json"
FILES: Final = (ENCODER, STEP, RECORD, TOKENIZER)
FORMAT: Final = 1

CLOSE: Final = 1e-4
"""What log probabilities may differ by from those of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What was packaged.

    Attributes:
        path: The folder.
        task: Name of the task.
        documents: ``B``.
        source_tokens: ``S``.
        max_length: ``L``.
        difference: How far log probabilities are from those of the model, at most.
        bytes: Size of the folder.
        seconds: How long it took.
    """

    path: Path
    task: str
    documents: int
    source_tokens: int
    max_length: int
    difference: float
    bytes: int
    seconds: float

    def __str__(self) -> str:
        shape = f"{self.documents} x {self.source_tokens} tokens read, {self.max_length} written"
        made = f"{count_bytes(self.bytes)} in {self.seconds:.0f} s"
        return f"{self.path}: {self.task}, {shape}; {made}, as the model to {self.difference:.0e}"


def export_model(
    model: Model,
    task: Task | str,
    out: str | Path,
    *,
    documents: int = 1,
    source_tokens: int = 128,
) -> Package:
    """Compile what ``model`` computes for ``task`` into the folder ``out``, which appears when it is whole.

    Before that, both programs are run and compared with the model.

    Args:
        model: The model, on a CPU and not in eight bits.
        task: A task, the name of one the model knows, or an instruction.
        out: The folder; a package that stands there is replaced.
        documents: Documents that are read and written at a time, at least 1.
        source_tokens: Most tokens of each; the next multiple of 128 is taken.

    Raises:
        PlanError: The model cannot follow the instruction.
        TrainingError: The task or the model is none that can be packaged (T0752), or cannot be compiled here to
            what the model computes (T0753).
        CheckpointError: Something else than a package stands at ``out`` (T0705).
        StoreError: ``out`` is a URL, or cannot be written.
    """
    began = time.perf_counter()
    if model.device.type != "cpu":
        message = f"programs are packaged for a CPU, and the model is on {model.device}"
        raise TrainingError.of("T0752", message, 'load it with device="cpu"')
    if isinstance(model.head, Int8Linear):
        message = "a model whose weights are in eight bits cannot be compiled"
        raise TrainingError.of("T0752", message, "load it without int8")
    path = local_path(out)
    # What is there will be gone, so it must be a package and nothing beside it; an empty folder is no loss.
    if not path.is_dir() or any(each.name not in FILES for each in path.iterdir()):
        refuse_existing(path)
    size = max(1, -(-source_tokens // TILE)) * TILE
    parts = _Parts.make(model, model.writer(task), max(1, documents), size)
    with replacing(path) as temporary:
        temporary.mkdir(parents=True)
        difference = parts.compile(temporary)
        write_json(temporary / RECORD, parts.record())
        (temporary / TOKENIZER).write_bytes(parts.writer.bpe.to_bytes())
        num_bytes = sum(file.stat().st_size for file in temporary.iterdir())
    return Package(
        path=path,
        task=parts.writer.task,
        documents=parts.documents,
        source_tokens=size,
        max_length=parts.step.max_length,
        difference=difference,
        bytes=num_bytes,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Parts:
    """What is compiled, and for which documents."""

    writer: Writer
    template: Template
    documents: int
    encoder: Encoder
    step: Step
    example: tuple[Tensor, Tensor, Lanes]

    @classmethod
    def make(cls, model: Model, writer: Writer, documents: int, source_tokens: int) -> _Parts:
        template = make_templates(writer.plan, writer.task)[0]
        if any(isinstance(piece, GroupPiece) for piece in (*template.source, *template.target)):
            message = f'task "{writer.task}" repeats a group, and what a package reads has one form'
            raise TrainingError.of(
                "T0752", message, "package a task without groups on its source side"
            )
        window = source_tokens if documents > 1 else 0
        layout = PackLayout(tile=TILE, longest_source=window)
        program = Program(writer.replan(layout), writer.parameters.scopes).eval()
        encoder = Encoder(program, model.head).eval()
        example = _draw_example(writer, template, (documents, source_tokens))
        num_given = sum(len(p.ids) for p in template.target if isinstance(p, ConstPiece)) - 1
        with torch.no_grad():
            *_, stack = encoder.read(*example)
            length = num_given + writer.length(Search())
            step = Step(program.scopes, stack, writer.automaton, length).eval()
        return cls(
            writer=writer,
            template=template,
            documents=documents,
            encoder=encoder,
            step=step,
            example=example,
        )

    @torch.no_grad()
    def compile(self, folder: Path) -> float:
        """Write both programs; return how far log probabilities are from the model's.

        Raises:
            TrainingError: Nothing can be compiled here, or it is not what the model computes.
        """
        read = self.encoder(*self.example)
        encode = _compile(self.encoder, self.example, folder / ENCODER)
        step = _compile(self.step, (*self.step.begin(self.documents), read), folder / STEP)
        found = self._write(encode(*self.example), step)
        difference = float((found - self._write(read, self.step)).abs().max())
        if not difference <= CLOSE:
            message = f"what was compiled is not what the model computes, by {difference:.1e}"
            raise TrainingError.of("T0753", message, "its parameters may be too large for float32")
        return difference

    def _write(self, read: Any, step: Any) -> Tensor:
        """Return the log probabilities of the first ids that ``step`` writes."""
        ids, states, index, kept = self.step.begin(self.documents)
        log_probs: list[Tensor] = []
        for _ in range(min(_COMPARED, self.step.max_length)):
            ids, log_prob, states = step(ids, states, index, kept, read)
            index = index + 1
            log_probs.append(log_prob)
        return torch.stack(log_probs)

    @torch.no_grad()
    def record(self) -> dict[str, Any]:
        """Return what whoever runs the programs must know, as plain JSON."""
        vocabulary = self.writer.plan.vocabulary
        begin = self.step.begin(self.documents)
        read = self.encoder(*self.example)
        lanes = [[name, f"{name}_places"] for name in self.example[2]]
        layers = range(len(read[0]))
        kept, sources = (
            [[f"{of}{what}_{n}" for n in layers] for what in ("keys", "values")]
            for of in ("", "source_")
        )
        places = ["source_places"] * len(read[2])
        told = ["ids", "states", "index", *kept, *sources, *places, "source_bias"]
        return {
            "format": FORMAT,
            "task": self.writer.task,
            "versions": {name: installed_version(name) for name in ("taskloom", "torch")},
            "encoder": {
                "inputs": _describe(["ids", "lengths", *lanes], self.example),
                "outputs": _describe(told[5:], read),
            },
            "step": {
                "inputs": _describe(told, (*begin, read)),
                "outputs": _describe(["ids", "log_probs", "states"], self.step(*begin, read)),
                "written_in_place": [name for each in kept for name in each],
            },
            "source": [self._spell(piece) for piece in self.template.source],
            "target": [self._spell(piece) for piece in self.template.target],
            "begin": {"id": int(begin[0][0]), "state": int(begin[1][0])},
            "end": {"id": EOS, "state": FINISHED, "padding": PAD},
            "max_length": self.step.max_length,
            "text": {"tokenizer": TOKENIZER, "offset": vocabulary.offset("text")},
            "blocks": {b.name: [vocabulary.offset(b.name), b.size] for b in vocabulary.blocks},
        }

    def _spell(self, piece: Piece) -> dict[str, Any]:
        """Return what a piece of a document is: ids, or what a node of the graph makes of a row."""
        if isinstance(piece, ConstPiece):
            return {"ids": list(piece.ids)}
        assert isinstance(piece, IdsPiece | TensorPiece), "groups have been refused"
        graph = self.writer.plan.graph
        (node,) = {v.node for v in self.writer.plan.cut.stored if v.column_id == piece.column}
        made = {"node": graph.nodes[node].address}
        if isinstance(piece, IdsPiece):
            return {**made, "offset": piece.offset}
        return {**made, "lane": piece.lane, "positions": piece.length}


_COMPARED: Final = 4
"""Steps that are compared with the model's."""


def _draw_example(
    writer: Writer, template: Template, shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Lanes]:
    """Return documents of the full length: what an encoder is exported with, and compared on."""
    documents, size = shape
    draw = torch.Generator().manual_seed(0)
    num_ids = writer.plan.vocabulary.size
    ids_BS = torch.randint(0, num_ids, shape, generator=draw, dtype=torch.int32)
    known: Any = writer.plan.graph["pack"].params["lanes"]
    lanes: Lanes = {}
    at = 0
    places: dict[str, list[Tensor]] = {}
    for piece in template.tensors:
        places.setdefault(piece.lane, []).append(torch.arange(at, at + piece.length))
        at += piece.length
    if at > size:
        message = f"a document takes {at} tokens for what is no text, and {size} are read"
        raise TrainingError.of("T0752", message, f"read at least {at} source tokens")
    for lane, each in places.items():
        first_B11 = torch.arange(documents)[:, None, None] * size
        places_IP = (first_B11 + torch.stack(each)).flatten(0, 1).int()
        dtype, shape_ = getattr(torch, known[lane]["dtype"]), tuple(known[lane]["shape"])
        tensors = torch.randint(0, 200, (len(places_IP), *shape_), generator=draw).to(dtype)
        lanes[lane] = (tensors, places_IP)
    return ids_BS, torch.full((documents,), size), lanes


def _compile(module: nn.Module, inputs: tuple[Any, ...], path: Path) -> Any:
    """Write ``module`` as native code for inputs of these shapes, and return it as it is loaded again.

    Raises:
        TrainingError: It cannot be compiled here (T0753).
    """
    from torch import _inductor as inductor  # noqa: PLC0415 - seconds, for those who compile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, about itself
            exported = torch.export.export(module, inputs)
            inductor.aoti_compile_and_package(exported, package_path=str(path))
            return inductor.aoti_load_package(str(path))
    except RuntimeError as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        message = f"{path.name} cannot be compiled: {line}"
        help_ = "a C++ compiler is needed, such as g++; `CXX` names another"
        raise TrainingError.of("T0753", message, help_) from error


def _describe(names: Any, tensors: Any) -> list[dict[str, Any]]:
    """Return name, dtype and shape of every tensor, in the order in which programs take them."""
    return [
        {"name": name, "dtype": str(leaf.dtype).removeprefix("torch."), "shape": list(leaf.shape)}
        for name, leaf in zip(pytree.tree_leaves(names), pytree.tree_leaves(tensors), strict=True)
    ]


__all__ = ["Package", "export_model"]
