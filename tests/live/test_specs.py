"""Lock specs: context manager per thread or task, decorator, threading.Lock's manner, pickling."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, one_server
from _servers import Server

import fastlock

TESTS = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------ context manager


async def test_each_thread_or_task_holds_a_lease_of_its_own(fl: Ways) -> None:
    spec = fl.client(retry_timeout=10).lock(fl.key(), ttl=5)
    inside: list[str] = []
    tokens = set()

    async def enter(name: str) -> None:
        async with spec as lease:
            inside.append(name)
            tokens.add(lease.token)
            await fl.sleep(0.01)
            assert inside == [name]
            assert fl.admin.get(spec.key).decode() == lease.token
            inside.clear()

    await fl.together(enter(f"caller {number}") for number in range(6))
    assert len(tokens) == 6
    assert fl.admin.exists(spec.key) == 0


async def test_a_spec_waits_only_as_long_as_it_says(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=10), fl.key()
    holder = await client.acquire(key, ttl=5)
    with pytest.raises(fastlock.AcquireTimeout):
        async with client.lock(key, ttl=5, timeout=0.05):
            raise AssertionError("it is held by somebody else")
    assert await holder.release() is True


async def test_a_block_may_be_left_in_another_thread_or_task(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    for block in (client.lock(key, ttl=5), client.lock_all([key, key + "2"], ttl=5)):
        await fl.spawn(block.__aenter__())
        assert fl.admin.exists(key) == 1
        await fl.spawn(block.__aexit__(None, None, None))
        assert fl.admin.exists(key) == 0
        with pytest.raises(RuntimeError, match="not entered"):
            await block.__aexit__(None, None, None)


async def test_a_block_whose_lease_ended_frees_nobody_else_s_lock(fl: Ways) -> None:
    client, keys = fl.client(retry_timeout=10), [fl.key(), fl.key()]
    for block, key in ((client.lock(keys[0], ttl=0.1), keys[0]), (client.lock_all(keys, 0.1), "")):
        entered = [await fl.spawn(block.__aenter__()), await fl.spawn(block.__aenter__())]
        first, second = entered if key else [leases[0] for leases in entered]
        fl.admin.set(keys[0], second.token, px=60_000)  # the second one's, however slow we are
        with pytest.raises(fastlock.LockLost):
            await block.__aexit__(None, None, None)  # the oldest: the first one's
        assert first.token != second.token
        assert fl.admin.get(keys[0]).decode() == second.token
        fl.admin.delete(*keys)


async def test_a_lease_released_inside_its_block_is_not_lost(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key(), fl.key()]
    async with client.lock(keys[0], ttl=5) as lease:
        assert await lease.release() is True
        assert not lease.lost
        assert lease.valid() is False
    async with client.lock_all(keys, ttl=5) as leases:
        assert await leases[0].release() is True
    assert fl.admin.exists(*keys) == 0


async def test_generators_and_other_colours_are_refused(fl: Ways) -> None:
    def generator() -> Any:
        yield

    async def async_generator() -> Any:
        yield

    class Callable:
        async def __call__(self) -> None: ...

    class PlainCallable:
        def __call__(self) -> None: ...

    spec = fl.raw(fl.client().lock(fl.key(), ttl=5))
    for wrong in (generator, async_generator):
        with pytest.raises(TypeError, match="inside it"):
            spec(wrong)
    with pytest.raises(TypeError, match="coroutine function"):
        spec(Callable() if fl.sync else PlainCallable())
    assert callable(spec(PlainCallable() if fl.sync else Callable()))


async def test_two_callers_of_one_spec_each_free_their_own_lock(fl: Ways) -> None:
    """What was released is forgotten before anybody else can have acquired."""
    spec = fl.client(retry_timeout=1).lock(fl.key(), ttl=30)

    async def work() -> None:
        for _ in range(30):
            assert await spec.acquire() is True
            assert await spec.release() is True

    await fl.together(work() for _ in range(4))
    assert fl.admin.exists(spec.key) == 0


async def test_entering_twice_is_refused_at_once(fl: Ways) -> None:
    spec = fl.client().lock(fl.key(), ttl=5)
    async with spec as lease:
        with pytest.raises(fastlock.LockError, match="re-entrant") as caught:
            async with spec:
                raise AssertionError("locks are not re-entrant")
        assert caught.value.key == spec.key
        assert lease.valid()
    async with spec:
        pass


# ------------------------------------------------------------------ decorator


async def test_the_decorator_holds_the_lock_during_each_call(fl: Ways) -> None:
    client, key = fl.client(), fl.key()

    @client.lock(key, ttl=5)
    async def report(number: int, *, word: str) -> str:
        assert fl.admin.exists(key) == 1
        if not number:
            raise ZeroDivisionError
        return word * number

    assert fl.admin.exists(key) == 0
    assert await report(2, word="ab") == "abab"
    assert fl.admin.exists(key) == 0
    with pytest.raises(ZeroDivisionError):
        await report(0, word="ab")
    assert fl.admin.exists(key) == 0


@one_server
async def test_a_decorated_function_keeps_its_name(fl: Ways) -> None:
    spec = fl.raw(fl.client().lock(fl.key(), ttl=5))
    if fl.sync:

        def report() -> None:
            """What it does."""
    else:

        async def report() -> None:  # type: ignore[misc]
            """What it does."""

    decorated = spec(report)
    assert (decorated.__name__, decorated.__doc__) == ("report", "What it does.")
    assert decorated.__wrapped__ is report


@one_server
async def test_a_function_of_the_wrong_colour_is_refused(fl: Ways) -> None:
    spec = fl.raw(fl.client().lock(fl.key(), ttl=5))

    def plain() -> None: ...

    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        spec(coroutine if fl.sync else plain)


# ------------------------------------------------------------------ threading.Lock's manner


async def test_acquire_release_and_locked_as_threading_lock(fl: Ways) -> None:
    spec = fl.client(retry_timeout=10).lock(fl.key(), ttl=5)
    assert await spec.locked() is False
    assert await spec.acquire() is True
    assert await spec.locked() is True
    assert await spec.acquire(blocking=False) is False
    assert await spec.acquire(False) is False
    assert await spec.acquire(timeout=0.05) is False
    assert await spec.acquire(True, 0.05) is False
    await spec.release()
    assert await spec.locked() is False
    with pytest.raises(RuntimeError):
        await spec.release()


@one_server
async def test_acquire_s_arguments_are_checked_as_threading_lock_does(fl: Ways) -> None:
    spec = fl.client().lock(fl.key(), ttl=5)
    with pytest.raises(ValueError, match="non-blocking"):
        await spec.acquire(blocking=False, timeout=1)
    with pytest.raises(ValueError, match="timeout"):
        await spec.acquire(timeout=-2)


async def test_any_thread_or_task_may_release(fl: Ways) -> None:
    spec = fl.client().lock(fl.key(), ttl=5)
    assert await spec.acquire() is True

    async def elsewhere() -> None:
        await spec.release()

    await fl.spawn(elsewhere())
    assert await spec.locked() is False
    assert fl.admin.exists(spec.key) == 0


async def test_two_specs_of_one_key_exclude_each_other(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    one, two = client.lock(key, ttl=5), client.lock(key, ttl=5)
    assert await one.acquire() is True
    assert await two.acquire(blocking=False) is False
    await one.release()
    assert await two.acquire(blocking=False) is True
    await two.release()


# ------------------------------------------------------------------ pickling


async def test_a_spec_pickles_and_binds_to_the_client_that_lives_here(fl: Ways) -> None:
    client, key = fl.client(prefix=fl.key("prefix")), fl.key()
    spec = client.lock(key, ttl=7, timeout=3)
    loaded = pickle.loads(pickle.dumps(fl.raw(spec)))
    assert (loaded.key, loaded.ttl, loaded.timeout) == (key, 7, 3)
    assert loaded._client is fl.raw(client)


@one_server
async def test_a_pickled_spec_holds_no_password(fl: Ways, own_server: Server) -> None:
    own_server.admin.config_set("requirepass", "open-sesame")
    client = fl.client(f"redis://:open-sesame@localhost:{own_server.port}")
    async with client.lock(fl.key(), ttl=5):
        pass
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert b"sesame" not in pickle.dumps(fl.raw(client.lock("k")), protocol)


LOAD = """
import asyncio, pickle, sys
spec = pickle.load(sys.stdin.buffer)
async def hold_async():
    async with spec as lease:
        print(lease.key, lease.token)
    await spec._client.close()
def hold():
    with spec as lease:
        print(lease.key, lease.token)
hold() if sys.argv[1] == "sync" else asyncio.run(hold_async())
"""


@one_server
async def test_a_spec_loads_elsewhere_with_the_environment_s_password(
    fl: Ways, own_server: Server
) -> None:
    own_server.admin.config_set("requirepass", "open-sesame")
    url = f"redis://:open-sesame@localhost:{own_server.port}"
    spec = fl.client(url, label="sender").lock("orders:42", ttl=5)
    environment = {
        **os.environ,
        "FASTLOCK_URL": url,
        "FASTLOCK_LABEL": "receiver",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run(
        [sys.executable, "-c", LOAD, fl.api],
        input=pickle.dumps(fl.raw(spec)),
        capture_output=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    key, token = run.stdout.decode().split()
    assert key == "orders:42"
    assert token.endswith(".receiver")
    assert own_server.admin.exists(key) == 0


@one_server
async def test_leases_do_not_pickle_or_copy(fl: Ways) -> None:
    lease = await fl.client().acquire(fl.key(), ttl=5)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="adopt"):
            attempt(fl.raw(lease))
    await lease.release()
