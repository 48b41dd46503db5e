"""What other distributions bring is found, and what they break stays theirs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from taskloom.graph.errors import InstructionError, PlanError
from taskloom.ops.catalogue import UnknownOpError, host_catalogue, recipes, whole_catalogue
from taskloom.ops.device.catalogue import DEVICE_CATALOGUE
from taskloom.ops.host.catalogue import HOST_CATALOGUE
from taskloom.ops.plugin import find_installed
from taskloom.pipeline import Mixture, Task, plan

from .packages import DEVICE_OP, HOST_OP, RECIPE, write_package

OURS = "[IMAGE:img] what is it? -> [TEXT:label]"
THEIRS = "[MOTION:number] what is it? -> [TEXT:label]"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs distributions, for this test alone; each package name is used by one test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, **files: str) -> None:
        write_package(tmp_path, package, **files)
        # What is installed is read once for each sys.path.
        sys.path.insert(0, str(tmp_path))

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) or "":
            is_theirs = str(sys.modules[name].__file__).startswith(str(tmp_path))
            if is_theirs:
                del sys.modules[name]


def test_a_plug_in_adds_ops_and_a_recipe(install: Install) -> None:
    install("sound")
    negate = host_catalogue()["negate_numbers"]()
    assert negate.__class__.__module__ == "sound.host"
    assert whole_catalogue()["double_numbers"].traits.place == "device"
    assert recipes()["MOTION"] is sys.modules["sound"].PLUGIN.recipes["MOTION"]
    installed = find_installed()
    brought = ("negate_numbers", "double_numbers", "MOTION")
    assert {installed.origin(name) for name in brought} == {"sound 1.0"}
    assert installed.origin("decode_images") == "taskloom"
    assert not installed.broken


def test_what_taskloom_brings_itself_stays_as_it_is(install: Install) -> None:
    tables = dict(HOST_CATALOGUE), list(recipes())
    install("beside")
    assert all(host_catalogue()[name] is op for name, op in tables[0].items())
    assert list(recipes()) == [*tables[1], "MOTION"]


def test_every_device_op_of_the_table_is_where_it_says() -> None:
    catalogue = whole_catalogue()
    assert list(DEVICE_CATALOGUE) == sorted(DEVICE_CATALOGUE)
    assert {name: catalogue[name].traits.name for name in DEVICE_CATALOGUE} == {
        name: name for name in DEVICE_CATALOGUE
    }


def test_host_ops_of_plug_ins_come_without_torch(install: Install, tmp_path: Path) -> None:
    install("light")
    code = (
        "import sys\n"
        "from taskloom.pipeline.builder import partition\n"
        "from taskloom.pipeline.host import worker\n"
        "from taskloom.ops.catalogue import host_catalogue, recipes\n"
        "print(host_catalogue()['negate_numbers'].traits.version, 'MOTION' in recipes())\n"
        "print('double_numbers' in host_catalogue(), 'torch' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.stdout.split() == ["1", "True", "False", "False"], told.stderr


def test_a_recipe_is_planned_and_its_block_follows_the_texts(install: Install) -> None:
    before = plan(Task("ours", OURS)).vocabulary
    install("planned")
    assert plan(Task("ours", OURS)).vocabulary == before
    both = plan([Task("theirs", THEIRS), Task("ours", OURS)]).vocabulary
    assert both.blocks[: len(before.blocks)] == before.blocks
    assert [block.name for block in both.blocks] == ["special", "text", "number"]


def test_blocks_of_one_name_have_one_size(install: Install) -> None:
    install("other", init=RECIPE.replace('Block("number", 10)', 'Block("text", 10)'))
    plan(Task("ours", OURS))
    with pytest.raises(PlanError, match=r"(?s)T0273.*TEXT and MOTION.*4,096 ids against 10"):
        plan(Task("theirs", THEIRS))


@pytest.mark.parametrize(
    ("files", "code", "reason"),
    [
        pytest.param({"init": "1 / 0"}, "T0270", "ZeroDivisionError", id="import fails"),
        pytest.param({"init": "PLUGIN = 7"}, "T0270", "is a int", id="no plug-in"),
        pytest.param({"init": ""}, "T0270", "AttributeError", id="nothing there"),
        pytest.param(
            {"init": RECIPE.replace("(NegateNumbers,)", "(NegateNumbers(),)")},
            "T0272",
            "is no class",
            id="instance of an op",
        ),
        pytest.param(
            {"host": HOST_OP.replace("frozen=True, ", "")}, "T0272", "no frozen", id="not frozen"
        ),
        pytest.param({"host": HOST_OP.replace("=1)", "=0)")}, "T0272", "version 0", id="version"),
        pytest.param(
            {"host": HOST_OP.replace("negate_numbers", "Negate")}, "T0272", "named", id="op name"
        ),
        pytest.param(
            {"host": HOST_OP.replace("__call__", "call")}, "T0272", "no __call__", id="no call"
        ),
        pytest.param(
            {"host": HOST_OP.replace("traits:", "trait:")}, "T0272", "no Traits", id="no traits"
        ),
        pytest.param(
            {"host": HOST_OP.replace("=1)", "=1, is_online=True)")},
            "T0272",
            "of the loader",
            id="of the loader",
        ),
        pytest.param(
            {"host": HOST_OP.replace("=1)", "=1, rows='fit')")}, "T0272", "Rows", id="rows"
        ),
        pytest.param(
            {
                "host": HOST_OP.replace("=1)", "=1, rows=Rows.FIT)").replace(
                    "import T", "import Rows, T"
                )
            },
            "T0272",
            "no observe, merge, finish",
            id="no fit",
        ),
        pytest.param(
            {
                "host": HOST_OP.replace("=1)", "=1, place=Place.DEVICE)").replace(
                    "import P", "import Place, P"
                )
            },
            "T0272",
            "stands among the ops of the host",
            id="wrong place",
        ),
        pytest.param(
            {"init": RECIPE.replace("device:Double", "device.Double")},
            "T0272",
            '"module:Class"',
            id="device op nowhere",
        ),
        pytest.param(
            {"init": RECIPE.replace('"MOTION"', '"Motion"')}, "T0272", "upper", id="modality"
        ),
        pytest.param(
            {"init": RECIPE.replace("NumberRecipe()", "NumberRecipe")},
            "T0272",
            "is a class",
            id="recipe class",
        ),
        pytest.param(
            {"init": RECIPE.replace("def source", "def read")}, "T0272", "no source", id="recipe"
        ),
        pytest.param(
            {"init": RECIPE.replace("    blocks:", "    block:")}, "T0272", "blocks", id="blocks"
        ),
    ],
)
def test_a_broken_plug_in_is_left_out_and_named(
    install: Install, request: pytest.FixtureRequest, files: dict[str, str], code: str, reason: str
) -> None:
    package = "broken_" + "".join(c for c in request.node.callspec.id if c.isalnum())
    install(package, **files)
    (problem,) = find_installed().broken
    assert problem.code == code
    assert reason in problem.help
    assert f"{package} 1.0" in problem.message
    assert f"pip uninstall {package}" in problem.help
    assert "negate_numbers" not in host_catalogue()
    assert list(host_catalogue()) == list(HOST_CATALOGUE)


def test_a_plan_without_a_broken_plug_in_goes_on_and_one_with_it_says_why(
    install: Install,
) -> None:
    install("halting", init="1 / 0")
    plan(Task("ours", OURS))
    with pytest.raises((PlanError, InstructionError)) as caught:
        plan(Task("theirs", THEIRS))
    assert [p.code for p in caught.value.problems] == ["T0231", "T0270"]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        pytest.param(
            {"host": HOST_OP.replace("negate_numbers", "decode_images")}, "decode_images", id="host"
        ),
        pytest.param(
            {"init": RECIPE.replace("double_numbers", "score_tokens")}, "score_tokens", id="device"
        ),
        pytest.param({"init": RECIPE.replace("MOTION", "TEXT")}, "TEXT", id="recipe"),
        pytest.param(
            {"init": RECIPE.replace("double_numbers", "negate_numbers")},
            "negate_numbers",
            id="its own",
        ),
    ],
)
def test_a_name_that_exists_is_refused(
    install: Install, request: pytest.FixtureRequest, files: dict[str, str], name: str
) -> None:
    package = "twice_" + "".join(c for c in request.node.callspec.id if c.isalnum())
    install(package, **files)
    (problem,) = find_installed().broken
    assert problem.code == "T0271"
    assert f'{package} 1.0 brings "{name}"' in problem.message
    assert find_installed().origins == {}


def test_of_two_that_bring_one_name_neither_computes(install: Install) -> None:
    install("first")
    assert "negate_numbers" in host_catalogue()
    install("second")
    assert "negate_numbers" not in host_catalogue()
    told = [problem.message for problem in find_installed().broken]
    assert [text.split()[0] for text in told] == ["first", "second"]
    assert "second 1.0 has too" in told[0]


@pytest.mark.parametrize(
    ("device", "code"),
    [
        pytest.param("import no_such_module", "T0270", id="import fails"),
        pytest.param(DEVICE_OP.replace('"double_', '"triple_'), "T0272", id="another name"),
        pytest.param(DEVICE_OP.replace("def module", "def build"), "T0272", id="no module"),
    ],
)
def test_a_broken_device_op_is_told_when_it_is_asked_for(
    install: Install, request: pytest.FixtureRequest, device: str, code: str
) -> None:
    package = "device_" + "".join(c for c in request.node.callspec.id if c.isalnum())
    install(package, device=device)
    assert not find_installed().broken
    assert "double_numbers" in whole_catalogue()
    with pytest.raises(PlanError, match=rf'(?s){code}.*"double_numbers" of {package} 1.0'):
        whole_catalogue()["double_numbers"]


def test_an_op_that_is_not_there_is_named_with_its_neighbour() -> None:
    with pytest.raises(UnknownOpError, match="did you mean decode_images") as caught:
        host_catalogue()["decode_image"]
    assert host_catalogue().get("decode_image") is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_mixture_has_the_recipes_of_plug_ins(install: Install) -> None:
    install("mixed")
    mixture = Mixture([Task("theirs", THEIRS)], bpe_size=300, slots={"MOTION": {}})
    assert list(mixture.recipes()) == ["TEXT", "IMAGE", "BOX", "MOTION"]
    assert plan(mixture).vocabulary.blocks[1].size == 300


def test_ops_of_plug_ins_are_functions_of_columns(install: Install) -> None:
    install("by_hand")
    op = host_catalogue()["negate_numbers"]()
    assert op(pa.array([1.5])).to_pylist() == [-1.5]  # pyright: ignore[reportCallIssue]
