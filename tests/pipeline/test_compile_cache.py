"""Compiled code is packed whole, and unpacked where it fits and nowhere else."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import typer.testing

from taskloom.graph.errors import TrainingError
from taskloom.pipeline.cli import app
from taskloom.pipeline.model.compile_cache import load_compiled, pack_compiled
from taskloom.pipeline.model.compile_key import CompileKey, list_sources
from taskloom.storage import files

RUNNER = typer.testing.CliRunner()
COMPILED = {
    "fxgraph/ab/one": b"a graph",
    "ck/two.so": b"machine code" * 1000,
    "triton/0/KEY/three.cubin": b"code of a GPU",
}


def write_compiled(folder: Path) -> None:
    for name, content in COMPILED.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_compiled(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of torch's compiler that holds something."""
    folder = tmp_path / "here"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    write_compiled(folder)
    return folder


def rewrite_key(archive: Path, **parts: str) -> None:
    """Let the archive be of a machine with other ``parts``."""
    with tarfile.open(archive) as old:
        members = [
            (member, file.read())
            for member in old.getmembers()
            if (file := old.extractfile(member)) is not None
        ]
    with tarfile.open(archive, "w:gz") as new:
        for number, (member, content) in enumerate(members):
            if not number:
                manifest = json.loads(content)
                manifest["key"] |= parts
                content = json.dumps(manifest).encode()  # noqa: PLW2901 - it is what is written
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))


def test_what_is_packed_is_unpacked_elsewhere_byte_for_byte(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (compiled / "locks").mkdir()
    (compiled / "locks" / "one.lock").touch()
    packed = pack_compiled(tmp_path / "compiled.tar.gz")
    assert packed.num_files == len(COMPILED)
    assert packed.num_bytes == sum(map(len, COMPILED.values()))
    shutil.rmtree(compiled)
    there = tmp_path / "there"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(there))
    loaded = load_compiled(packed.path)
    assert (loaded.is_hit, loaded.num_new, loaded.num_known) == (True, len(COMPILED), 0)
    assert read_compiled(there) == COMPILED


def test_code_of_a_gpu_goes_where_triton_looks(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_compiled(tmp_path / "compiled.tar.gz")
    shutil.rmtree(compiled)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    load_compiled(packed.path)
    assert read_compiled(tmp_path / "triton") == {"KEY/three.cubin": b"code of a GPU"}
    assert len(read_compiled(compiled)) == len(COMPILED) - 1


def test_what_is_there_already_stays(compiled: Path, tmp_path: Path) -> None:
    packed = pack_compiled(tmp_path / "compiled.tar.gz")
    (compiled / "fxgraph/ab/one").write_bytes(b"newer")
    (compiled / "ck/two.so").unlink()
    loaded = load_compiled(packed.path)
    assert (loaded.num_new, loaded.num_known) == (1, 2)
    assert read_compiled(compiled) == COMPILED | {"fxgraph/ab/one": b"newer"}


@pytest.mark.parametrize("part", [*CompileKey.here().to_plain()])
def test_code_of_another_machine_is_a_miss_that_is_told_and_no_error(
    part: str, compiled: Path, tmp_path: Path
) -> None:
    packed = pack_compiled(tmp_path / "compiled.tar.gz")
    rewrite_key(packed.path, **{part: "another"})
    shutil.rmtree(compiled)
    told = RUNNER.invoke(app, ["cache", "load", str(packed.path)])
    assert told.exit_code == 0
    assert told.output.startswith("miss: ")
    assert f'{part} was "another"' in told.output
    assert not read_compiled(compiled)


def test_the_key_follows_the_source_of_all_that_is_compiled() -> None:
    assert {
        "ops/device/layer.py",
        "ops/device/attention/kernels.py",
        "ops/device/relative/layer.py",
        "pipeline/model/program.py",
    } <= list_sources().keys()


def test_the_command_line_packs_and_loads(compiled: Path, tmp_path: Path) -> None:
    archive = tmp_path / "compiled.tar.gz"
    told = RUNNER.invoke(app, ["cache", "pack", str(archive)])
    assert told.output.startswith(f"{archive}: 3 files, ")
    shutil.rmtree(compiled)
    told = RUNNER.invoke(app, ["cache", "load", str(archive)])
    assert told.output == f"hit: 3 files of {archive} are new, 0 were here\n"
    assert read_compiled(compiled) == COMPILED


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_of_a_torn_archive_nothing_is_unpacked(
    share: float, compiled: Path, tmp_path: Path
) -> None:
    packed = pack_compiled(tmp_path / "compiled.tar.gz")
    content = packed.path.read_bytes()
    packed.path.write_bytes(content[: int(len(content) * share)])
    shutil.rmtree(compiled)
    with pytest.raises(TrainingError, match=r"T0750.*damaged"):
        load_compiled(packed.path)
    assert not read_compiled(compiled)


def test_an_archive_that_is_not_there_is_told(compiled: Path) -> None:
    with pytest.raises(TrainingError, match=r"T0750.*nowhere\.tar\.gz: No such file"):
        load_compiled(compiled / "nowhere.tar.gz")


def test_nothing_is_packed_where_nothing_is_compiled(compiled: Path, tmp_path: Path) -> None:
    shutil.rmtree(compiled)
    with pytest.raises(TrainingError, match="T0751"):
        pack_compiled(tmp_path / "compiled.tar.gz")
    assert list(tmp_path.iterdir()) == [compiled]


def test_a_pack_that_is_interrupted_leaves_nothing(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "publish", stop)
    with pytest.raises(KeyboardInterrupt):
        pack_compiled(tmp_path / "compiled.tar.gz")
    assert list(tmp_path.iterdir()) == [compiled]
