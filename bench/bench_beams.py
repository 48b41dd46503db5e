"""Targets written with beams, ours beside OFASys, eager: the same documents, the same search, the same answers.

OFASys pads a batch to its longest source, keeps keys and values, and at each step makes embeddings, and a dense
bias in every layer, anew for all that was written; its search is `EagerBeams`. Ours reads packs, keeps keys and
values, and spells what was written, as `Model.infer` does. Both read the sources in the time that is told.

Documents are functions of Python's library, whose code is written down as a summary. Both have the parameters
of the preset ``tiny`` without its trunk, at random. Targets have as many ids as asked, so that both take the
same steps. Log probabilities of all targets are compared first; where they agree, texts differ only if beams
tie, and how many are alike is told. All is on one thread, in turn, in CPU-seconds; the ratio is the median of
those of each round.

Claim: ours takes a fifth of the time, or less.

    python bench/bench_beams.py [--out FILE] [--rounds N] [--documents N] [--length N] [--beams N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import code_mixture
import torch
from beams import EagerBeams
from eager_ofasys import PAD, EagerOfasys
from padded import copy_state, make_program, open_functions
from report import describe, tell
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from taskloom.graph.vocabulary import EOS
from taskloom.ops.architecture import DECODER_SCOPE, VOCABULARY_SCOPE
from taskloom.ops.device.decode.few_rows import FewRowsLinear, lay_out
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.relative.presets import PRESETS
from taskloom.ops.recipe.text import BLOCK
from taskloom.pipeline.answerer.exam import unanswered
from taskloom.pipeline.answerer.inference import Model
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.record import used_artifacts
from taskloom.storage.one_pass import pack_documents
from taskloom.storage.template import Template
from taskloom.storage.tile import Ints

GOAL: Final = 5.0
TASK: Final = "code"
BATCH: Final = 16
"""Sources that OFASys pads together; ours reads about as many at once."""

ERROR: Final = 1e-3
"""Most that log probabilities of targets may differ."""

Answer = tuple[str, float]


def measure(stream: Stream, options: argparse.Namespace) -> dict[str, Any]:
    """Return what both take."""
    program = make_program(stream)
    state = copy_state(program)
    model = Model.make(
        code_mixture.make_mixture(), stream.model, stream.pinned, used_artifacts(stream), program
    )
    model.program.eval()
    model.head = FewRowsLinear(model.program.scope(VOCABULARY_SCOPE).weight_VC)
    lay_out(model.program.scope(DECODER_SCOPE))
    writer = model.writer(TASK)
    template = unanswered(next(each for each in stream.templates if each.task == TASK))
    rows = stream.rows[TASK][: options.documents]
    search = Search(beams=options.beams, min_length=options.length - 1, max_length=options.length)

    def ours() -> list[Answer]:
        said = writer.write(template, stream.columns, rows, search)
        return [(said[row][0].text, said[row][0].log_prob) for row in rows.tolist()]

    begun = torch.tensor(writer.automaton.roots[:1])
    is_allowed_V = writer.automaton.is_allowed(
        begun, len(state["encoder.adaptor.embed_tokens.weight"])
    )[0]
    is_allowed_V[EOS] = True
    beams = EagerBeams(
        model=EagerOfasys(state=state, num_heads=stream.model.num_heads),
        beams=options.beams,
        length=options.length,
        is_allowed_V=is_allowed_V,
    )
    sources = read_sources(stream, template, rows)
    batches = [
        pad_sequence(sources[at : at + BATCH], batch_first=True, padding_value=PAD)
        for at in range(0, len(sources), BATCH)
    ]

    def theirs() -> list[Answer]:
        written = [beams.write(batch) for batch in batches]
        texts = [spell(ids) for ids_BT, _ in written for ids in ids_BT.tolist()]
        return [*zip(texts, torch.cat([totals for _, totals in written]).tolist(), strict=True)]

    def spell(ids: list[int]) -> str:
        block = stream.plan.vocabulary.offset(BLOCK)
        return writer.bpe.decode([id_ - block for id_ in ids])

    num_equal = compare(ours(), theirs())
    seconds: dict[str, list[float]] = {"OFASys": [], "ours": []}
    for number in range(options.rounds):
        ways: list[tuple[str, Callable[[], object]]] = [("OFASys", theirs), ("ours", ours)]
        for name, call in ways[:: 1 if number % 2 else -1]:
            began = time.process_time()
            call()
            seconds[name].append(time.process_time() - began)
    ratios = [t / o for t, o in zip(seconds["OFASys"], seconds["ours"], strict=True)]
    lengths = [len(source) for source in sources]
    return {
        "documents": len(sources),
        "source tokens": sum(lengths),
        "of all positions, OFASys": round(sum(lengths) / sum(b.numel() for b in batches), 3),
        "beams": options.beams,
        "ids of a target": options.length,
        "targets alike": num_equal,
        "CPU-seconds": {name: [round(s, 3) for s in each] for name, each in seconds.items()},
        "ids a CPU-second": {
            name: round(len(sources) * options.length / median(each), 1)
            for name, each in seconds.items()
        },
        "times as fast as OFASys": round(median(ratios), 2),
        "holds": median(ratios) >= GOAL,
    }


def read_sources(stream: Stream, template: Template, rows: Ints) -> list[Tensor]:
    """Return the ids of the source of each of ``rows``, in their order."""
    found: dict[int, Tensor] = {}
    for pack in pack_documents(
        [template], {TASK: rows}, stream.columns, stream.capacity, pad_id=PAD
    ):
        for (_, row), (start, stop) in zip(
            pack.rows.tolist(), pack.source_ranges.tolist(), strict=True
        ):
            found[row] = torch.from_numpy(pack.source_ids[start:stop].astype("int64"))
    return [found[row] for row in rows.tolist()]


def compare(ours: Sequence[Answer], theirs: Sequence[Answer]) -> int:
    """Return how many targets are alike; where they are not, both are as likely.

    Raises:
        AssertionError: Log probabilities differ.
    """
    for (_, our_log_prob), (_, their_log_prob) in zip(ours, theirs, strict=True):
        assert abs(our_log_prob - their_log_prob) < ERROR, (our_log_prob, their_log_prob)
    return sum(own == other for (own, _), (other, _) in zip(ours, theirs, strict=True))


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time a beam search beside one of OFASys.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--length", type=int, default=32, help="ids of a target, the end included")
    parser.add_argument("--beams", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = replace(PRESETS["tiny"], trunk="", dropout=0.0)
    with tempfile.TemporaryDirectory() as scratch:
        stream = open_functions(Path(scratch, "store"), model)
        result = {**describe("torch"), "rounds": options.rounds, **measure(stream, options)}
    tell(result, options.out)


if __name__ == "__main__":
    main()
