"""Planned graphs for the tests of views: tasks that answer questions about images, in any number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskloom.graph.draft import Draft
from taskloom.graph.errors import Site, Span
from taskloom.graph.graph import Graph
from taskloom.graph.node import Value
from taskloom.graph.op import Op
from taskloom.graph.passes.cut import Cut, cut
from taskloom.graph.passes.prune import prune
from taskloom.graph.passes.segment import segment
from taskloom.graph.view import State, View, make_view

from .plan_ops import (
    CATALOGUE,
    ComposeDocuments,
    DecodeImages,
    DecodeStreams,
    EmbedPatches,
    EmbedTokens,
    EncodeStreams,
    EncodeTexts,
    FitBpe,
    FormatTexts,
    MakeTexts,
    PackDocuments,
    PlaceTokens,
    ReadColumns,
    ResizeImages,
    ScoreTokens,
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task whose instruction is ``[IMAGE:img] [TEXT:question] prompt -> [TEXT:answer]``."""

    name: str
    source: str
    prompt: str = "what does the image show?"
    image: str = "img"
    question: str = ""
    answer: str = "answer"

    @property
    def text(self) -> str:
        question = f"[TEXT:{self.question}] " if self.question else ""
        return f"[IMAGE:{self.image}] {question}{self.prompt} -> [TEXT:{self.answer}]"

    def site(self, part: str) -> Site:
        start = self.text.index(part)
        return Site(f"{self.name}:1", self.text, Span(start, start + len(part)))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A graph, where it is cut, and the instructions it comes from."""

    graph: Graph
    cut: Cut
    instructions: Mapping[str, str]

    def view(self, title: str = "mixture", **states: State) -> View:
        """Return the view; ``states`` are by op. With none at all, nobody looked at the store."""
        return make_view(
            self.graph,
            title=title,
            stages=self.cut.stages,
            stored=self.cut.stored,
            segments=segment(self.graph, self.cut, CATALOGUE),
            states={n.id: states[n.op] for n in self.graph if n.op in states} if states else None,
            instructions=self.instructions,
            catalogue=CATALOGUE,
        )


class Planning:
    """Plans tasks as the planner does, in little; images become squares of ``size`` pixels."""

    def __init__(self, size: int = 224) -> None:
        self.size = size
        self.draft = Draft(CATALOGUE)

    def plan(self, tasks: Sequence[Task]) -> Planned:
        """Plan ``tasks`` and the program that trains on them."""
        texts = [self._texts(task, column) for task in tasks for column in _columns(task)]
        texts = list(dict.fromkeys(texts))
        ports = {f"texts.{i}": value for i, value in enumerate(texts)}
        bpe = self.draft.add(FitBpe(size=8192), ports, address="bpe-main")
        documents = {f"documents.{i}": self._document(t, bpe) for i, t in enumerate(tasks)}
        pack = self.draft.add(PackDocuments(), documents, address="pack")
        graph = prune(self.draft.graph({"loss": self._program(pack)}))
        return Planned(
            graph=graph,
            cut=cut(graph, CATALOGUE),
            instructions={f"{task.name}:1": task.text for task in tasks},
        )

    def _read(self, task: Task, column: str, dtype: str, slot: str) -> Value:
        return self.draft.add(
            ReadColumns(column=column, dtype=dtype),
            rows=task.source,
            address=f"{task.name}.{column}",
            sites=[task.site(slot)],
        )

    def _texts(self, task: Task, column: str) -> Value:
        slot = f"[TEXT:{column}]"
        read = self._read(task, column, "string", slot)
        return self._add(task, FormatTexts(), {"values": read}, f"{column}/format", slot)

    def _ids(self, task: Task, column: str, bpe: Value) -> Value:
        ports = {"texts": self._texts(task, column), "bpe": bpe}
        return self._add(task, EncodeTexts(), ports, f"{column}/encode", f"[TEXT:{column}]")

    def _add(self, task: Task, op: Op, ports: Mapping[str, Value], step: str, slot: str) -> Value:
        sites = [task.site(slot)]
        return self.draft.add(op, ports, address=f"{task.name}.{step}", sites=sites)

    def _document(self, task: Task, bpe: Value) -> Value:
        slot, column = f"[IMAGE:{task.image}]", task.image
        image = self._read(task, column, "binary", slot)
        image = self._add(task, DecodeImages(), {"images": image}, f"{column}/decode", slot)
        resize = ResizeImages(height=self.size, width=self.size)
        image = self._add(task, resize, {"images": image}, f"{column}/resize", slot)
        prompt = self._add(task, MakeTexts(text=task.prompt), {}, "text@10", task.prompt)
        ports = {"texts": prompt, "bpe": bpe}
        prompt = self._add(task, EncodeTexts(), ports, "text@10/encode", task.prompt)
        sides = {"source.0": image, "source.1": prompt}
        if task.question:
            sides["source.2"] = self._ids(task, task.question, bpe)
        sides["target.0"] = self._ids(task, task.answer, bpe)
        op = ComposeDocuments(source=tuple(sides)[:-1], target=("target.0",))
        whole = [task.site(task.text)]
        return self.draft.add(op, sides, address=f"{task.name}/document", sites=whole)

    def _program(self, pack: Value) -> Value:
        add = self.draft.add

        def of(port: str) -> Value:
            return Value(pack.node, port)

        words = add(EmbedTokens(), {"ids": of("source_ids")}, scope="vocabulary", address="source")
        patches = add(
            EmbedPatches(),
            {"images": of("image")},
            scope="adapter.image_patch",
            address="source.image",
        )
        places = {"hidden": words, "tokens": patches, "places": of("image_places")}
        stream = add(PlaceTokens(), places, address="source.image/place")
        keys = {"hidden": stream, "keys": of("source_keys")}
        memory = add(EncodeStreams(), keys, scope="encoder", address="encoder")
        target = add(EmbedTokens(), {"ids": of("target_ids")}, scope="vocabulary", address="target")
        keys = {"hidden": target, "keys": of("target_keys"), "memory": memory}
        states = add(DecodeStreams(), keys, scope="decoder", address="decoder")
        scores = {"hidden": states, "labels": of("labels"), "weights": of("weights")}
        return add(ScoreTokens(), scores, scope="vocabulary", address="loss")


def _columns(task: Task) -> list[str]:
    return [column for column in (task.question, task.answer) if column]


def plan_two_tasks() -> Planned:
    """Plan two tasks over one source, which share its image column."""
    caption = Task(name="caption", source="coco", answer="caption")
    vqa = Task(name="vqa", source="coco", prompt="answer in a word:", question="question")
    return Planning().plan([caption, vqa])


def plan_like_tasks(number: int) -> Planned:
    """Plan ``number`` tasks of one shape, each over a source of its own."""
    tasks = [
        Task(name=f"task_{i:03}", source=f"source_{i:03}", question="question")
        for i in range(number)
    ]
    return Planning().plan(tasks)


def plan_prompt(prompt: str) -> Planned:
    """Plan one task that says ``prompt``."""
    return Planning().plan([Task(name="caption", source="coco", prompt=prompt)])
