"""No password and no token in anything that others may read, whichever way a call fails.

Law: the secrets are those that really went over the wire: the proxy has heard them.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from _harness import Ways, async_only, one_server
from _servers import Server
from _spying import OTHER_PASSWORD, PASSWORD, Spy, spying

import fastlock
from fastlock import Config
from fastlock.errors import ConfigError, FastlockError

USER = "alice"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that wants a password, and has a user without many rights."""
    server = Server("valkey")
    server.admin.execute_command(
        "ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "+@all"
    )  # fmt: skip
    server.admin.execute_command(
        "ACL", "SETUSER", "poor", "on", f">{PASSWORD}", "~few:*", "+hello", "+get"
    )  # fmt: skip
    server.admin.execute_command("ACL", "SETUSER", "default", f">{OTHER_PASSWORD}")
    yield server
    server.discard()


class Scene:
    """One way, the spy, and a client through a proxy."""

    def __init__(self, fl: Ways, spy: Spy, guarded: Server) -> None:
        self.fl, self.spy, self.guarded = fl, spy, guarded
        self.proxy = fl.proxy(guarded)

    def client(self, **options: Any) -> Any:
        options = {"username": USER, "password": PASSWORD, "retries": 0, **options}
        client = self.fl.client(f"redis://localhost:{self.proxy.port}", **options)
        self.spy.see(self.fl.raw(client), copies=False)
        return client

    def look_at(self, thing: Any) -> None:
        self.spy.see(self.fl.raw(thing))

    async def perhaps_fails(self, call: Awaitable[Any]) -> None:
        """The spy sees what comes of it."""
        try:
            self.look_at(await call)
        except FastlockError as error:
            self.spy.see(error)

    async def fails(self, call: Awaitable[Any], *kinds: type[BaseException]) -> None:
        """It raises one of these (FastlockError), which the spy sees."""
        with pytest.raises(kinds or FastlockError) as caught:
            await call
        self.spy.see(caught.value)

    def secrets(self) -> set[str]:
        """Passwords, and the secret parts of all tokens that were sent."""
        found = {PASSWORD, OTHER_PASSWORD}
        for words in list(self.proxy.commands):
            for word in words:
                secret, dot, _ = word.decode("latin-1").partition(".")
                if dot and len(secret) > 22 and secret[22] == "-":
                    found.add(secret)
        return found


Play = Callable[[Scene], Awaitable[None]]
PLAYS: dict[str, Play] = {}


def play(function: Play) -> Play:
    PLAYS[function.__name__] = function
    return function


@play
async def a_wrong_password(scene: Scene) -> None:
    for wrong in ({"password": OTHER_PASSWORD}, {"username": None}, {"username": "nobody"}):
        await scene.fails(scene.client(**wrong).acquire("k", timeout=1), fastlock.ServerError)


@play
async def a_password_in_the_uri(scene: Scene) -> None:
    where = f"localhost:{scene.proxy.port}"
    client = scene.fl.client(f"redis://{USER}:{OTHER_PASSWORD}@{where}", retries=0)
    scene.spy.see(scene.fl.raw(client), copies=False)
    scene.spy.see(client.config)
    scene.spy.see(client.config.public())
    await scene.fails(client.ping(), fastlock.ServerError)
    for uri in (
        f"redis://{USER}:{PASSWORD}@{where}:1", f"redis://{PASSWORD}@{PASSWORD}@{where}",
        f"redis//:{PASSWORD}@{where}", f"redis://{USER}:{PASSWORD}", f"{PASSWORD}://{where}",
        f"redis://:{PASSWORD}/@{where}", f"redis://{where}?password={PASSWORD}",
        f"redis://:{PASSWORD}%ff@{where}", f"redis://{where}/{PASSWORD}@",
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            scene.fl.client_class(uri)
        scene.spy.see(caught.value)


@play
async def settings_that_contradict(scene: Scene) -> None:
    for make in (
        lambda: Config(f"redis://:{PASSWORD}@localhost", password=OTHER_PASSWORD),
        lambda: Config(password=PASSWORD.encode()),
        lambda: Config(host=f"redis://:{PASSWORD}@localhost"),
        lambda: Config(passphrase=PASSWORD),
        lambda: Config.from_env({"FASTLOCK_PASWORD": PASSWORD}),
        lambda: Config.from_env({"FASTLOCK_URL": f"redis//{PASSWORD}@h"}),
        lambda: Config.from_mapping({"credential": {"password": PASSWORD, "store_key": "x"}}),
        lambda: Config.from_mapping({"password": [PASSWORD]}),
        lambda: pickle.dumps(Config(password=PASSWORD)),
    ):
        with pytest.raises((ConfigError, TypeError)) as caught:
            make()
        scene.spy.see(caught.value)


@play
async def no_permission(scene: Scene) -> None:
    client = scene.client(username="poor")
    for call in (
        client.acquire("few:k", timeout=0), client.try_acquire("other:k"),
        client.force_release("few:k"), client.holder("other:k"),
    ):  # fmt: skip
        await scene.fails(call, fastlock.ServerError)


@play
async def another_type(scene: Scene) -> None:
    scene.guarded.admin.delete("set")
    scene.guarded.admin.sadd("set", "x")
    client = scene.client()
    await scene.fails(client.acquire("set", timeout=1), fastlock.ServerError)
    await scene.fails(client.holder("set"), fastlock.ServerError)
    await scene.fails(client.adopt("set", "x"), fastlock.ServerError)


@play
async def lost_connections(scene: Scene) -> None:
    client, times = scene.client(), 0
    await client.ping()
    for fault in ("cut_before", "cut_after", "lose_reply", "cut_reply"):
        lease = await client.acquire(f"lost:{fault}", timeout=5)
        for call in (
            lease.extend, lease.release, lambda: client.acquire("lost", timeout=5),
            lambda: client.try_acquire_many(["a", "b"]), lambda: client.holder("x"),
        ):  # fmt: skip
            struck = scene.proxy.fault(fault)
            await scene.perhaps_fails(call())
            if struck.left:
                struck.left = 0  # it took too long to connect: nothing was sent
            else:  # it may have come to what the background gave back on a connection that ended
                times += struck.happened.wait(1)
        scene.look_at(lease)
        with suppress(FastlockError):
            await client.force_release("lost")
    assert times >= 10


@play
async def half_of_the_answers(scene: Scene) -> None:
    """What had come before the connection broke were tokens: whose the locks are."""
    client = scene.client(retries=1)
    await client.ping()
    first = scene.proxy.fault("lose_reply")
    second = scene.proxy.fault("lose_reply", nth=4)  # of three more, and of the repetition's two
    await scene.fails(client.try_acquire_many(["half:1", "half:2", "half:3"], ttl=0.5))
    first.wait()
    second.wait()


@play
async def a_server_that_cannot_be_reached(scene: Scene) -> None:
    client = scene.client()
    lease = await client.acquire("away", timeout=5)
    scene.proxy.down()
    await scene.fails(lease.extend())
    await scene.fails(lease.release())
    await scene.fails(client.acquire("away", timeout=0.1))
    scene.look_at(lease)
    scene.proxy.up()


ECHOES = [
    b"-ERR unknown command 'X', with args beginning with: '%b'\r\n",
    b"-ERR syntax error near '%b' \x1b[2J\r\n",
    b"-%b\r\n",
    b"-NOPERM user has no permissions to run '%b'\r\n",
    b"-BUSY with %b\r\n",
    b"-LOADING %b\r\n",
    b"-NOSCRIPT what is %b?\r\n",
    b"-WRONGTYPE %b\r\n",
    b"?%b\r\n",
    b"$3\r\n%b\r\n",
    b"+%b\r\n",
    b"*1\r\n+%b\r\n",
]


@play
async def a_server_that_repeats_what_it_hears(scene: Scene) -> None:
    """In errors, in what is no RESP, in answers that are none."""
    client = scene.client()
    await client.ping()
    for number, said in enumerate(ECHOES):
        key = f"echo:{number}"
        lease = await client.acquire(key, timeout=5)
        times = 0
        for call in (
            lambda: client.try_acquire("echo"),
            lambda: client.acquire("echo", timeout=0.2),
            lambda: client.try_acquire_many(["echo", "other"]),
            lambda: client.lock_all(["echo", "other"], timeout=0.2).__aenter__(),
            lambda: client.acquire("echo", timeout=0.2, fair=True),
            lambda: client.try_acquire("numbered", fence=True),
            lambda: client.try_acquire_many(["numbered", "other"], fence=True),
            lambda: client.lock_all(["numbered", "other"], timeout=0.2, fence=True).__aenter__(),
            lease.extend,
            lease.release,
        ):
            struck = scene.proxy.fault("echo_reply", data=said)
            await scene.perhaps_fails(call())
            if struck.left:
                struck.left = 0  # nothing was sent
            else:  # the reply may be here before the proxy says so, or the connection have ended
                times += struck.happened.wait(1)
        scene.look_at(lease)
        assert times >= 6  # what is lost by an extension is not released any more
        scene.guarded.admin.delete("echo", "other", "numbered", key)


@play
async def a_server_that_repeats_passwords(scene: Scene) -> None:
    """At the handshake, where they are sent."""
    for verb in ("HELLO", "AUTH"):
        for said in (b"-ERR what is %b?\r\n", b"-%b\r\n", b"-ERR %b\r\n", b"+%b\r\n", b"?%b\r\n"):
            client = scene.client(protocol=3 if verb == "HELLO" else 2)
            struck = scene.proxy.fault("echo_reply", verb=verb, data=said)
            await scene.fails(client.ping())
            struck.wait()


@play
async def locks_that_are_held_or_lost(scene: Scene) -> None:
    client = scene.client()
    lease = await client.acquire("held", ttl=5, timeout=5)
    scene.look_at(lease)
    await scene.fails(client.acquire("held", timeout=0.2), fastlock.AcquireTimeout)
    spec = client.lock("spec", ttl=5)
    scene.look_at(spec)
    scene.spy.see(scene.fl.raw(client.lock_all(["a", "b"])), copies=False)
    with pytest.raises(fastlock.LockLost) as lost:
        async with spec as inside:
            scene.look_at(inside)
            await scene.fails(spec.__aenter__(), fastlock.LockError)
            await scene.fails(client.adopt("held", inside.token), fastlock.LockLost)
            scene.guarded.admin.delete("spec")
            await scene.fails(inside.extend(), fastlock.LockLost)
    scene.spy.see(lost.value)
    for token in (None, "", 7, lease.token.encode()):
        await scene.fails(client.adopt("held", token), ConfigError)
    scene.guarded.admin.delete("held")
    await scene.fails(lease.extend(), fastlock.LockLost)
    with pytest.raises(TypeError) as caught:
        pickle.dumps(scene.fl.raw(lease))
    scene.spy.see(caught.value)
    scene.spy.shown.append(pickle.dumps(scene.fl.raw(spec)).decode("latin-1"))


@play
async def what_goes_on_in_the_background(scene: Scene) -> None:
    """A deferred release and a give-back that the server refuses, in its own words."""
    client = scene.client()
    for said in (b"-ERR no %b\r\n", b"-MISCONF %b\r\n", b"?%b\r\n"):
        lease = await client.acquire("background", ttl=1, timeout=5)
        struck = scene.proxy.fault("echo_reply", data=said, times=4)
        await lease.release(wait=False)
        struck.wait()
        with suppress(FastlockError):
            await client.ping()
        await scene.fl.sleep(0.1)
        struck.left = 0
        lost = scene.proxy.fault("lose_reply")
        refused = scene.proxy.fault("echo_reply", nth=2, data=said, times=2)
        await scene.fails(client.try_acquire("given back", ttl=0.5))
        lost.wait()
        await scene.fl.sleep(0.3)
        refused.left = 0
        scene.guarded.admin.delete("background", "given back")


@one_server
@pytest.mark.parametrize("name", PLAYS)
async def test_secrets_stay_secret(
    fl: Ways, guarded: Server, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    guarded.admin.flushall()
    with spying() as spy:
        scene = Scene(fl, spy, guarded)
        await PLAYS[name](scene)
        for client in fl.clients:
            await client.close()
    spy.shown += capfd.readouterr()
    secrets = scene.secrets()
    spy.look_for(secrets)
    assert len("".join(spy.shown)) > 500
    if name not in NO_TOKENS:
        assert len(secrets) > 2


NO_TOKENS = {
    "a_wrong_password", "a_password_in_the_uri", "settings_that_contradict",
    "a_server_that_repeats_passwords",
}  # fmt: skip


@one_server
@async_only
async def test_an_event_loop_that_tells_all_tells_no_secret(fl: Ways, guarded: Server) -> None:
    """asyncio's debug mode logs whatever takes long, with what it was about."""
    loop = asyncio.get_running_loop()
    with spying() as spy:
        loop.set_debug(True)
        loop.slow_callback_duration = 0
        try:
            scene = Scene(fl, spy, guarded)
            client = scene.client(label="x")
            lease = await client.acquire("debug", timeout=5)
            tasks = [asyncio.ensure_future(client.holder("debug")) for _ in range(3)]
            tasks.append(asyncio.ensure_future(client.acquire("debug", timeout=0.2)))
            tasks.append(asyncio.ensure_future(client.adopt("debug", lease.token)))
            for _ in range(100):
                spy.shown += map(repr, asyncio.all_tasks())
                await asyncio.sleep(0.002)
            await asyncio.gather(*tasks, return_exceptions=True)
            spy.shown += map(repr, tasks[:4])
            await lease.release()
            await client.close()
        finally:
            loop.set_debug(False)
    assert "Executing" in "".join(spy.shown)
    secrets = scene.secrets()
    spy.look_for(secrets)
    assert len(secrets) > 2
