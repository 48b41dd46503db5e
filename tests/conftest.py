"""What every test stands on: a clean environment, and a count of what could not run here."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from .s3 import serving

# Variables that change what a program prints or computes, whoever set them.
UNWANTED = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "DASK_", "TASKLOOM_", "TORCH_")

# Without a GPU its interpreter runs Triton's kernels. That is decided when Triton is first imported,
# and the compiler of torch, which some tests import, imports it.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

# A deadline measures the machine: with two workers on two busy cores a first call may take seconds.
hypothesis.settings.register_profile(
    "unhurried",
    hypothesis.settings.get_profile(hypothesis.settings.get_current_profile_name()),
    deadline=None,
)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def make_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder by its name and what fills it, once for all processes that tests run in."""
    root = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        path, mark = root / name, root / f"{name}.made"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not mark.exists():
                path.mkdir()
                fill(path)
                mark.touch()
        return path

    return make


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget compiled code before and after."""
    import torch  # noqa: PLC0415 - seconds, for the tests that compile

    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def clean_environ() -> Iterator[None]:
    """Run the test without `UNWANTED` variables, and undo what it does to the environment."""
    original = dict(os.environ)
    for name in original:
        if name.startswith(UNWANTED):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(original)


@pytest.fixture(scope="session", autouse=True)
def heard_interrupts() -> None:
    """Hear Ctrl-C, here and in processes that tests start: what a shell runs in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Let torch compute with one thread: tensors here are tiny, and two would wait for each other."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of two worker processes on this machine, which find the functions of these tests."""
    distributed: Any = pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as environment:
        environment.syspath_prepend(Path(__file__).parent / "pipeline")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache of this test, which copies of what lies behind URLs go to."""
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """The options of a server that speaks S3."""
    with serving() as options:
        yield options


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``device`` where torch finds no accelerator."""
    on_device = [item for item in items if item.get_closest_marker("device")]
    if on_device and not _has_accelerator():
        for item in on_device:
            item.add_marker(pytest.mark.skip(reason="no accelerator"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say last how many tests are left unproved on this machine."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    num_skipped = sum("device" in report.keywords for report in skipped)
    if num_skipped:
        verb = "test needs" if num_skipped == 1 else "tests need"
        was = "was" if num_skipped == 1 else "were"
        terminalreporter.line(f"{num_skipped} {verb} an accelerator and {was} not run")


def _has_accelerator() -> bool:
    import torch  # noqa: PLC0415  # takes seconds, and most runs select no test that needs it

    return torch.cuda.is_available()
