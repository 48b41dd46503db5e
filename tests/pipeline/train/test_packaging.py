"""A packaged task answers as its model does, where there is no taskloom, and where there is no Python."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import _inductor as inductor
from torch._inductor import config
from torch.utils import cpp_extension

from taskloom.graph.errors import CheckpointError, TrainingError
from taskloom.graph.vocabulary import EOS
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Model, Run, export_model, train
from taskloom.pipeline.answerer.packaging import Package
from taskloom.pipeline.loader.given_rows import RowReader
from taskloom.pipeline.planner.document import make_templates
from taskloom.storage.files import TEMPORARY

from .stores import CONFIG, MODEL, make_mixture, read_digits, spell_numbers

# torch's compiler warns about its own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

PAGE = Path(__file__).parents[3] / "docs" / "packages.md"
NUMBERS = [{"number": row["number"]} for row in spell_numbers()[:40:3]]

# A guard: whatever a package is run with, it is not taskloom.
WITHOUT = "import sys; sys.modules['taskloom'] = None\n"


def read_code(language: str) -> str:
    """Return what the page shows in ``language``."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return code


def read_record(package: Package) -> Any:
    return json.loads((package.path / "package.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def model(run: Run) -> Model:
    return Model.load(run.path)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(MODEL, id="rotary"),
        pytest.param(replace(MODEL, ffn="per_modality"), id="per_modality"),
        pytest.param(replace(MODEL, position="relative", max_positions=128), id="relative"),
    ],
)
def learned(
    request: pytest.FixtureRequest, store_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    """A model that has learned enough to say more than one thing."""
    config: ModelConfig = request.param
    mixture, path = make_mixture(has_rows=False), tmp_path_factory.mktemp("learned")
    settings: dict[str, Any] = {"steps": 500, "learning_rate": 1e-2, "progress": False}
    return train(mixture, store_dir, out=path, model=config, config=CONFIG, **settings).model


@pytest.fixture(scope="module")
def spell(learned: Model, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The task of texts, a row at a time."""
    return export_model(learned, "spell", tmp_path_factory.mktemp("spell") / "package")


def test_what_is_no_package_is_not_replaced_by_one(model: Model, tmp_path: Path) -> None:
    folder, file = tmp_path / "project", tmp_path / "notes"
    folder.mkdir()
    # As a project of another language has it.
    for path in (folder / "package.json", folder / "main.js", file):
        path.write_text("{}")
    for taken in (folder, file):
        with pytest.raises(CheckpointError, match=rf"T0705.*{taken} exists already"):
            export_model(model, "spell", taken)
    assert len(list(tmp_path.iterdir())) == len(list(folder.iterdir())) == 2


@pytest.mark.slow
def test_a_package_answers_in_python_without_taskloom(learned: Model, spell: Package) -> None:
    expected = [answer.text for answer in learned.infer("spell", NUMBERS)]
    assert len(set(expected[:4])) > 1
    assert spell.difference < 1e-5
    program = WITHOUT + read_code("python")
    for row, text in list(zip(NUMBERS, expected, strict=True))[:4]:
        command = [sys.executable, "-c", program, str(spell.path), row["number"]]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout == f"{text}\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's program in C++, compiled."""
    path = tmp_path_factory.mktemp("program") / "run"
    source = path.with_suffix(".cpp")
    source.write_text(read_code("cpp"))
    libraries = cpp_extension.library_paths()
    command = ["g++", "-std=c++20", "-O1", str(source), "-o", str(path)]
    command += [f"-I{path}" for path in cpp_extension.include_paths()]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [part for path in libraries for part in (f"-L{path}", f"-Wl,-rpath,{path}")]
    command += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True, timeout=600)
    return path


@pytest.mark.slow
def test_a_package_answers_without_python(learned: Model, spell: Package, program: Path) -> None:
    told = read_record(spell)
    writer = learned.writer("spell")
    given = [each for piece in told["target"] for each in piece["ids"]]
    for row in NUMBERS[:3]:
        text = pa.array([row["number"]])
        ids: list[int] = []
        for piece in told["source"]:
            spoken = piece.get("ids")
            ids += spoken or [piece["offset"] + i for i in writer.bpe.encode(text)[0].as_py()]
        words = [" ".join(map(str, each)) for each in (ids, given)]
        sizes = (spell.source_tokens, spell.max_length, told["begin"]["state"])
        command = [str(program), str(spell.path), *words, *map(str, sizes)]
        command.append(str(told["end"]["state"]))
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        written = np.array([int(word) for word in done.stdout.split()])
        (answer,) = learned.infer("spell", [row])
        assert writer.bpe.decode(written - told["text"]["offset"]) == answer.text


@pytest.mark.slow
def test_pictures_and_closed_sets_are_packaged_several_at_a_time(
    model: Model, tmp_path: Path
) -> None:
    rows = [{"image": row["image"]} for row in read_digits()[:9]]
    expected = [(answer.text, answer.log_prob) for answer in model.infer("digits", rows)]
    assert len({log_prob for _, log_prob in expected}) > 1
    package = export_model(model, "digits", tmp_path / "package", documents=3)
    told = read_record(package)
    writer = model.writer("digits")
    reader = RowReader.make(writer.plan, writer.task, model.load_artifact)
    (batch,) = reader.batches(rows)
    columns, problems = reader.read(batch, 0)
    assert not problems
    template = make_templates(writer.plan, writer.task)[0]
    (piece,) = template.tensors
    column = columns[template.source_name, piece.column]
    pixels = torch.tensor(column.gather(np.arange(9)))
    programs = [
        inductor.aoti_load_package(str(package.path / f"{name}.pt2"))
        for name in ("encoder", "step")
    ]
    found: list[tuple[str | None, float]] = []
    for first in range(0, 9, 3):
        found += answer(programs, told, pixels[first : first + 3], writer.bpe)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=1e-4)


def answer(programs: Any, told: Any, pixels: torch.Tensor, bpe: Any) -> list[tuple[str, float]]:
    """Return what a package says to as many pictures as it takes, and the log probability of each answer."""
    encode, step = programs
    ids, lengths, _, places = (
        torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"]))
        for each in told["encoder"]["inputs"]
    )
    row: list[int] = []
    for piece in told["source"]:
        if "lane" in piece:
            begin = torch.arange(len(ids))[:, None] * ids.shape[1] + len(row)
            places += begin + torch.arange(piece["positions"])
            row += [0] * piece["positions"]
        else:
            row += piece["ids"]
    ids[:, : len(row)] = torch.tensor(row)
    read = encode(ids, lengths + len(row), {"image": (pixels, places)})
    inputs = [
        torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"]))
        for each in told["step"]["inputs"][: 3 + 2 * len(read[0])]
    ]
    last, states, index, *kept = inputs
    last += told["begin"]["id"]
    states += told["begin"]["state"]
    caches = (tuple(kept[: len(read[0])]), tuple(kept[len(read[0]) :]))
    written, log_probs = [], torch.zeros(len(ids))
    for place in range(told["max_length"]):
        last, log_prob, states = step(last, states, index + place, caches, read)
        written.append(last)
        log_probs += log_prob
    texts = torch.stack(written, 1).numpy()
    offset = told["text"]["offset"]
    said = [bpe.decode(each[each >= offset] - offset) for each in texts]
    assert all(EOS in each for each in texts)
    return list(zip(said, log_probs.tolist(), strict=True))


def test_a_model_in_eight_bits_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"T0752.*eight bits cannot be compiled"):
        export_model(Model.load(run.path, int8=True), "spell", tmp_path / "package")


def test_what_has_no_form_of_its_own_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        export_model(model, "([TEXT:number] ;)* -> [TEXT:words]", tmp_path / "package")
    (problem,) = caught.value.problems
    assert problem.code == "T0752"
    assert "repeats a group" in problem.message
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_cannot_be_compiled_leaves_nothing(model: Model, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "package.json").touch()
    lacking: Any = config.patch({"cpp.cxx": ("no-such-compiler",)})
    with lacking, pytest.raises(TrainingError) as caught:
        export_model(model, "spell", tmp_path / "package")
    assert caught.value.problems[0].code == "T0753"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
    assert (tmp_path / "package" / "package.json").exists()
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))
