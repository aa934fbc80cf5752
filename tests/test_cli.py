"""The command line: what each command prints and how it ends, in words and in JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from oracle import OURS
from typer.testing import CliRunner
from zarr.storage import LocalStore

from support.remote import stored

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from typer.testing import Result

    from support.servers import RangeServer

VALUES = np.arange(64 * 64, dtype="int32").reshape(64, 64)


def run(*arguments: str) -> Result:
    """Run the command line in this process."""
    from zarrs_async.cli.app import app  # noqa: PLC0415  # tests of the servers need no built extension

    return CliRunner().invoke(app, arguments)


def told(*arguments: str) -> Any:
    """Return what a command prints as JSON, which must end well."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def failed(*arguments: str) -> str:
    """Return what a command says of an error that its user can mend."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Write a group with two arrays to a directory."""
    group = zarr.create_group(LocalStore(tmp_path / "group.zarr"))
    group.create_array("a", data=VALUES, chunks=(16, 16))
    group.create_array("below/b", data=VALUES, chunks=(8, 8), shards=(32, 32))
    return str(tmp_path / "group.zarr")


def test_doctor_tells_how_things_stand(pipeline: ModuleType) -> None:
    found = told("doctor")
    assert found["active"] is True
    assert found["versions"]["zarrs-async"] == pipeline.__version__
    assert found["options"]["memory_bytes"] == found["machine"]["automatic memory limit"]
    assert set(found["tests"].values()) == {None}
    assert len(found["tests"]) == 3
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        result = run("doctor")
    assert result.exit_code == 0
    assert "zarrs_async is off: codec_pipeline.path is 'zarr.core.codec_pipeline" in result.stdout
    assert "ok: cancel a read" in result.stdout


def test_doctor_fails_where_something_is_wrong(pipeline: ModuleType) -> None:
    assert pipeline.stats()["batches"] >= 0
    with zarr.config.set({"codec_pipeline.memory_limit_bytes": -1}):
        result = run("doctor")
    assert result.exit_code == 1
    assert "codec_pipeline.memory_limit_bytes is -1, but must be" in result.stdout
    assert "FAILED: cancel a read: ConfigError" in result.stdout


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("selection", "chunks"),
    [(None, 16), ("...", 16), ("0:16", 4), ("[0, 5]", 1), ("..., -1", 4), ("::20, 3:20", 8), ("-20:", 8)],
)
def test_explain_takes_a_selection(place: str, selection: str | None, chunks: int) -> None:
    arguments = [] if selection is None else [selection]
    # What begins with a minus would be an option.
    found = run("explain", "--json", "--", f"{place}/a", *arguments)
    assert json.loads(found.stdout)["chunks"] == chunks


@pytest.mark.usefixtures("pipeline")
def test_explain_says_it_in_words(place: str) -> None:
    assert run("explain", f"{place}/a", "0:8").stdout == (
        "zarrs_async reads 4 chunks (bytes, zstd; native store) from files in 1 job\n"
    )


def test_explain_of_a_group_tells_of_each_array(place: str) -> None:
    assert {name: one["pipeline"] for name, one in told("explain", place).items()} == {
        "a": "zarrs_async",
        "below/b": "zarrs_async",
    }
    assert len(run("explain", place).stdout.splitlines()) == 2


def test_explain_takes_a_url(range_server: RangeServer) -> None:
    stored(range_server.root / "a", VALUES, chunks=(16, 16))
    found = told("explain", f"{range_server.url}/a", "0")
    assert (found["store"], found["requests"]) == ("native", 4)
    assert f"there is no zarr array or group at {range_server.url}/b" in failed("explain", f"{range_server.url}/b")


def test_errors_say_what_to_do(place: str, tmp_path: Path) -> None:
    assert f"there is no zarr array or group at {tmp_path}/none" in failed("explain", f"{tmp_path}/none")
    assert "'x' is no selection: give integers, slices" in failed("explain", f"{place}/a", "x")
    assert "too many indices" in failed("explain", f"{place}/a", "1, 2, 3")
    assert "cannot be opened" in failed("explain", "gopher://somewhere/a")
    assert f"{place} is a group: give one of its arrays (a)" in failed("bench", place)
    zarr.create_array(LocalStore(tmp_path / "empty.zarr"), shape=(0,), dtype="u1")
    assert "has no elements to read" in failed("bench", f"{tmp_path}/empty.zarr")


def test_wrong_arguments_are_exit_code_2() -> None:
    assert run("explain").exit_code == 2
    assert run("bench", "x", "--rounds", "0").exit_code == 2
    assert run("cure").exit_code == 2


def test_bench_reads_through_all_pipelines(place: str) -> None:
    results = told("bench", f"{place}/below/b", "--rounds", "1", "--mib", "1")
    ours = [result for result in results if result["pipeline"] == "zarrs-async"]
    assert [result["read"] for result in ours] == [
        "whole 64×64",
        "32 random boxes, one by one",
        "32 random boxes, gathered",
    ]
    assert all(result["ratio"] == 1 for result in ours)
    others = [result for result in results if result["pipeline"] == "zarr, batched"]
    assert len(others) == len(ours)
    assert all(result["seconds"] > 0 and result["mib_per_s"] > 0 for result in results if result["error"] is None)


def test_bench_reads_no_more_than_it_is_told(place: str) -> None:
    assert told("bench", f"{place}/a", "--rounds", "1", "--mib", "0.0045")[0]["read"] == "whole 32×32"
    assert told("bench", f"{place}/a", "--rounds", "1", "--mib", "0")[0]["read"] == "whole 16×16"


def test_bench_tells_of_a_pipeline_that_fails(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.core.codec_pipeline import BatchedCodecPipeline  # noqa: PLC0415  # as for `run`

    async def read(*_: Any, **__: Any) -> None:
        msg = "not [today]"
        raise RuntimeError(msg)

    monkeypatch.setattr(BatchedCodecPipeline, "read", read)
    results = told("bench", f"{place}/a", "--rounds", "1")
    [error] = {result["error"] for result in results if result["pipeline"] == "zarr, batched"}
    assert error == "RuntimeError: not [today]"
    assert "not [today]" in run("bench", f"{place}/a", "--rounds", "1").stdout


def test_bench_draws_what_it_prints(place: str, tmp_path: Path) -> None:
    results = told("bench", f"{place}/a", "--rounds", "1", "--plot", str(tmp_path / "medians.svg"))
    words = re.findall("<text[^>]*>([^<]*)</text>", (tmp_path / "medians.svg").read_text())
    for name in ("read", "pipeline"):
        assert {result[name] for result in results} <= set(words)
    assert [word.rpartition("(")[2] for word in words if word.endswith("×)")] == [
        f"{result['ratio']:.2f} ×)" for result in results
    ]
    assert run("bench", f"{place}/a", "--rounds", "1", "--plot", str(tmp_path / "medians.png")).exit_code == 0
    assert (tmp_path / "medians.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_tells_of_failures_and_no_secrets(tmp_path: Path) -> None:
    from zarrs_async.cli.bench import Result  # noqa: PLC0415  # as for `run`
    from zarrs_async.cli.plot import draw  # noqa: PLC0415  # as above

    file = tmp_path / "medians.svg"
    results = [Result("whole 64", "zarrs-async", 0.25, 4, 1), Result("whole 64", "zarr, batched", error="not today")]
    for place, name in [
        ("https://user:secret@host/a$b$.zarr/?key=secret", "a$b$.zarr"),
        ("https://secret@host", "array"),
        ("some/a.zarr", "a.zarr"),
    ]:
        draw(results, place, file)
        drawn = file.read_text()
        assert "secret" not in drawn
        for words in (name, "zarr, batched", "failed", "250.0 ms (1.00 ×)"):
            assert f">{words}<" in drawn


def test_a_picture_that_cannot_be_drawn_is_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = str(tmp_path / "none.zarr")
    assert "must end in .png or .svg, but is 'a.pdf'" in failed("bench", none, "--plot", "a.pdf")
    assert f"there is no directory {tmp_path}/none" in failed("bench", none, "--plot", str(tmp_path / "none" / "a.png"))
    monkeypatch.setattr("zarrs_async.cli.plot.find_spec", lambda _: None)
    assert "--plot needs matplotlib: pip install matplotlib" in failed("bench", none, "--plot", "a.png")


def test_demo_writes_reads_and_draws(tmp_path: Path) -> None:
    result = run("demo", str(tmp_path / "demo.zarr"))
    assert result.exit_code == 0, result.output
    assert "zarrs_async reads 9 chunks (sharding_indexed of [16, 16, 16] [bytes, zstd]; native" in result.stdout
    assert result.stdout.splitlines()[-10].strip(" .:-=+*#%@") == ""
    array: Any = zarr.open_array(tmp_path / "demo.zarr", mode="r")
    assert array.shape == (192, 192, 192)
    assert int(array[96].max()) > 100


def test_the_command_is_installed(pipeline: ModuleType) -> None:
    shown = run("--version")
    assert shown.stdout == f"zarrs-async {pipeline.__version__} with zarr {zarr.__version__}\n"
    assert zarr.config.get("codec_pipeline.path") == OURS


WITHOUT = """
import sys
sys.modules["typer"] = None
from zarrs_async.cli import main
main()
"""


def test_without_its_packages_it_says_how_to_install_them() -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)  # noqa: S603  # our own script
    assert ran.returncode == 1
    assert ran.stderr == "zarrs-async needs typer for its command line: pip install 'zarrs-async[cli]'\n"
