"""The page of the tile server in a real browser: what it draws, what panning asks for, and what it gives up.

``make test-browser`` runs this; it needs Chromium, which no package index has.
"""

from __future__ import annotations

import importlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.storage import LocalStore

from examples.tile_server.data import Scale, temperatures, write_pyramid
from support.program import Serving, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.servers import RangeServer

pytestmark = pytest.mark.skipif("ZARRS_ASYNC_TEST_BROWSER" not in os.environ, reason="make test-browser runs it")

NUMBERS = temperatures(3, 1024)
VIEW = {"width": 500, "height": 300}
# What the page shows at x, y, as red, green and blue.
PIXEL = "([x, y]) => [...document.querySelector('#map').getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"


@pytest.fixture
async def stored(range_server: RangeServer) -> str:
    """Write a pyramid to where the range server serves it, and return its URL."""
    await write_pyramid(LocalStore(range_server.root), NUMBERS)
    return range_server.url


@pytest.fixture
def server(stored: str) -> Iterator[Serving]:
    """Start the example over the pyramid of the range server."""
    with serving("examples/tile_server", "--port", 0, "--data", stored) as server:
        yield server


@pytest.fixture
async def page() -> AsyncIterator[Any]:
    """Open a browser with an empty page, which fails the test at an error in its script."""
    api: Any = importlib.import_module("playwright.async_api")  # installed for these tests only
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    path = next(filter(None, found), None)
    assert path, "no Chromium is installed"
    errors: list[Any] = []
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = await browser.new_page(viewport=VIEW)
        page.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108 - it takes no built-in function
        yield page
        await browser.close()
    assert errors == []


async def shown(page: Any, count: int) -> None:
    """Wait until the page has shown `count` tiles."""
    await page.wait_for_function(
        f"parseInt(document.querySelector('#counts').value.match(/shown (\\d+)/)?.[1]) >= {count}"
    )


async def test_the_map_shows_the_numbers_in_colours_and_pans(page: Any, server: Serving) -> None:
    from examples.tile_server.app import PALETTE  # noqa: PLC0415 - the fixture has set the pipeline

    await page.goto(server.url)
    await shown(page, 4)
    level = NUMBERS[0, ::2, ::2]
    for x, y in ((0, 0), (499, 299), (255, 256)):
        assert await page.evaluate(PIXEL, [x, y]) == PALETTE[level[y, x]].tolist()
    await page.mouse.move(400, 200)
    await page.mouse.down()
    await page.mouse.move(390, 150)
    await page.mouse.up()
    for x, y in ((0, 0), (300, 200)):
        assert await page.evaluate(PIXEL, [x, y]) == PALETTE[level[y + 50, x + 10]].tolist()


async def test_a_click_shows_the_series(page: Any, server: Serving) -> None:
    await page.goto(server.url)
    await shown(page, 4)
    await page.mouse.click(30, 250)
    caption = page.locator("figcaption")
    await caption.wait_for()
    degrees = Scale().degrees(NUMBERS[:, 500, 60])
    assert await caption.inner_text() == f"row 500, column 60: {np.min(degrees):g} to {np.max(degrees):g} °C"


async def test_what_leaves_the_view_leaves_the_wire(page: Any, server: Serving, range_server: RangeServer) -> None:
    range_server.reset_counts()
    range_server.hold("/c/")
    await page.goto(server.url)
    await range_server.wait_async(held=1)
    await page.evaluate("view.x = 1e6; update()")
    # No answer has been let go: what is no longer in flight has been given up.
    assert (await range_server.wait_async(aborted=1, idle=True))["answered"] == 0
    await page.wait_for_function("counts.aborted == 4")
    await page.evaluate("view.x = 0")
    range_server.release()
    await page.evaluate("update()")
    await shown(page, 4)
    assert "failed 0" in await page.locator("#counts").inner_text()
