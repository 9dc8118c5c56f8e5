"""The interpreter's end, with locks held, releases under way, and threads and tasks waiting.

Law: no hang, no crash, no complaint; what was to be given back is, what is held stays.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from _harness import Ways, async_only, one_server, sync_only
from _program import program

SCENES = str(Path(__file__).resolve().parents[1] / "_scenes.py")


@sync_only
@one_server
async def test_locks_held_at_the_end_stay_for_their_ttl(fl: Ways) -> None:
    """An exit function may still release one."""
    key = fl.key()
    with program(SCENES, "holding", fl.core, fl.server.uri, key) as process:
        assert process.said() == "done"
        assert process.said() == "released True"
        assert process.ended() == (0, "", "")
    assert fl.admin.exists(f"{key}:early") == 0
    assert 0 < fl.admin.pttl(key) <= 30_000
    fl.admin.delete(key)


@sync_only
@one_server
async def test_leaving_a_block_by_sys_exit_frees_its_lock(fl: Ways) -> None:
    key = fl.key()
    with program(SCENES, "inside", fl.core, fl.server.uri, key) as process:
        assert process.ended() == (5, "", "")
    assert fl.admin.exists(key) == 0


@sync_only
@one_server
async def test_daemon_threads_that_wait_hinder_no_end(fl: Ways) -> None:
    """Two clients: of one all threads wait, the other has had releases under way."""
    proxy, key = fl.proxy(), fl.key()
    fl.admin.set(key, "taken", px=600_000)
    with program(SCENES, "daemons", fl.core, proxy.uri, key) as process:
        assert process.said() == "waiting"
        process.tell("end")
        assert process.ended() == (0, "", "")
    assert fl.admin.get(key) == b"taken"
    assert fl.admin.keys(f"{key}:*") == []
    fl.admin.delete(key)


@sync_only
@one_server
@pytest.mark.parametrize("comes", [True, False], ids=["answered", "silent"])
async def test_releases_behind_a_daemon_thread_that_reads(fl: Ways, comes: bool) -> None:
    """Its answer, and with it theirs, comes when the program ends already, or never."""
    proxy, key = fl.proxy(), fl.key()
    held = proxy.fault("hold_reply", nth=21)  # of the thread's own try
    with program(SCENES, "leading_daemon", fl.core, proxy.uri, key) as process:
        assert process.said() == "waiting"
        await fl.happened(held)
        process.tell("it leads")
        assert process.said() == "sent"
        process.tell("end")
        if comes:
            held.go()
        code, out, err = process.ended()
        assert code == 0, err
        assert not comes or (out, err) == ("", "")
        held.go()
    fl.admin.delete(key)
    await fl.until(lambda: fl.admin.keys(f"{key}:*") == [], 10)


@sync_only
@one_server
async def test_a_mute_server_hinders_no_end(fl: Ways) -> None:
    """What was sent to it is done when it goes on."""
    proxy, key = fl.proxy(), fl.key()
    with program(SCENES, "mute", fl.core, proxy.uri, key) as process:
        assert process.said() == "held"
        held = proxy.fault("hold_reply")
        process.tell("it is mute")
        assert process.said() == "sent"
        code, out, _ = process.ended()  # it may say which locks stay
        assert (code, out) == (0, "")
        held.go()
    await fl.until(lambda: fl.admin.keys(f"{key}:*") == [], 10)


@async_only
@one_server
async def test_a_loop_that_is_closed_with_a_lock_held(fl: Ways) -> None:
    """The lease goes on in the next loop; the last one stays for its ttl."""
    key = fl.key()
    with program(SCENES, "loop_closed", fl.core, fl.server.uri, key) as process:
        assert process.said() == "True"
        assert process.said() == "done"
        assert process.ended() == (0, "", "")
    assert fl.admin.exists(key) == 1
    fl.admin.delete(key)


@async_only
@one_server
async def test_a_loop_that_is_closed_while_tasks_wait(fl: Ways) -> None:
    key = fl.key()
    fl.admin.set(key, "taken", px=600_000)
    with program(SCENES, "loop_closed_waiting", fl.core, fl.server.uri, key) as process:
        assert process.said() == "waiting"
        process.tell("end")
        assert process.said() == "done"
        assert process.ended() == (0, "", "")
    assert fl.admin.get(key) == b"taken"
    fl.admin.delete(key)
