"""How each library opens, reads and writes one array, behind one interface.

zarr-python, under the codec pipeline named in ``zarr.config``, and TensorStore. Neither
is imported before a worker process asks for it, so that no process carries the other's.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.cases import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from zarr.abc.store import Store

    from benchmarks.cases import Place, Selection


class Handle(Protocol):
    """An open array."""

    async def read(self, selection: Selection) -> npt.NDArray[Any]:
        """Return the selected values."""
        ...

    async def write(self, selection: Selection, value: npt.NDArray[Any]) -> None:
        """Store `value` at the selection."""
        ...


class Client(Protocol):
    """A library in one process, with whatever it shares between arrays."""

    reads_many: bool
    """Whether its arrays read many selections in one call, `read_many`."""

    async def open(self, place: Place, path: str, *, writable: bool) -> Handle:
        """Open the array at `path` below `place`."""
        ...

    def fallbacks(self) -> int:
        """Return how many batches the library has handed to a slower one so far."""
        ...

    def memory_limit(self) -> int | None:
        """Return the bytes that the library promises to hold at most; ``None`` without a promise."""
        ...

    def carry(self) -> None:
        """Have other libraries read and write through this one.

        Raises
        ------
        Unavailable
            If it cannot.
        """
        ...


class ZarrClient:
    """zarr-python's asynchronous API under one codec pipeline."""

    reads_many = False

    def __init__(self, pipeline: str, settings: Mapping[str, Any]) -> None:
        import zarr  # noqa: PLC0415
        from zarr.registry import (  # noqa: PLC0415
            fully_qualified_name,
            register_pipeline,
        )

        module, _, name = pipeline.rpartition(".")
        self._package = import_module(module)
        if module == "zarrs":
            _count_fallbacks(self._package)
        cls = getattr(self._package, name)
        register_pipeline(cls)
        zarr.config.set({"codec_pipeline.path": fully_qualified_name(cls), **settings})
        self._stores: dict[tuple[Place, bool], Store] = {}

    async def open(self, place: Place, path: str, *, writable: bool) -> Any:
        """Open an array; arrays of one place share one store object."""
        from zarr.api.asynchronous import open_array  # noqa: PLC0415

        store = self._stores.get((place, writable))
        if store is None:
            store = _zarr_store(place, read_only=not writable)
            self._stores[place, writable] = store
        mode = "r+" if writable else "r"
        return ZarrHandle(await open_array(store=store, path=path, mode=mode, zarr_format=3))

    def fallbacks(self) -> int:
        """Return the batches that went to zarr's own pipeline in place of the named."""
        if self._package.__name__ == "zarrs":
            return _CountedFallback.batches
        stats = getattr(self._package, "stats", None)
        return int(stats()["fallback_batches"]) if stats else 0

    def memory_limit(self) -> int | None:
        """Return our pipeline's own limit; the others have none."""
        if self._package.__name__ != "zarrs_async":
            return None
        # Not public: it is what the defaults come to on this machine.
        options = import_module("zarrs_async._config").Options.from_config()
        return int(options.memory_bytes)

    def carry(self) -> None:
        """Do nothing: the pipeline is that of the process."""


class ZarrHandle:
    """A zarr array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    async def read(self, selection: Selection) -> npt.NDArray[Any]:
        """Read by the method of the selection's kind."""
        index = selection.native()
        match selection.kind:
            case "basic":
                values = await self.array.getitem(index or ...)
            case "orthogonal":
                values = await self.array.get_orthogonal_selection(index)
            case "points":
                values = await self.array.get_coordinate_selection(index)
        result: npt.NDArray[Any] = values
        return result

    async def write(self, selection: Selection, value: npt.NDArray[Any]) -> None:
        """Write by basic indexing, the only kind the asynchronous API can write."""
        await self.array.setitem(selection.native() or ..., value)


class DirectClient(ZarrClient):
    """Our arrays that need no indexing of zarr-python's."""

    reads_many = True

    def __init__(self, pipeline: str, settings: Mapping[str, Any]) -> None:
        super().__init__(pipeline, settings)
        self._direct = self._package.DirectArray

    async def open(self, place: Place, path: str, *, writable: bool) -> Handle:
        """Open an array."""
        handle = await super().open(place, path, writable=writable)
        return DirectHandle(self._direct(handle.array))

    def carry(self) -> None:
        """Refuse: libraries read through the pipeline."""
        raise Unavailable("no library knows such arrays")


class DirectHandle:
    """A direct array."""

    def __init__(self, array: Any) -> None:
        self._array = array

    async def read(self, selection: Selection) -> npt.NDArray[Any]:
        """Read by basic or orthogonal indexing."""
        values: npt.NDArray[Any] = await self._array.read(_of_direct(selection))
        return values

    async def read_many(self, selections: Sequence[Selection]) -> list[npt.NDArray[Any]]:
        """Read in one batch."""
        return list(await self._array.read_many([_of_direct(selection) for selection in selections]))

    async def write(self, selection: Selection, value: npt.NDArray[Any]) -> None:
        """Write by basic or orthogonal indexing."""
        await self._array.write(_of_direct(selection), value)


def _of_direct(selection: Selection) -> Any:
    if selection.kind == "points":
        raise Unavailable("it reads no points")
    return selection.native() or ...


class TensorStoreClient:
    """TensorStore's zarr3 driver, one context for all arrays."""

    reads_many = False

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._tensorstore = import_module("tensorstore")
        self._context = self._tensorstore.Context(dict(settings))

    async def open(self, place: Place, path: str, *, writable: bool) -> Handle:
        """Open an array."""
        spec = {"driver": "zarr3", "kvstore": _kvstore(place, path, writable=writable)}
        return TensorStoreHandle(
            await self._tensorstore.open(spec, context=self._context, open=True, read=True, write=writable)
        )

    def fallbacks(self) -> int:
        """Return zero: there is nothing to fall back to."""
        return 0

    def memory_limit(self) -> int | None:
        """Return nothing: its cache has a limit, what it reads has none."""
        return None

    def carry(self) -> None:
        """Refuse: no library here knows it."""
        raise Unavailable("only zarr-python has pipelines")


class TensorStoreHandle:
    """A TensorStore."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def _view(self, selection: Selection) -> Any:
        index = selection.native()
        match selection.kind:
            case "basic":
                return self._array[index] if index else self._array
            case "orthogonal":
                return self._array.oindex[index]
            case "points":
                return self._array.vindex[index]

    async def read(self, selection: Selection) -> npt.NDArray[Any]:
        """Read into a new array."""
        values: npt.NDArray[Any] = await self._view(selection).read()
        return values

    async def write(self, selection: Selection, value: npt.NDArray[Any]) -> None:
        """Write, and wait until it is stored."""
        await self._view(selection).write(value)


class _CountedFallback:
    """How often zarrs-python's pipeline has handed a batch to zarr's."""

    batches = 0


def _count_fallbacks(package: Any) -> None:
    """Let zarrs-python fall back to a pipeline that counts: it does not tell itself."""
    pipeline = import_module(f"{package.__name__}.pipeline")
    base: Any = pipeline.BatchedCodecPipeline

    class CountingPipeline(base):  # type: ignore[misc]
        async def read(self, *args: Any, **kwargs: Any) -> Any:
            _CountedFallback.batches += 1
            return await super().read(*args, **kwargs)

        async def write(self, *args: Any, **kwargs: Any) -> Any:
            _CountedFallback.batches += 1
            return await super().write(*args, **kwargs)

    pipeline.BatchedCodecPipeline = CountingPipeline  # type: ignore[attr-defined]


def _zarr_store(place: Place, *, read_only: bool) -> Store:
    """Return the store by which zarr-python reaches a place."""
    from zarr import storage  # noqa: PLC0415

    match place.kind:
        case "local":
            return storage.LocalStore(place.root, read_only=read_only)
        case "http":
            obstore = import_module("obstore.store")
            http = obstore.HTTPStore(place.root, client_options={"allow_http": True})
            return storage.ObjectStore(http, read_only=read_only)
        case "s3":
            return storage.ObjectStore(_bucket(place), read_only=read_only)
        case "s3fs":
            filesystem = import_module("s3fs").S3FileSystem(
                endpoint_url=place.endpoint,
                key=place.key,
                secret=place.secret,
                asynchronous=True,
                skip_instance_cache=True,
            )
            return storage.FsspecStore(filesystem, path=place.root, read_only=read_only)


def _bucket(place: Place) -> Any:
    """Return obstore's store for the bucket of `place`."""
    return import_module("obstore.store").S3Store(
        place.root,
        endpoint=place.endpoint,
        access_key_id=place.key,
        secret_access_key=place.secret,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def _kvstore(place: Place, path: str, *, writable: bool) -> dict[str, Any]:
    """Return TensorStore's key-value store for an array."""
    match place.kind:
        case "local":
            return {"driver": "file", "path": f"{place.root}/{path}/"}
        case "http" if writable:
            message = "TensorStore's http driver is read-only"
            raise Unavailable(message)
        case "http":
            return {"driver": "http", "base_url": f"{place.root}/{path}/"}
        case "s3":
            # The only door for credentials that are not in a file.
            os.environ["AWS_ACCESS_KEY_ID"] = place.key
            os.environ["AWS_SECRET_ACCESS_KEY"] = place.secret
            return {
                "driver": "s3",
                "bucket": place.root,
                "endpoint": place.endpoint,
                "aws_region": "us-east-1",
                "aws_credentials": {"type": "environment"},
                "path": f"{path}/",
            }
        case "s3fs":
            message = "TensorStore does not know fsspec"
            raise Unavailable(message)
