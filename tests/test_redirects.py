"""Redirects to another server: followed, without the credentials that HTTP knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from support.remote import opened, stored
from support.servers import RangeServer, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# Our pipeline is on, and nothing may fall back.
pytestmark = pytest.mark.usefixtures("native")

VALUES = np.arange(64, dtype="uint16") + 1


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """Start a server that holds the chunk to which another server points."""
    with RangeServer(tmp_path_factory.mktemp("elsewhere")) as server:
        stored(server.root / "a", VALUES, chunks=(64,))
        yield server


def pointed(server: RangeServer, elsewhere: RangeServer) -> None:
    """Have one server point to the other for the chunk, of which it has zeros."""
    stored(server.root / "a", VALUES * 0, chunks=(64,), config={"write_empty_chunks": True})
    location = {"Location": f"{elsewhere.url}/a/c/0"}
    server.config(rules=[Rule(action="status", path="c/0$", status=307, headers=location)])


async def test_redirect_to_another_server_is_followed(range_server: RangeServer, elsewhere: RangeServer) -> None:
    pointed(range_server, elsewhere)
    array = await opened(range_server)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)


@pytest.mark.parametrize("name", ["Authorization", "Cookie"])
async def test_credentials_do_not_follow_a_redirect_to_another_server(
    range_server: RangeServer, elsewhere: RangeServer, native: ModuleType, name: str
) -> None:
    pointed(range_server, elsewhere)
    headers: Any = {name: "abc"}
    array = await opened(range_server, default_headers=headers)
    np.testing.assert_array_equal(await array.getitem(...), VALUES)
    # Whoever asks with the header is answered now.
    elsewhere.config(require_header=f"{name}: abc")
    with pytest.raises(native.exceptions.StorePermissionError, match="401"):
        await array.getitem(...)
    direct = await opened(elsewhere, default_headers=headers)
    np.testing.assert_array_equal(await direct.getitem(...), VALUES)
