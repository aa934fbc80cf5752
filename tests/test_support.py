"""The servers that all other tests rely on: ranges, conditions, counts, holds and faults of ours; conditions of S3."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import obstore
import pytest
import s3fs
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, PreconditionError
from obstore.store import HTTPStore

from support.range_client import SCRIPT
from support.servers import RangeServer, Rule, S3Server

if TYPE_CHECKING:
    from pathlib import Path

    from obstore.store import ClientConfig

CONTENT = bytes(range(256)) * 4
BIG_NBYTES = 64 * 2**20


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(server: RangeServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Make one request on a connection of its own; underscores in header names stand for hyphens."""
    url = urlsplit(server.url)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(
            method, f"{url.path}/{path}", body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


def send(server: RangeServer, path: str) -> socket.socket:
    """Send a GET and return the socket on which its answer will come."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(f"GET {urlsplit(server.url).path}/{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    return client


@pytest.fixture
def server(range_server: RangeServer) -> RangeServer:
    """Serve one small file named ``small``."""
    (range_server.root / "small").write_bytes(CONTENT)
    return range_server


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=1000-5000", 1000, 1024),
        ("bytes=-16", 1008, 1024),
        ("bytes=-5000", 0, 1024),
    ],
)
def test_get_range_returns_those_bytes(server: RangeServer, header: str, start: int, stop: int) -> None:
    answer = ask(server, "small", Range=header)
    assert (answer.status, answer.body) == (206, CONTENT[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1024"


@pytest.mark.parametrize("header", ["bytes=1024-", "bytes=2000-3000", "bytes=-0"])
def test_get_range_outside_is_refused_with_the_length(server: RangeServer, header: str) -> None:
    answer = ask(server, "small", Range=header)
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */1024")


def test_head_announces_length_without_body(server: RangeServer) -> None:
    answer = ask(server, "small", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "1024", b"")


@pytest.mark.parametrize("path", ["", "absent", "small/below", "../conftest.py", "%2e%2e/conftest.py"])
def test_get_what_is_no_file_is_not_found(server: RangeServer, path: str) -> None:
    assert ask(server, path).status == 404


def test_put_then_get_returns_it_and_delete_removes_it(server: RangeServer) -> None:
    body = os.urandom(3 * 2**20)
    assert ask(server, "c/0/1", "PUT", body).status == 201
    assert ask(server, "c/0/1").body == body == (server.root / "c/0/1").read_bytes()
    assert ask(server, "c/0/1", "DELETE").status == 204
    assert ask(server, "c/0/1", "DELETE").status == 404
    assert list((server.root / "c/0").iterdir()) == []


def test_put_with_condition_that_fails_changes_nothing(server: RangeServer) -> None:
    etag = ask(server, "small").headers["ETag"]
    assert ask(server, "small", "PUT", b"x", If_None_Match="*").status == 412
    assert ask(server, "absent", "PUT", b"x", If_Match="*").status == 412
    assert ask(server, "small", "PUT", CONTENT, If_Match=etag).status == 200
    assert ask(server, "small", "PUT", b"x", If_Match=etag).status == 412
    assert ask(server, "small").body == CONTENT
    assert ask(server, "absent").status == 404


def test_get_with_condition_tells_a_replaced_object(server: RangeServer) -> None:
    etag = ask(server, "small").headers["ETag"]
    assert ask(server, "small", If_None_Match=etag).status == 304
    assert ask(server, "small", If_Match=etag, Range="bytes=0-9").status == 206
    assert ask(server, "small", "PUT", CONTENT).headers["ETag"] != etag
    assert ask(server, "small", If_Match=etag, Range="bytes=0-9").status == 412
    assert ask(server, "small", If_None_Match=etag).status == 200


def test_etag_never_returns_over_many_puts(server: RangeServer) -> None:
    etags = {ask(server, "small", "PUT", CONTENT).headers["ETag"] for _ in range(50)}
    assert len(etags) == 50


def test_pipelined_requests_are_answered_in_order(server: RangeServer) -> None:
    path = urlsplit(server.url).path
    requests = [f"GET {path}/small HTTP/1.1\r\nRange: bytes={n}-{n}\r\n\r\n".encode() for n in range(200)]
    requests.append(f"GET {path}/small HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"".join(requests))
        with client.makefile("rb") as answers:
            received = answers.read()
    bodies = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [CONTENT[n : n + 1] for n in range(200)] + [CONTENT]


def test_broken_request_is_refused_and_server_lives_on(server: RangeServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert ask(server, "small").status == 200


def test_obstore_reads_ranges_and_suffixes(server: RangeServer) -> None:
    store = HTTPStore.from_url(server.url, client_options={"allow_http": True})
    assert obstore.get_range(store, "small", start=5, length=10) == CONTENT[5:15]
    suffix = obstore.get(store, "small", options={"range": {"suffix": 16}})
    assert suffix.bytes() == CONTENT[-16:]
    assert [entry["range"] for entry in server.log()] == ["bytes=5-14", "bytes=-16"]


def test_counts_are_those_of_the_requests(server: RangeServer) -> None:
    url = urlsplit(server.url)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for _ in range(3):
            connection.request("GET", f"{url.path}/small", headers={"Range": "bytes=0-99"})
            assert len(connection.getresponse().read()) == 100
        ask(server, "new", "PUT", b"12345")
        stats = server.wait(answered=4)
    assert stats["methods"] == {"GET": 3, "PUT": 1}
    assert (stats["bytes_sent"], stats["bytes_received"], stats["in_flight"], stats["aborted"]) == (300, 5, 0, 0)
    assert (stats["connections_opened"], stats["connections_open_max"]) == (2, 2)
    assert [(entry["method"], entry["path"], entry["status"]) for entry in server.log()] == [
        *[("GET", "small", 206)] * 3,
        ("PUT", "new", 201),
    ]


def test_serve_another_root_forgets_everything(server: RangeServer, tmp_path: Path) -> None:
    before = server.url
    server.config(rules=[Rule(action="status", status=500)], latency_ms=60_000)
    with send(server, "small") as client:
        server.wait(in_flight=1)
        server.serve(tmp_path)
        assert client.recv(1) == b""
    stats = server.stats()
    assert (stats["requests"], stats["in_flight"], stats["aborted"], stats["connections_open"]) == (0, 0, 0, 0)
    assert ask(server, "served/small").body == CONTENT
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(f"GET {urlsplit(before).path}/small HTTP/1.1\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 404 ")


def test_hold_keeps_64_requests_in_flight_until_release(server: RangeServer) -> None:
    server.hold()
    clients = [send(server, "small") for _ in range(64)]
    assert server.wait(held=64)["in_flight"] == 64
    server.release(count=1)
    assert server.wait(answered=1)["held"] == 63
    server.release()
    assert server.wait(answered=64)["in_flight"] == 0
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        client.close()
    assert server.stats()["in_flight_max"] == 64
    assert ask(server, "small").status == 200


async def test_wait_async_leaves_the_loop_free(server: RangeServer) -> None:
    server.hold(path="small$")
    with send(server, "small"):
        stats = await server.wait_async(held=1)
        assert stats["in_flight"] == 1


def test_latency_of_concurrent_requests_overlaps(server: RangeServer) -> None:
    server.config(latency_ms=300)
    begin = time.monotonic()
    clients = [send(server, "small") for _ in range(32)]
    assert server.wait(in_flight=32)["answered"] == 0
    assert server.wait(idle=True, answered=32)["in_flight_max"] == 32
    assert 0.3 <= time.monotonic() - begin < 32 * 0.3
    for client in clients:
        client.close()


def test_rule_delays_only_what_matches(server: RangeServer) -> None:
    (server.root / "slow").write_bytes(CONTENT)
    server.config(rules=[Rule(action="delay", path="^slow$", delay_ms=60_000)])
    with send(server, "slow"):
        server.wait(in_flight=1)
        assert ask(server, "small").status == 200
        assert server.stats()["in_flight"] == 1


def test_bandwidth_is_shared_by_all_answers(server: RangeServer) -> None:
    (server.root / "half").write_bytes(bytes(2**19))
    server.config(bandwidth_mib=4)
    begin = time.monotonic()
    clients = [send(server, "half") for _ in range(2)]
    server.wait(answered=2)
    assert time.monotonic() - begin >= 0.24
    for client in clients:
        client.close()


def test_bandwidth_of_a_connection_is_its_own(server: RangeServer) -> None:
    (server.root / "half").write_bytes(bytes(2**19))
    server.config(connection_mib=2)
    begin = time.monotonic()
    client = send(server, "half")
    server.wait(answered=1)
    assert time.monotonic() - begin >= 0.24
    client.close()


def test_client_that_leaves_a_held_or_delayed_request_is_counted(server: RangeServer) -> None:
    server.config(rules=[Rule(action="delay", path="^late$", delay_ms=60_000)])
    server.hold(path="small")
    clients = [send(server, path) for path in ("small", "small", "late")]
    server.wait(in_flight=3, held=2)
    clients[0].close()
    clients[2].close()
    stats = server.wait(aborted=2)
    assert (stats["in_flight"], stats["held"], stats["connections_open"]) == (1, 1, 1)
    assert sorted((entry["path"], entry["aborted"]) for entry in server.log()) == [
        ("late", True),
        ("small", False),
        ("small", True),
    ]
    clients[1].close()


def test_client_that_leaves_within_a_big_body_is_counted(server: RangeServer) -> None:
    (server.root / "big").write_bytes(bytes(BIG_NBYTES))
    with send(server, "big") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert server.stats()["in_flight"] == 1
    assert 0 < server.wait(aborted=1)["bytes_sent"] < BIG_NBYTES


def test_big_body_arrives_whole(server: RangeServer) -> None:
    content = os.urandom(2**20) * 32
    (server.root / "big").write_bytes(content)
    assert ask(server, "big").body == content
    assert server.wait(idle=True)["bytes_sent"] == len(content)


def test_rule_status_hits_as_often_as_it_says(server: RangeServer) -> None:
    server.config(
        rules=[
            Rule(action="status", path="small", times=2, status=503, headers={"Retry-After": "7"}),
            Rule(action="status", path="small", nth=4, status=403),
            Rule(action="status", method="DELETE", status=429),
        ]
    )
    answers = [ask(server, "small") for _ in range(5)]
    assert [answer.status for answer in answers] == [503, 503, 200, 403, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert [ask(server, "small", "DELETE").status for _ in range(2)] == [429, 429]
    assert server.stats()["rule_hits"] == [2, 1, 2]


def test_rule_reset_ends_the_connection_with_a_reset(server: RangeServer) -> None:
    server.config(rules=[Rule(action="reset", nth=1)])
    with send(server, "small") as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    assert ask(server, "small").status == 200


def test_rule_truncate_closes_within_the_body(server: RangeServer) -> None:
    server.config(rules=[Rule(action="truncate", nbytes=100)])
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(server, "small")
    assert caught.value.partial == CONTENT[:100]


def test_rule_stall_sends_so_much_and_no_more(server: RangeServer) -> None:
    server.config(rules=[Rule(action="stall", nbytes=100)])
    with send(server, "small") as client:
        received = b""
        while not received.endswith(b"Content-Length: 1024\r\n\r\n" + CONTENT[:100]):
            received += client.recv(4096)
        assert server.wait(bytes_sent=100)["in_flight"] == 1
        client.settimeout(0)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    assert server.wait(aborted=1)["in_flight"] == 0


def test_rules_on_headers_ignore_ranges_refuse_suffixes_and_hide_or_weaken_etags(server: RangeServer) -> None:
    etag = ask(server, "small").headers["ETag"]
    server.config(rules=[Rule(action="ignore_range", method="GET"), Rule(action="no_etag")])
    answer = ask(server, "small", Range="bytes=0-9")
    assert (answer.status, answer.body, answer.headers["ETag"]) == (200, CONTENT, None)
    server.config(rules=[Rule(action="weak_etag")])
    assert ask(server, "small").headers["ETag"] == f"W/{etag}"
    assert ask(server, "small", If_Match=f"W/{etag}").status == 412
    assert "ETag" not in ask(server, "absent").headers
    server.config(rules=[Rule(action="refuse_suffix", status=400)])
    assert ask(server, "small", Range="bytes=-9").status == 400
    assert ask(server, "small", Range="bytes=0-9").status == 206


def test_rule_replace_acts_between_two_requests(server: RangeServer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    server.config(
        rules=[
            Rule(action="replace", path="small", nth=1, source=str(other)),
            Rule(action="replace", path="small", nth=2, target="gone"),
        ]
    )
    (server.root / "gone").write_bytes(b"")
    first = ask(server, "small", Range="bytes=-16")
    assert first.body == CONTENT[-16:]
    assert ask(server, "small", If_Match=first.headers["ETag"]).status == 412
    assert ask(server, "small").body == b"other"
    assert ask(server, "gone").status == 404


def test_replaced_object_is_still_sent_as_it_was(server: RangeServer) -> None:
    (server.root / "big").write_bytes(b"a" * BIG_NBYTES)
    with send(server, "big") as client, client.makefile("rb") as answer:
        while answer.readline() != b"\r\n":
            pass
        assert ask(server, "big", "PUT", b"b").status == 200
        assert answer.read(BIG_NBYTES).count(b"a") == BIG_NBYTES


def test_required_header_is_required(server: RangeServer) -> None:
    server.config(require_header="Authorization: Bearer x")
    assert ask(server, "small").status == 401
    assert ask(server, "small", Authorization="Bearer y").status == 401
    assert ask(server, "small", Authorization="Bearer x").status == 200


def test_control_refuses_what_it_does_not_know(server: RangeServer) -> None:
    with pytest.raises(ValueError, match="cannot wait for"):
        server.wait(nonsense=1)
    with pytest.raises(ValueError, match="unterminated"):
        server.hold(path="(")
    with pytest.raises(TimeoutError, match="'requests': 0"):
        server.wait(requests=1, timeout_s=0.01)


@pytest.mark.parametrize("end", ["stdin", "sigterm"])
def test_server_ends_with_its_stdin_or_on_sigterm(tmp_path: Path, end: str) -> None:
    command = [sys.executable, str(SCRIPT), "--root", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 - ours
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"port": ')
        if end == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


async def test_h2_carries_64_requests_on_one_connection(tmp_path: Path) -> None:
    pytest.importorskip("h2")
    content = os.urandom(2**20)
    (tmp_path / "object").write_bytes(content)
    with RangeServer(tmp_path, h2=True) as server:
        server.config(rules=[Rule(action="status", status=503, nth=1)])
        options: ClientConfig = {"allow_invalid_certificates": True, "http1_only": False, "http2_only": True}
        store = HTTPStore.from_url(server.h2_url, client_options=options)
        # The first request opens the connection, and its failure shows that rules and retries work here too.
        await obstore.put_async(store, "other", content)
        assert (tmp_path / "other").read_bytes() == content
        server.reset_counts()
        server.hold()
        reads = [
            asyncio.ensure_future(obstore.get_range_async(store, "object", start=n * 2**14, length=2**14))
            for n in range(64)
        ]
        stats = await server.wait_async(held=64)
        assert (stats["in_flight"], stats["connections_open"]) == (64, 1)
        reads.pop().cancel()
        await server.wait_async(aborted=1)
        server.release()
        assert b"".join(await asyncio.gather(*reads)) == content[: 63 * 2**14]
        whole = await obstore.get_async(store, "object")
        assert await whole.bytes_async() == content


def test_s3_put_create_refuses_what_exists(s3_server: S3Server) -> None:
    store = s3_server.obstore(s3_server.new_prefix())
    obstore.put(store, "key", b"one", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"two", mode="create")
    assert obstore.get(store, "key").bytes() == b"one"


def test_s3_put_update_refuses_a_stale_etag(s3_server: S3Server) -> None:
    store = s3_server.obstore(s3_server.new_prefix())
    first = obstore.put(store, "key", b"one")["e_tag"]
    second = obstore.put(store, "key", b"two", mode={"e_tag": first})["e_tag"]
    assert second != first
    with pytest.raises(PreconditionError):
        obstore.put(store, "key", b"three", mode={"e_tag": first})
    assert obstore.get(store, "key").bytes() == b"two"


def test_s3_concurrent_conditional_puts_lose_nothing(s3_server: S3Server) -> None:
    store = s3_server.obstore(s3_server.new_prefix())
    obstore.put(store, "count", b"0")

    def add_one(_: int) -> None:
        while True:
            before = obstore.get(store, "count")
            after = int(bytes(before.bytes())) + 1
            try:
                obstore.put(store, "count", str(after).encode(), mode={"e_tag": before.meta["e_tag"]})
            except PreconditionError:
                continue
            return

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add_one, range(20)))
    assert obstore.get(store, "count").bytes() == b"20"


def test_s3_ranged_get_refuses_a_stale_etag(s3_server: S3Server) -> None:
    store = s3_server.obstore(s3_server.new_prefix())
    etag = obstore.put(store, "key", CONTENT)["e_tag"]
    assert etag is not None
    assert obstore.get(store, "key", options={"range": (5, 15), "if_match": etag}).bytes() == CONTENT[5:15]
    suffix = obstore.get(store, "key", options={"range": {"suffix": 16}, "if_match": etag})
    assert suffix.bytes() == CONTENT[-16:]
    obstore.put(store, "key", CONTENT[::-1])
    with pytest.raises(PreconditionError):
        obstore.get(store, "key", options={"range": (5, 15), "if_match": etag})


def test_s3_store_with_other_credentials_is_refused(s3_server: S3Server) -> None:
    stranger = s3_server.obstore(
        access_key_id="stranger", retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)}
    )
    with pytest.raises(PermissionDeniedError, match="InvalidAccessKeyId"):
        obstore.get(stranger, "key")


def test_s3fs_and_obstore_see_one_bucket(s3_server: S3Server) -> None:
    prefix = s3_server.new_prefix()
    filesystem = s3fs.S3FileSystem(**s3_server.s3fs_options(), skip_instance_cache=True)
    filesystem.pipe_file(f"{s3_server.bucket}/{prefix}/key", CONTENT)
    store = s3_server.obstore(prefix)
    assert obstore.get(store, "key").bytes() == CONTENT
    obstore.delete(store, "key")
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "key")
