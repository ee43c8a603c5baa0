"""Fixtures shared by the tests."""

import os

# Before torch is imported: barriers between threads cost more than tiny models do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public recordings, which is not part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LAPS_ENV_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no recorded data: set LAPS_ENV_DATA, or put shared/data beside the repository")
    return folder


@pytest.fixture
def lookup_scenario(tmp_path: Path) -> str:
    """A file's scenario, of a recording without confidences and without refreshed predictions."""
    named = files("laps_env") / "data" / "scenarios" / "mixed-serial-135m.toml"
    other = named.read_text().replace('"smollm2-135m"', '"smollm2-135m-lookup"')
    (tmp_path / "lookup.toml").write_text(other)
    return str(tmp_path / "lookup.toml")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Barriers between threads cost more than tiny models do."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium of the machine, offline."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of it, which in the end must have logged no error and asked for nothing but files."""
    opened = browser.new_page(viewport={"width": 1200, "height": 1400})
    complaints: list[str] = []

    def console(said: Any) -> None:
        if said.type == "error":
            complaints.append(said.text)

    def request(asked: Any) -> None:
        if not asked.url.startswith("file:"):
            complaints.append(asked.url)

    opened.on("console", console)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", request)
    yield opened
    assert not complaints
