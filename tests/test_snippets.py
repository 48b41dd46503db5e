"""What README.md and docs/ show is what happens.

Each file is one story, told in a folder of its own, from the first fenced block to the last:

========  ===================================================================================
python    runs, in one namespace with the other ``python`` and ``pycon`` blocks of the file; or is a
          file, if a comment names it: ``<!-- file: spectrum.py -->``
pycon     runs, and prints what it shows; ``...`` stands for anything
yaml      parses, and is then a file, if a comment names it: ``<!-- file: project.yaml -->``
json      the same
toml      the same
console   ``$ taskloom …`` and ``$ python …`` run and print what is shown, if anything is shown;
          ``$ make …`` names targets that exist
mermaid   is what a command wrote into a file that ends in ``.mmd``
text      is left alone, as is a block without a language
========  ===================================================================================

A comment on the line above a block makes the only exceptions: ``<!-- not run: REASON -->``, and
``<!-- slow: REASON -->`` for ``make test-all`` alone. A block inside a comment runs unseen.

The pages of docs/errors and of docs/views are many and small: there ``taskloom`` runs in the process of the
tests. A page of docs/errors with a slow block is slow as a whole.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .command_line import Done, run_here

ROOT = Path(__file__).parents[1]
ERRORS = ROOT / "docs" / "errors"
VIEWS = ROOT / "docs" / "views"
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(VIEWS.glob("*.md")),
    *sorted(ERRORS.glob("*.md")),
]

FENCE = re.compile(
    r"""(?:^<!--\ (?P<word>not\ run|slow|file):\ ?(?P<why>[^\n]*?)\ ?-->\n)?
        ^(?P<ticks>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=ticks)[ ]*$""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
FLAGS = doctest.ELLIPSIS


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """One fenced block; ``line`` is that of its first line of code."""

    path: Path
    line: int
    language: str
    code: str
    word: str
    why: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def read_snippets(path: Path) -> Iterator[Snippet]:
    text = path.read_text(encoding="utf-8")
    hidden = re.search(r"^( +```|~~~).*", text, re.MULTILINE)
    assert not hidden, f"{path.name}: a fence must start its line with ```, got {hidden}"
    for match in FENCE.finditer(text):
        yield Snippet(
            path=path,
            line=text.count("\n", 0, match.start("code")) + 1,
            language=match["language"].strip(),
            code=match["code"],
            word=match["word"] or "",
            why=match["why"] or "",
        )


def run_python(snippet: Snippet, namespace: dict[str, Any]) -> None:
    if snippet.word == "file":
        _write(snippet)
        return
    # The blank lines give the code the line numbers it has in the document.
    code = "\n" * (snippet.line - 1) + snippet.code
    exec(compile(code, str(snippet.path), "exec", dont_inherit=True), namespace)


def run_pycon(snippet: Snippet, namespace: dict[str, Any]) -> None:
    parser = doctest.DocTestParser()
    test = parser.get_doctest(snippet.code, {}, str(snippet), str(snippet.path), snippet.line - 1)
    test.globs = namespace
    report: list[str] = []
    results = doctest.DocTestRunner(optionflags=FLAGS).run(
        test, out=report.append, clear_globs=False
    )
    assert results.attempted, f"{snippet} shows no prompt"
    assert not results.failed, "".join(report)


def run_console(snippet: Snippet, namespace: dict[str, Any]) -> None:
    del namespace
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", snippet.code, re.MULTILINE)
    assert commands, f"{snippet} shows no prompt"
    for command, output in commands:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        if words[0] == "make":
            _check_targets(words[1:], snippet)
        elif words[0] in {"python", "taskloom"}:
            _check_output(words, output, snippet)
        else:
            pytest.fail(f'{snippet} shows "{words[0]}", which only a comment "not run" allows')


def find_diagram(snippet: Snippet, namespace: dict[str, Any]) -> None:
    del namespace
    written = {path.name: path.read_text("utf-8") for path in Path().glob("*.mmd")}
    assert snippet.code in written.values(), f"{snippet}: no command wrote this, but {written}"


def parse_data(snippet: Snippet, namespace: dict[str, Any]) -> None:
    del namespace
    parse = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[snippet.language]
    assert parse(snippet.code) is not None, f"{snippet} is empty"
    if snippet.word == "file":
        _write(snippet)


RUN = {
    "console": run_console,
    "json": parse_data,
    "mermaid": find_diagram,
    "pycon": run_pycon,
    "python": run_python,
    "toml": parse_data,
    "yaml": parse_data,
}


def tell(path: Path, *, is_whole: bool) -> None:
    """Run the blocks of a document in order, the slow ones only if ``is_whole``."""
    namespace: dict[str, Any] = {"__name__": "snippets"}
    for snippet in read_snippets(path):
        if snippet.word in {"not run", "slow"}:
            assert snippet.why, f"{snippet}: the comment gives no reason"
        is_run = snippet.word != "not run" and (is_whole or snippet.word != "slow")
        if is_run and snippet.language not in {"", "text"}:
            assert snippet.language in RUN, f'{snippet}: no check for "{snippet.language}"'
            RUN[snippet.language](snippet, namespace)


def is_slow(path: Path) -> bool:
    return any(snippet.word == "slow" for snippet in read_snippets(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT)).removeprefix("docs/")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folder that the story is told in, with the commands of this environment at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setattr(sys, "path", list(sys.path))  # what a story installs is its own
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "is_whole"),
    [
        *(
            pytest.param(path, False, id=name_of(path))
            for path in DOCUMENTS
            if path.parent != ERRORS or not is_slow(path)
        ),
        *(
            pytest.param(path, True, id=f"{name_of(path)}, slow blocks too", marks=pytest.mark.slow)
            for path in filter(is_slow, DOCUMENTS)
        ),
    ],
)
def test_documents_do_what_they_show(path: Path, is_whole: bool) -> None:  # noqa: FBT001
    tell(path, is_whole=is_whole)


def write_document(folder: Path, blocks: Mapping[str, str], comment: str = "") -> Path:
    fences = [f"{comment}```{language}\n{code}\n```\n" for language, code in blocks.items()]
    (folder / "story.md").write_text("\n".join(fences), encoding="utf-8")
    return folder / "story.md"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        pytest.param("python", "1 / 0", id="python raises"),
        pytest.param("pycon", ">>> 1 + 1\n3", id="pycon prints something else"),
        pytest.param("pycon", "no prompt here", id="pycon without a prompt"),
        pytest.param("yaml", "a: [1", id="yaml does not parse"),
        pytest.param("json", "{'a': 1}", id="json does not parse"),
        pytest.param("console", "$ make nonsense", id="unknown target"),
        pytest.param("console", "$ python -c 'print(1)'\n2", id="command prints something else"),
        pytest.param("console", "$ python -c 'raise SystemExit(1)'", id="command fails"),
        pytest.param("console", "$ rm -rf /", id="any other command"),
        pytest.param("mermaid", "flowchart TB", id="diagram that nothing wrote"),
        pytest.param("bash", "make test", id="unknown language"),
    ],
)
def test_a_wrong_snippet_fails(scratch: Path, language: str, code: str) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)):
        tell(write_document(scratch, {language: code}), is_whole=False)
    tell(write_document(scratch, {language: code}, "<!-- not run: test -->\n"), is_whole=False)


def test_a_fence_that_would_be_overlooked_is_refused(scratch: Path) -> None:
    (scratch / "story.md").write_text("- a list\n  ```python\n  1 / 0\n  ```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="must start its line"):
        tell(scratch / "story.md", is_whole=False)


def test_a_reason_is_owed_for_what_is_not_run(scratch: Path) -> None:
    with pytest.raises(AssertionError, match="gives no reason"):
        tell(write_document(scratch, {"python": "1"}, "<!-- not run: -->\n"), is_whole=False)


def test_blocks_share_names_and_files(scratch: Path) -> None:
    story = {
        "python": "value = 40 + 2",
        "pycon": ">>> value\n42",
        "yaml": "steps: 3",
        "console": "$ make test\n$ python -c \\\n  'print(open(\"p.yaml\").read())'\nst...3\n\n",
    }
    path = write_document(scratch, story)
    text = path.read_text("utf-8").replace("```yaml", "<!-- file: p.yaml -->\n```yaml")
    path.write_text(text, "utf-8")
    tell(path, is_whole=False)


def test_python_that_is_a_file_is_written_and_not_run(scratch: Path) -> None:
    path = write_document(scratch, {"python": "1 / 0"}, "<!-- file: folder/zero.py -->\n")
    tell(path, is_whole=False)
    assert (scratch / "folder" / "zero.py").read_text("utf-8") == "1 / 0\n"


def _write(snippet: Snippet) -> None:
    path = Path(snippet.why)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(snippet.code, encoding="utf-8")


def _check_targets(words: list[str], snippet: Snippet) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in words:
        is_target = re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
        assert is_target or "=" in target, f'{snippet}: no target "{target}" in the Makefile'


def _check_output(words: list[str], output: str, snippet: Snippet) -> None:
    is_page = snippet.path.parent in {ERRORS, VIEWS} and words[0] == "taskloom"
    done = run_here(*words[1:]) if is_page else _run_apart(words)
    code, printed = done.code, done.out + done.err
    is_refusal = re.search(r'error\[T|"error": \[', output) is not None
    assert (code != 0) == is_refusal, f"{snippet}: {words}\n{printed}"
    if output.strip():
        is_same = doctest.OutputChecker().check_output(output.rstrip(), printed.rstrip(), FLAGS)
        assert is_same, f"{snippet}: {words}\nexpected:\n{output}\ngot:\n{printed}"


def _run_apart(words: list[str]) -> Done:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)
