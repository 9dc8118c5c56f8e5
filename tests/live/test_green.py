"""gevent and eventlet, really patched: green threads share a client, and none stops another.

Law: each scene of ``_green.py`` runs in a process of its own, for a patch is for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _harness import Ways, needs, one_server, sync_only
from _program import Program, program
from _servers import Certificates, Server

PROGRAM = str(Path(__file__).resolve().parents[1] / "_green.py")


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    needs(name)
    return name


pytestmark = [
    pytest.mark.slow,
    sync_only,
    one_server,
    pytest.mark.parametrize("core", ["python"], indirect=True),  # the only one that yields
]


@contextmanager
def scene(library: str, name: str, uri: str, key: str) -> Iterator[Program]:
    """That process; at the end it must have ended well, and have had no more to say."""
    with program(PROGRAM, library, name, uri, key) as process:
        yield process
        code, out, err = process.ended()
    # eventlet's own, of what it could not patch
    err = "".join(line for line in err.splitlines(True) if "RLock(s) were not greened" not in line)
    assert (code, err) == (0, "")
    assert out == ""


def nothing_left(fl: Ways, key: str) -> None:
    assert fl.admin.keys(f"{key}*") == []


# ------------------------------------------------------------------ the core


async def test_the_python_core_is_taken(fl: Ways, library: str) -> None:
    with scene(library, "core", fl.server.uri, fl.key()) as process:
        assert process.said() == "python python"
        assert f"{library} has patched the socket module" in process.said()


async def test_it_is_taken_too_if_the_patch_comes_after_the_import(fl: Ways, library: str) -> None:
    with scene(library, "late_core", fl.server.uri, fl.key()) as process:
        assert process.said() in ("cython", "python")
        assert process.said() == "python python"
        assert f"{library} has patched the socket module" in process.said()
        assert process.said() == "python"


async def test_a_client_that_had_connected_before_the_patch_says_so(fl: Ways, library: str) -> None:
    proxy = fl.proxy()
    with scene(library, "late_connected", proxy.uri, fl.key()) as process:
        assert process.said() == "patched"
        proxy.cut()
        process.tell("cut")
        assert process.said().startswith(f"FastlockError {library} has patched the sockets since")


# ------------------------------------------------------------------ many share one client


@pytest.mark.parametrize("when", ["", "late_"], ids=["patched first", "patched late"])
async def test_green_threads_exclude_each_other(fl: Ways, library: str, when: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    with scene(library, f"{when}exclusion", proxy.uri, key) as process:
        assert process.said() == "200"
    tells = [args for args in proxy.commands if args[:2] == [b"CLIENT", b"TRACKING"]]
    assert len(tells) <= 1  # none if each was handed the lock before it came to that
    assert proxy.connections == 1 + len(tells)
    nothing_left(fl, key)


async def test_each_gets_its_own_answers(fl: Ways, library: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    with scene(library, "many_keys", proxy.uri, key) as process:
        assert process.said() == "done"
    assert proxy.connections == 1
    nothing_left(fl, key)


async def test_over_a_unix_socket(fl: Ways, library: str, own_server: Server) -> None:
    with scene(library, "many_keys", own_server.unix_uri, fl.key()) as process:
        assert process.said() == "done"


async def test_over_tls(
    fl: Ways, library: str, tls_server: Server, certificates: Certificates
) -> None:
    uri = f"{tls_server.uri}?ssl_ca_certs={certificates.ca}"
    with scene(library, "many_keys", uri, fl.key()) as process:
        assert process.said() == "done"


# ------------------------------------------------------------------ waiting


@pytest.mark.parametrize("when", ["", "late_"], ids=["patched first", "patched late"])
@pytest.mark.parametrize("wait", ["answer", "pause", "connecting", "greeting"])
async def test_the_others_go_on_while_one_waits_and_closing_ends_the_wait(
    fl: Ways, library: str, wait: str, when: str
) -> None:
    """The answer is held back until the process has ended: nothing but closing ends the wait."""
    proxy, key = fl.proxy(), fl.key()
    verb = {"answer": "SET", "connecting": "HELLO", "greeting": "INFO"}.get(wait)
    held = proxy.fault("hold_reply", verb=verb) if verb else None
    if wait == "pause":
        fl.admin.set(key, "taken", px=60_000)
    with scene(library, f"{when}yielding", proxy.uri, key) as process:
        assert process.said() == "others run"
        if held is not None:
            held.wait()
        process.tell("close")
        if wait == "answer":
            # What may have been taken is given back before: that waits for the answer.
            told = process.said()
            assert "closed" in told, told
            held.go()
        else:
            assert process.said() == "FastlockError the client is closed; make a new one"
    if wait == "pause":
        fl.admin.delete(key)
    await fl.until(lambda: not fl.admin.exists(key))


@pytest.mark.parametrize("wait", ["answer", "pause", "connecting"])
async def test_a_time_out_inside_an_acquire_leaves_no_lock(
    fl: Ways, library: str, wait: str
) -> None:
    """And the call of another, behind it on the same connection, gets its answer."""
    proxy, key = fl.proxy(), f"{fl.key()}:{wait}"
    held = None
    if wait == "pause":
        fl.admin.set(key, "taken", px=60_000)
    else:
        held = proxy.fault("hold_reply", verb="SET" if wait == "answer" else "HELLO")
    with scene(library, "timeout", proxy.uri, key) as process:
        assert process.said() == "begun"
        assert process.said() == "time-out"
        if held is not None:
            held.go()
        assert process.said() == "True"
        assert process.said() == f"{wait == 'pause'} False"
    assert proxy.connections == (1 if wait == "answer" else 2)
    if wait == "pause":
        assert fl.admin.get(key) == b"taken"
        fl.admin.delete(key)
    nothing_left(fl, key)


async def test_an_acquire_struck_at_each_of_its_waits_leaves_no_lock(
    fl: Ways, library: str
) -> None:
    proxy, key = fl.proxy(), fl.key()
    proxy.fault("delay_reply", times=1_000_000, seconds=0.002)  # so that there are waits
    with scene(library, "strike_everywhere", proxy.uri, key) as process:
        for name in ("try", "acquire", "waiting", "many", "all", "with", "new"):
            assert process.said() == f"{name} struck"
    nothing_left(fl, key)


# ------------------------------------------------------------------ forks and ends


async def test_a_child_owns_nothing_of_its_parent_s(fl: Ways, library: str) -> None:
    key = fl.key()
    with scene(library, "forking", fl.server.uri, key) as process:
        assert process.said() == "0 True"
    nothing_left(fl, key)


async def test_a_process_ends_with_releases_under_way(fl: Ways, library: str) -> None:
    key = fl.key()
    with scene(library, "deferred_exit", fl.server.uri, key) as process:
        assert process.said() == "done"
    nothing_left(fl, key)


async def test_a_process_ends_while_green_threads_wait(fl: Ways, library: str) -> None:
    key = fl.key()
    with scene(library, "waiting_exit", fl.server.uri, key) as process:
        assert process.said() == "done"
    assert fl.admin.exists(key) == 1  # held to its end, and for its ttl
    fl.admin.delete(key)
