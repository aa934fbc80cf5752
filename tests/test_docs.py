"""What the documentation shows is run: each Python block of the README and of docs/, and the examples it includes.

The blocks of one page run one after the other in one namespace, as in a notebook, ``await`` included. They run in a
directory that holds ``brain.zarr`` and ``stations/00`` to ``stations/07``; ``https://example.com`` serves it. A block
that cannot run has the line ``<!-- not run: why -->`` above it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import zarr

import zarrs_async
from zarrs_async import exceptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import ModuleType

    from support.servers import RangeServer, S3Server

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^(?:<!-- not run:(?P<why>.*)-->\n)?```(?:python|py)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")
ROW = re.compile(r"^\| `(?P<name>[^`]+)` ", re.MULTILINE)


class Block(NamedTuple):
    """One block of code: its source, on the lines where it stands, and why it is not run."""

    code: str
    why: str | None


def blocks(page: Path) -> list[Block]:
    """Return the Python blocks of a page, each padded so that errors name the page's lines."""
    text = page.read_text()
    return [
        Block("\n" * text.count("\n", 0, found.start("code")) + found["code"], found["why"])
        for found in BLOCK.finditer(text)
    ]


def here(code: str, url: str) -> str:
    """Let what is shown run here: with the server's URL, and without TLS."""
    code = re.sub(
        r'(HTTPStore\.from_url\([^)]*|region="eu-central-1")', r'\1, client_options={"allow_http": True}', code
    )
    return code.replace("https://example.com", url)


async def run(code: str, name: str, namespace: dict[str, Any]) -> None:
    """Run a block that may await."""
    result = eval(compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)  # noqa: S307 - our own pages
    if inspect.isawaitable(result):
        await result


@pytest.fixture
def volume() -> npt.NDArray[np.uint16]:
    """Values of ``brain.zarr``."""
    return np.random.default_rng(0).integers(0, 1000, (40, 64, 64)).astype(np.uint16)


@pytest.fixture
def url(
    pipeline: ModuleType,
    range_server: RangeServer,
    volume: npt.NDArray[np.uint16],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Serve what the pages read, and go there."""
    assert pipeline is zarrs_async
    monkeypatch.chdir(range_server.root)
    brain = zarr.create_array("brain.zarr", shape=volume.shape, dtype="u2", shards=(40, 64, 64), chunks=(8, 16, 16))
    brain[:] = volume
    for number in range(8):
        station = zarr.create_array(f"stations/{number:02}", shape=(1000,), dtype="f8", chunks=(100,))
        station[:] = np.arange(1000.0)
    return range_server.url


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    """Undo what a page does to the log of the process."""
    loggers = [logging.getLogger(), logging.getLogger("zarrs_async")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment say where the bucket is, as it does for users."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT", s3_server.endpoint)


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
async def test_each_block_runs(page: Path, url: str, request: pytest.FixtureRequest) -> None:
    code = [block.code for block in blocks(page) if block.why is None]
    if any("S3Store" in block for block in code):
        request.getfixturevalue("s3_environment")
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in code:
        await run(here(block, url), str(page), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    text = page.read_text()
    assert len(blocks(page)) == len(re.findall(r"^ *```(?:python|py)", text, re.MULTILINE))
    assert all(block.why.strip() for block in blocks(page) if block.why is not None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text()):
        target = page.parent / link["path"] if link["path"] else page
        assert target.exists(), link[0]
        if link["anchor"]:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert link["anchor"] in slugs, link[0]


@pytest.mark.parametrize(("name", "page"), [("web", "web-service"), ("bucket", "buckets")])
def test_the_guide_shows_the_example_as_it_is(name: str, page: str) -> None:
    shown = [block.code.lstrip("\n") for block in blocks(ROOT / f"docs/guides/{page}.md")]
    assert (ROOT / f"examples/{name}.py").read_text() in shown


class Client:
    """A client of an ASGI application: what it sends, then its disconnection once that is set; and what it was sent."""

    def __init__(self, *messages: str) -> None:
        self.messages = [{"type": message} for message in messages]
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        """Give the application the next message."""
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Take what the application sends."""
        self.sent.append(message)


async def web_example(url: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Start and end the example of a web service; return its namespace, what it sent, and its state."""
    path = ROOT / "examples/web.py"
    namespace: dict[str, Any] = {"__name__": "web"}
    await run(here(path.read_text(), url), str(path), namespace)
    state: dict[str, Any] = {}
    server = Client("lifespan.startup", "lifespan.shutdown")
    await namespace["app"]({"type": "lifespan", "state": state}, server.receive, server.send)
    return namespace, server.sent, state


async def started_web_example(url: str) -> tuple[dict[str, Any], Callable[[str, Client], Coroutine[Any, Any, None]]]:
    """Start the example of a web service; return its namespace, and what lets a client ask it for a path."""
    web, sent, state = await web_example(url)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    async def ask(path: str, client: Client) -> None:
        await web["app"]({"type": "http", "path": path, "state": state}, client.receive, client.send)

    return web, ask


async def test_the_web_example_answers_with_a_plane(url: str, volume: npt.NDArray[np.uint16]) -> None:
    _, ask = await started_web_example(url)
    for number in (0, 17, 39):
        await ask(f"/{number}", client := Client("http.request"))
        start, body = client.sent
        assert start["status"] == 200
        assert body["body"] == volume[number].tobytes()


@pytest.mark.parametrize("path", ["/", "/40", "/-1", "/favicon.ico", "/1/2", "/1.5", "/²"])
async def test_the_web_example_has_no_other_plane(url: str, path: str) -> None:
    _, ask = await started_web_example(url)
    await ask(path, client := Client("http.request"))
    assert client.sent[0]["status"] == 404


async def test_the_web_example_gives_up_in_time(url: str, range_server: RangeServer) -> None:
    web, ask = await started_web_example(url)
    web["TIMEOUT_S"] = 0.05
    range_server.reset_counts()
    range_server.hold("/c/")
    await ask("/17", client := Client("http.request"))
    assert client.sent[0]["status"] == 504
    await range_server.wait_async(aborted=1, idle=True)


async def test_the_web_example_stops_when_the_client_has_gone(url: str, range_server: RangeServer) -> None:
    web, ask = await started_web_example(url)
    web["TIMEOUT_S"] = 100
    range_server.reset_counts()
    range_server.hold("/c/")
    asked = asyncio.create_task(ask("/17", client := Client("http.request")))
    await range_server.wait_async(held=1)
    client.gone.set()
    await asked
    assert client.sent == []
    await range_server.wait_async(aborted=1, idle=True)


async def test_the_web_example_says_why_it_cannot_start(url: str) -> None:
    _, [failed], state = await web_example(f"{url}/nothing-here")
    assert failed["type"] == "lifespan.startup.failed"
    assert "nothing-here/brain.zarr cannot be opened" in failed["message"]
    assert state == {}


@pytest.mark.usefixtures("s3_environment")
async def test_the_bucket_example_runs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = zarrs_async.stats()
    path = ROOT / "examples/bucket.py"
    namespace: dict[str, Any] = {"__name__": "bucket"}
    await run(here(path.read_text(), url), str(path), namespace)
    await namespace["main"]()
    after = zarrs_async.stats()
    assert after["fallback_batches"] == before["fallback_batches"]
    assert after["batches"] - before["batches"] == 101
    assert "100 boxes, 1638400 bytes" in capsys.readouterr().out


def test_the_reference_names_every_counter() -> None:
    assert ROW.findall((ROOT / "docs/reference/stats.md").read_text()) == list(zarrs_async.stats())


def test_the_reference_names_every_exception() -> None:
    shown = ROW.findall((ROOT / "docs/reference/exceptions.md").read_text())
    assert sorted(shown) == sorted(exceptions.__all__)


@pytest.mark.parametrize("page", ["README.md", "docs/reference/options.md"])
def test_the_reference_names_every_option(page: str) -> None:
    asked = set(
        re.findall(r'"((?:codec_pipeline|threading|array)\.\w+)"', (ROOT / "python/zarrs_async/_config.py").read_text())
    )
    shown = set(ROW.findall((ROOT / page).read_text()))
    assert asked | {"codec_pipeline.path", "array.write_empty_chunks"} <= shown


def test_the_architecture_names_every_file() -> None:
    named = set(re.findall(r"`([a-z0-9_/]+\.(?:py|rs))`", (ROOT / "docs/concepts/architecture.md").read_text()))
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "python").rglob("*.py")}
    there |= {str(path.relative_to(ROOT / "crates")) for path in (ROOT / "crates").glob("*/src/**/*.rs")}
    assert {name for name in named if "/" in name} == {
        name for name in there if Path(name).name not in {"__init__.py", "lib.rs", "mod.rs"}
    }
