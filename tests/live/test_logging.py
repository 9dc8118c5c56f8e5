"""What is said to ``logging``, four ways: an event's name, its fields, and no secret.

Law: a record is looked at whole, so that a field which carries a token is found wherever it is.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from _harness import Ways, one_server
from _servers import Server

import fastlock

pytestmark = one_server


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """In order; every record of fastlock's has one."""
    return [record.fastlock_event for record in caplog.records if record.name == "fastlock"]  # type: ignore[attr-defined]


def fields(caplog: pytest.LogCaptureFixture, event: str) -> dict[str, Any]:
    """Of the first record of that event."""
    record = caplog.records[events(caplog).index(event)]
    return {
        name.removeprefix("fastlock_"): value
        for name, value in vars(record).items()
        if name.startswith("fastlock_")
    }


def whole(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


async def test_connections_and_retries(fl: Ways, caplog: pytest.LogCaptureFixture) -> None:
    proxy = fl.proxy()
    client = fl.client(proxy.uri, retries=1)
    with caplog.at_level(logging.INFO, "fastlock"):
        await fl.warm(client)
        proxy.fault("cut_before", "SET")
        lease = await client.try_acquire(fl.key(), 30)
    assert events(caplog) == ["connected", "retry", "reconnected"]
    address = client.config.address
    assert fields(caplog, "connected") == {"event": "connected", "address": address}
    assert fields(caplog, "reconnected") == {"event": "reconnected", "address": address}
    retry = fields(caplog, "retry")
    assert retry.pop("seconds") >= 0
    assert retry == {"event": "retry", "failures": 1}
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert lease.token not in whole(caplog)


async def test_by_default_nothing_is_said_of_what_is_usual(
    fl: Ways, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fastlock"):
        client = await fl.warm(fl.client())
        await (await client.acquire(fl.key(), 30)).release()
    assert events(caplog) == []


@pytest.mark.parametrize("asked", [False, True])
async def test_a_loss(fl: Ways, caplog: pytest.LogCaptureFixture, asked: bool) -> None:
    """A warning, unless somebody asked to be called."""
    client, key = fl.client(), fl.key()
    told: list[Any] = []
    on_lost = told.append if asked else None
    with caplog.at_level(logging.INFO, "fastlock"):
        lease = await client.acquire(key, 0.6, auto_renew=True, on_lost=on_lost)
        fl.admin.delete(key)
        await fl.until(lambda: "lost" in events(caplog))
    assert fields(caplog, "lost") == {"event": "lost", "key": key, "reason": lease._why_lost()}
    record = caplog.records[events(caplog).index("lost")]
    assert record.levelno == (logging.INFO if asked else logging.WARNING)
    assert lease.token not in whole(caplog)


async def test_a_loss_at_exit(fl: Ways, caplog: pytest.LogCaptureFixture) -> None:
    client, key = fl.client(), fl.key()
    with caplog.at_level(logging.WARNING, "fastlock"):
        async with client.lock(key, 30, if_lost="warn"):
            fl.admin.delete(key)
    assert events(caplog) == ["lost_at_exit"]
    assert fields(caplog, "lost_at_exit")["key"] == key


async def test_a_callback_that_fails(fl: Ways, caplog: pytest.LogCaptureFixture) -> None:
    client, key = fl.client(), fl.key()

    def on_lost(lease: Any) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.WARNING, "fastlock"):
        await client.acquire(key, 0.6, auto_renew=True, on_lost=on_lost)
        lease = await client.acquire(fl.key(), 0.6, auto_renew=True, on_lost=on_lost)
        fl.admin.delete(lease.key)
        await fl.until(lambda: "on_lost_failed" in events(caplog))
    assert fields(caplog, "on_lost_failed") == {"event": "on_lost_failed", "key": lease.key}
    assert caplog.records[0].exc_info[0] is ZeroDivisionError  # type: ignore[index]


async def test_what_cannot_be_given_back(
    fl: Ways, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The user may take locks and not free them."""
    proxy = fl.proxy(own_server)
    words = "taker on >hidden ~* +@all -delifeq -eval -evalsha"
    own_server.admin.execute_command("ACL", "SETUSER", *words.split())
    client = fl.client(proxy.uri, username="taker", password="hidden", retries=0)
    await client.ping()
    proxy.fault("lose_reply", "SET")
    with caplog.at_level(logging.WARNING, "fastlock"):
        with pytest.raises(fastlock.OutcomeUnknown):
            await client.try_acquire(fl.key(), 30)
        await fl.until(lambda: "left_behind" in events(caplog), 10)
    assert fields(caplog, "left_behind") == {
        "event": "left_behind", "count": 1, "error": "ServerError",
    }  # fmt: skip
    assert client.stats().left_behind == 1
    assert client.stats().unknown == 1
    assert "hidden" not in whole(caplog)
