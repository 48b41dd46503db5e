"""Checkpoints of OFA and OFASys come in and go out bit for bit, run nothing, and give a run its beginning."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from typer.testing import CliRunner

from taskloom.graph.errors import CheckpointError, PlanError, StoreError, TaskloomError
from taskloom.graph.vocabulary import Block, Vocabulary
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Task
from taskloom.pipeline.cli import app
from taskloom.pipeline.model.handing_back import export_checkpoint, find_state
from taskloom.pipeline.model.importing import SCOPES, import_checkpoint, take_over
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.planner.planning import plan
from taskloom.storage.checkpoint import read_checkpoint, write_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != "caption_base")
NUM_TEXT = 1218
VOCABULARY = Vocabulary.of([Block("text", NUM_TEXT)])


def make_state(name: str) -> dict[str, Tensor]:
    """Return a state with the names and sizes of a golden case, every value of it different."""
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())["shapes"]
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of a golden case as a file has them."""
    model = json.loads((GOLDEN / f"{name}.json").read_text())["model"]
    return model | {"adaptor": model.get("adaptors", {})}


def symbols_of(num_rows: int) -> list[str]:
    """Return a dictionary whose text runs backwards."""
    text = [f"<text>_{number}" for number in reversed(range(num_rows - 5))]
    return ["<s>", "<pad>", "</s>", "<unk>", *text, "<mask>"]


def run(*arguments: str | Path) -> str:
    """Return what a command says that goes well."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def export_state(path: Path) -> dict[str, Tensor]:
    """Return what an imported checkpoint is under names of OFASys; nothing of it lacks one."""
    state, left_out = find_state(read_checkpoint(path))
    assert not left_out
    return state


@pytest.mark.parametrize("command", ["import-checkpoint", "export-checkpoint"])
def test_a_place_that_is_not_on_this_machine_is_refused_and_no_folder_has_its_name(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [command, "model.pt", "s3://bucket/imported"])
    assert isinstance(done.exception, StoreError)
    assert re.search(r"T0501.*this one is on s3", str(done.exception))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*NAMES, pytest.param("caption_base", marks=pytest.mark.slow)])
def test_two_commands_take_a_state_in_and_give_it_back_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    state = make_state(name)
    symbols = symbols_of(len(state["encoder.adaptor.embed_tokens.weight"]))
    Random(name).shuffle(symbols)
    indices = {symbol: row for row, symbol in enumerate(symbols)}
    content = {"model": state, "cfg": {"model": settings_of(name)}, "global_dict_indices": indices}
    first = save(content, tmp_path / "first.pt")
    run("import-checkpoint", first, tmp_path / "in")
    run("export-checkpoint", tmp_path / "in", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back["model"].keys() == state.keys()
    assert all(torch.equal(back["model"][key], tensor) for key, tensor in state.items())
    assert back["global_dict_indices"] == indices
    run("import-checkpoint", tmp_path / "back.pt", tmp_path / "again")
    once, twice = (read_checkpoint(tmp_path / each) for each in ("in", "again"))
    assert once.record["model"] == twice.record["model"]
    assert once.artifacts == twice.artifacts
    assert once.tensors.keys() == twice.tensors.keys()
    assert all(torch.equal(twice.tensors[key], tensor) for key, tensor in once.tensors.items())


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_read_from_the_tensors(name: str, tmp_path: Path) -> None:
    found = import_checkpoint(save(make_state(name), tmp_path / "state.pt"), tmp_path / "out")
    told = json.loads((GOLDEN / f"{name}.json").read_text())["model"]
    expected = ModelConfig(
        position="relative",
        width=256,
        ffn_width=1024,
        num_heads=4,
        num_encoder_layers=told["encoder"]["layers"],
        num_decoder_layers=told["decoder"]["layers"],
        pre_norm=told["encoder"]["normalize_before"],
        scale_attn=told["scale_attn"],
        scale_fc=told["scale_fc"],
        scale_heads=told["scale_heads"],
        absolute_position="added" if told["entangle_position_embedding"] else "bias",
        relative_bias=told["use_self_attn_bias"],
        max_positions=told["max_source_positions"],
    )
    # What divides scores is in no tensor: OFASys' default holds unless settings tell it.
    assert found.model == expected
    assert not found.has_symbols


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    state = make_state("text2text_tiny")
    content = {"model": state, "cfg": argparse.Namespace(layers=2), "trap": Trap()}
    import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()
    back = export_state(tmp_path / "out")
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_names_of_ofa_are_those_of_ofasys_otherwise_arranged(tmp_path: Path) -> None:
    state = make_state("text2text_tiny")
    older = {to_ofa(name): tensor for name, tensor in state.items()}
    types = torch.cat((state["encoder.adaptor.text.type_embedding.weight"], torch.ones(1, 256)))
    older["encoder.type_embedding.weight"] = types
    del older["decoder.type_embedding.weight"]  # OFA has none
    older["decoder.output_projection.weight"] = older["encoder.embed_tokens.weight"]
    older["encoder.version"] = torch.tensor([3.0])
    found = import_checkpoint(save({"model": older}, tmp_path / "ofa.pt"), tmp_path / "out")
    assert {*found.left_out} == {"decoder.output_projection.weight", "encoder.version"}
    back = export_state(tmp_path / "out")
    image = back.pop("encoder.adaptor.image_resnet.type_embedding.weight")
    assert torch.equal(image, torch.ones(1, 256))
    del state["decoder.adaptor.text.type_embedding.weight"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_rows_go_to_the_ids_that_stand_for_the_same(tmp_path: Path) -> None:
    program = make_program()
    state = make_state("text2text_tiny")
    table = state["encoder.adaptor.embed_tokens.weight"]
    symbols = symbols_of(len(table))
    content = {"model": state, "global_dict_indices": {s: row for row, s in enumerate(symbols)}}
    import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")
    before = program.scope("vocabulary").weight_VC.detach().clone()
    taken = take_over(program, VOCABULARY, tmp_path / "out")
    after = program.scope("vocabulary").weight_VC.detach()
    assert torch.equal(after[:4], table[:4])
    # There are text 0 to 1,216, backwards; the last of ours is new, and the mask has no place here.
    assert torch.equal(after[4:-1], table[4:-1].flip(0))
    assert torch.equal(after[-1], before[-1])
    assert taken.new_ids == 1
    assert not taken.missing
    assert not taken.unused
    layer = program.scope("encoder").layers[1].ffn.up.weight
    assert torch.equal(layer, state["encoder.layers.1.fc1.weight"])


def test_what_either_side_lacks_is_told(tmp_path: Path) -> None:
    state = make_state("audio_asr_tiny")
    symbols = symbols_of(len(state["encoder.adaptor.embed_tokens.weight"]))
    content = {"model": state, "global_dict_indices": {s: row for row, s in enumerate(symbols)}}
    found = import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")
    assert any(name.endswith("postnet.convolutions.0.0.weight") for name in found.kept)
    program = make_program("[IMAGE:img,size=32,patch=16] -> [TEXT:b]", trunk="resnet50")
    taken = take_over(program, VOCABULARY, tmp_path / "out")
    assert "scopes.image.projection.weight" in taken.missing
    assert "scopes.audio.projection.weight" in taken.unused
    assert "scopes.encoder.relative.tables.image" in taken.missing


@pytest.mark.parametrize(
    "part",
    [
        "encoder.layers.1.experts_fc1.0.weight",
        "decoder.layers.0.experts_fc2.8.bias",
        "encoder.layers.0.fc1.image.weight",
        "decoder.layers.1.adapter.down.weight",
        "encoder.layers.0.self_attn.bias_k",
    ],
)
def test_a_part_of_a_layer_that_is_not_known_is_refused_by_name(part: str, tmp_path: Path) -> None:
    state = make_state("text2text_tiny") | {part: torch.ones(2, 2)}
    with pytest.raises(CheckpointError, match=f"no layer here has: {re.escape(part)}") as caught:
        import_checkpoint(save(state, tmp_path / "state.pt"), tmp_path / "out")
    assert [problem.code for problem in caught.value.problems] == ["T0744"]
    told = caught.value.problems[0].help
    assert ("other modalities" in (told or "")) == ("experts" in part)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_self_attn_bias": False}, "biases of attention, which is to have none"),
        ({"entangle_position_embedding": True}, "biases of attention, and to be entangled"),
        (
            {"adaptor": {"text": {"entangle_position_embedding": True}}},
            "biases of attention, and to be entangled",
        ),
        ({"encoder": {"normalize_before": False}}, r"encoder\.layer_norm is there"),
        ({"encoder_normalize_before": False}, r"encoder\.layer_norm is there"),
    ],
)
def test_settings_that_contradict_the_tensors_are_refused(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    content = {"model": make_state("text2text_tiny"), "cfg": {"model": settings}}
    with pytest.raises(CheckpointError, match=f"T0741.*{told}"):
        import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")


def test_a_model_that_lacks_its_last_norm_is_not_taken_for_one_that_has_none(
    tmp_path: Path,
) -> None:
    state = make_state("text2text_tiny")
    for end in ("weight", "bias"):
        del state[f"encoder.layer_norm.{end}"]
    content = {"model": state, "cfg": {"encoder": {"normalize_before": True}}}
    with pytest.raises(CheckpointError, match=r"T0741.*encoder\.layer_norm is missing"):
        import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")


def test_what_is_said_of_biases_goes_before_settings(tmp_path: Path) -> None:
    content = {"model": make_state("text2text_tiny"), "cfg": {"use_self_attn_bias": False}}
    path = save(content, tmp_path / "state.pt")
    assert import_checkpoint(path, tmp_path / "out", has_biases=True).model.relative_bias
    path = save(make_state("text2text_tiny"), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"T0741.*biases of attention, which is to have none"):
        import_checkpoint(path, tmp_path / "again", has_biases=False)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"activation_fn": "relu"}, r"the model has activation_fn 'relu': models here have 'gelu'"),
        (
            {"adaptor": {"text": {"no_scale_embedding": False}}},
            r"adaptor\.text has no_scale_embedding False: models here have True",
        ),
        ({"no_cross_attention": True}, r"no_cross_attention True"),
        (
            {
                "entangle_position_embedding": True,
                "adaptor": {
                    "text": {"entangle_position_embedding": True},
                    "image_patch_embed": {"entangle_position_embedding": False},
                },
            },
            r"positions enter otherwise by adapter: adaptor\.text added, adaptor\.image_patch_embed none",
        ),
    ],
)
def test_a_model_that_computes_what_none_here_does_is_refused(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    content = {"model": make_state("caption_patch_tiny"), "cfg": {"model": settings}}
    with pytest.raises(CheckpointError, match=f"T0741.*{told}"):
        import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")


def test_settings_of_an_adapter_that_is_not_used_are_no_matter(tmp_path: Path) -> None:
    unused = {"is_active": False, "no_scale_embedding": False, "entangle_position_embedding": False}
    settings = settings_of("caption_patch_tiny")
    settings["adaptor"]["video"] = unused
    content = {"model": make_state("caption_patch_tiny"), "cfg": {"model": settings}}
    found = import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")
    assert found.model.absolute_position == "added"


def test_heads_that_no_tensor_tells_are_found_in_settings(tmp_path: Path) -> None:
    state = make_state("caption_patch_tiny")
    state = {n: t for n, t in state.items() if not re.search("c_attn|rel_pos_table", n)}
    for number, (settings, heads) in enumerate(
        [({}, 4), ({"encoder": {"attention_heads": 8}}, 8), ({"encoder_attention_heads": 8}, 8)]
    ):
        path = save({"model": state, "cfg": {"model": settings}}, tmp_path / "state.pt")
        assert import_checkpoint(path, tmp_path / str(number)).model.num_heads == heads


@pytest.mark.parametrize("key", ["cfg", "args"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(dict, id="plain"),
        pytest.param(lambda plain: argparse.Namespace(**plain), id="argparse"),
        pytest.param(OmegaConf.create, id="OmegaConf"),
    ],
)
def test_settings_are_found_in_objects_of_libraries_too(
    make: Callable[[dict[str, Any]], Any], key: str, tmp_path: Path
) -> None:
    state = make_state("caption_patch_tiny_noentangle_adaptor")
    settings = settings_of("caption_patch_tiny_noentangle_adaptor") | {"attn_scale_factor": 1.5}
    content = {"model": state, key: make({"model": make(settings)})}
    found = import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out").model
    assert found.attn_scale_factor == 1.5
    assert found.absolute_position == "none"
    assert not found.relative_bias


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda _path: None, "T0740", id="missing"),
        pytest.param(lambda path: path.write_bytes(b"\x80\x02 no pickle"), "T0740", id="damaged"),
        pytest.param(lambda path: path.write_text("words"), "T0740", id="text"),
        pytest.param(lambda path: save([1, 2], path), "T0741", id="a list"),
        pytest.param(lambda path: save({"a": torch.ones(2)}, path), "T0741", id="another model"),
        pytest.param(
            lambda path: save(
                {"model": make_state("text2text_tiny"), "global_dict_indices": {"<s>": 0}}, path
            ),
            "T0742",
            id="another dictionary",
        ),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    make: Callable[[Path], object], code: str, tmp_path: Path
) -> None:
    make(tmp_path / "state.pt")
    with pytest.raises(TaskloomError) as caught:
        import_checkpoint(tmp_path / "state.pt", tmp_path / "out")
    assert [problem.code for problem in caught.value.problems] == [code]
    assert not (tmp_path / "out").exists()


def test_other_sizes_are_refused_and_all_named(tmp_path: Path) -> None:
    state = make_state("text2text_tiny")
    import_checkpoint(save(state, tmp_path / "state.pt"), tmp_path / "out")
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.ffn\.up\.weight is \(1024, 256\)"
    ) as caught:
        take_over(make_program(ffn_width=512), VOCABULARY, tmp_path / "out")
    assert {problem.code for problem in caught.value.problems} == {"T0743"}
    # Up, its offset, the norm between, and down, of two layers on two sides.
    assert len(caught.value.problems) == 2 * 2 * 5


def test_a_dictionary_of_fairseq_tells_what_rows_stand_for(tmp_path: Path) -> None:
    state = make_state("text2text_tiny")
    num_text = len(state["encoder.adaptor.embed_tokens.weight"]) - 5
    lines = [f"{number} {10_000 - number}" for number in range(num_text)]
    (tmp_path / "dict.txt").write_text("\n".join(lines))
    path = save(state, tmp_path / "state.pt")
    found = import_checkpoint(path, tmp_path / "out", symbols=tmp_path / "dict.txt")
    assert found.has_symbols
    kept = read_checkpoint(tmp_path / "out").artifacts["symbols.txt"].decode().split("\n")
    assert kept[:5] == ["<s>", "<pad>", "</s>", "<unk>", "<text>_0"]
    assert kept[-1] == "<mask>"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("0 12\n1 11", "the dictionary has 8,199 symbols, the model 1,222 rows"),
        ("", "the dictionary has 8,197 symbols"),
        ("not found", 'line 1 of .* is "not found"'),
        ("<html>", 'line 1 of .* is "<html>"'),
        (b"\xff\xfe", "cannot read .*dict.txt: .*invalid start byte"),
        (None, "cannot read .*dict.txt: No such file"),
    ],
)
def test_a_file_that_is_no_dictionary_of_the_model_is_refused(
    lines: str | bytes | None, told: str, tmp_path: Path
) -> None:
    if lines is not None:
        content = lines if isinstance(lines, bytes) else lines.encode()
        (tmp_path / "dict.txt").write_bytes(content)
    path = save(make_state("text2text_tiny"), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=f"T0742.*{told}"):
        import_checkpoint(path, tmp_path / "out", symbols=tmp_path / "dict.txt")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rows: {s: str(row) for s, row in rows.items()}, id="texts"),
        pytest.param(lambda rows: {s: row + 1 for s, row in rows.items()}, id="shifted"),
        pytest.param(lambda rows: dict.fromkeys(rows, 0), id="all-one-row"),
        pytest.param(lambda rows: {(s,): row for s, row in rows.items()}, id="no-symbols"),
        pytest.param(list, id="list"),
    ],
)
def test_a_dictionary_in_the_file_gives_every_row_one_symbol(
    change: Callable[[dict[str, int]], Any], tmp_path: Path
) -> None:
    state = make_state("text2text_tiny")
    symbols = symbols_of(len(state["encoder.adaptor.embed_tokens.weight"]))
    indices = change({symbol: row for row, symbol in enumerate(symbols)})
    path = save({"model": state, "global_dict_indices": indices}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"T0742.*every row from 0 on one symbol"):
        import_checkpoint(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("encoder.layers.0.self_attn.q_proj.weight", torch.zeros(256, 9), "sizes that do not fit"),
        (
            "decoder.adaptor.text.token_rel_pos_table_list.1.weight",
            torch.zeros(511, 3),
            "sizes that do not fit: .*list.0.weight is",
        ),
        ("encoder.layers.0.fc1.weight", torch.zeros(8, 8).to_sparse(), "sparse or quantised"),
    ],
)
def test_tensors_that_cannot_be_of_one_model_are_refused(
    name: str, tensor: Tensor, told: str, tmp_path: Path
) -> None:
    state = make_state("text2text_tiny")
    assert name in state
    path = save(state | {name: tensor}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=f"T0741.*{told}"):
        import_checkpoint(path, tmp_path / "out")


def test_a_scale_factor_that_is_no_number_is_refused_and_none_is_the_default(
    tmp_path: Path,
) -> None:
    state = make_state("text2text_tiny")
    settings: dict[str, Any] = {"attn_scale_factor": "two"}
    content = {"model": state, "cfg": {"model": settings}}
    with pytest.raises(CheckpointError, match=r"T0741.*attn_scale_factor 'two'"):
        import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")
    settings["attn_scale_factor"] = None
    found = import_checkpoint(save(content, tmp_path / "state.pt"), tmp_path / "out")
    assert found.model.attn_scale_factor == ModelConfig().attn_scale_factor


def test_a_file_whose_numbers_have_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    path = save(make_state("text2text_tiny"), tmp_path / "state.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"T0740.*it is damaged"):
        import_checkpoint(path, tmp_path / "out")
    torch.serialization.set_crc32_options(False)
    try:
        save(make_state("text2text_tiny"), path)
    finally:
        torch.serialization.set_crc32_options(True)
    import_checkpoint(path, tmp_path / "out")


def test_a_dictionary_with_words_that_are_no_symbols_is_refused(tmp_path: Path) -> None:
    state = make_state("text2text_tiny")
    symbols = ["<s>", *(f"word {n}" for n in range(1221))]
    (tmp_path / "dict.txt").write_text("\n".join(symbols))
    path = save(state, tmp_path / "state.pt")
    with pytest.raises(PlanError, match='symbol 1 of the dictionary is "word 0"'):
        import_checkpoint(path, tmp_path / "out", symbols=tmp_path / "dict.txt")


def make_program(instruction: str = "[TEXT:a] -> [TEXT:b]", **sizes: Any) -> Program:
    """Return a program of the sizes of the golden cases."""
    model = ModelConfig(
        position="relative",
        width=256,
        num_heads=4,
        ffn_width=1024,
        num_encoder_layers=2,
        num_decoder_layers=2,
        max_positions=256,
    )
    planned = plan(Task("task", instruction), model=replace(model, **sizes), vocabulary=VOCABULARY)
    return Program(planned)


def to_ofa(name: str) -> str:
    """Return the name that OFA has for what OFASys keeps in the adapter of text."""
    side, _, rest = name.partition(".")
    if not rest.startswith("adaptor."):
        return name
    rest = rest.removeprefix("adaptor.").removeprefix("text.")
    rest = rest.replace("layernorm_position", "pos_ln")
    is_own = side == "decoder" and rest.startswith(("pos_q", "pos_k"))
    return f"{side}.self_{rest}" if is_own else f"{side}.{rest}"


def test_what_ofasys_has_no_name_for_is_told_or_refused_by_name(tmp_path: Path) -> None:
    names = ["vocabulary.weight_VC", "encoder.layers.0.ffn.up.weight", "adapter__x.weight"]
    write(tmp_path / "told", names)
    output = run("export-checkpoint", tmp_path / "told", tmp_path / "told.pt")
    assert "no name for it: adapter__x.weight" in output
    back = torch.load(tmp_path / "told.pt", weights_only=True)
    assert {*back["model"]} == {
        "encoder.adaptor.embed_tokens.weight",
        "encoder.layers.0.fc1.weight",
    }
    for number, name in enumerate(["encoder.layers.0.ffn.up.image.weight", "decoder.layers.0.x"]):
        write(tmp_path / str(number), [*names, name])
        with pytest.raises(CheckpointError, match=f"no name for {re.escape(name)}") as caught:
            export_checkpoint(tmp_path / str(number), tmp_path / "refused.pt")
        assert [problem.code for problem in caught.value.problems] == ["T0745"]
    write(tmp_path / "biases", names, relative_bias=False, absolute_position="bias")
    with pytest.raises(CheckpointError, match=r"T0745.*no model whose positions are biases"):
        export_checkpoint(tmp_path / "biases", tmp_path / "refused.pt")
    assert not (tmp_path / "refused.pt").exists()


def write(path: Path, names: list[str], **model: Any) -> None:
    """Write a checkpoint of parameters with these names, as of a run."""
    tensors = {SCOPES + name: torch.ones(6, 2) for name in names}
    record: dict[str, Any] = {
        "vocabulary": [["special", 4], ["mask", 1], ["text", 1]],
        "model": model,
    }
    write_checkpoint(path, tensors=tensors, record=record, artifacts={})


def test_the_dictionary_of_a_run_is_told_by_its_blocks_and_overwrites_nothing(
    tmp_path: Path,
) -> None:
    write(tmp_path / "run", ["vocabulary.weight_VC"])
    written = export_checkpoint(tmp_path / "run", tmp_path / "new" / "state.pt")
    expected = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<text>_0"]
    assert written.has_symbols
    told = torch.load(written.path, weights_only=True)["global_dict_indices"]
    assert told == {symbol: row for row, symbol in enumerate(expected)}
    with pytest.raises(CheckpointError, match="exists already"):
        export_checkpoint(tmp_path / "run", tmp_path / "new" / "state.pt")


def test_the_command_tells_what_it_found(tmp_path: Path) -> None:
    path, out = save(make_state("text2text_tiny"), tmp_path / "state.pt"), tmp_path / "out"
    done = CliRunner().invoke(app, ["import-checkpoint", str(path), str(out)])
    assert done.exit_code == 0
    assert "2 + 2 layers of 256, trunk none, 1,222 ids" in done.output
    assert "give it with --symbols" in done.output
    assert "decoder.adaptor.text.type_embedding.weight" in done.output
    plain = run("import-checkpoint", path, tmp_path / "plain", "--biases")
    assert "gains of its heads" not in plain
    patches = save(make_state("caption_patch_tiny"), tmp_path / "patches.pt")
    assert "gains of its heads" in run("import-checkpoint", patches, tmp_path / "patches")
    plain = run("import-checkpoint", patches, tmp_path / "tables", "--biases")
    assert "gains of its heads" not in plain
    again = tmp_path / "again"
    told = CliRunner().invoke(app, ["import-checkpoint", str(path), str(again), "--json"])
    assert json.loads(told.output)["model"]["position"] == "relative"
