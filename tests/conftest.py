"""Fixtures shared by the tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public recordings, which is not part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LAPS_ENV_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no recorded data: set LAPS_ENV_DATA, or put shared/data beside the repository")
    return folder


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
    opened.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request", lambda asked: asked.url.startswith("file:") or complaints.append(asked.url)
    )
    yield opened
    assert not complaints
