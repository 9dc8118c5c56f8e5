"""``fastlock status`` and ``fastlock release``: what they tell, what they end, what they leave."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _cli import SECRET, Ran, cli, complaint, here, started, until
from _terminal import terminal

import fastlock

TTL = 30


@pytest.fixture
def client(shop: Any) -> Iterator[fastlock.Client]:
    with fastlock.Client(shop.uri, label="the-holder") as client:
        yield client


def locks(ran: Ran) -> dict[str, Any]:
    """What --json says, by key; nothing else is printed."""
    assert (ran.code, ran.err) == (0, "")
    return {lock.pop("key"): lock for lock in json.loads(ran.out)}


# ------------------------------------------------------------------ status


def test_who_holds_it_and_for_how_long(shop: Any, client: fastlock.Client, core: str) -> None:
    lease = client.acquire("held", TTL)
    shop.admin.set("strange", "another library's", px=20_000)
    shop.admin.set("unending", "another library's")
    ask = ("status", "held", "free", "strange", "unending")
    ran = cli(*ask, "--json", FASTLOCK_URL=shop.uri, FASTLOCK_CORE=core)
    said = locks(ran)
    left = said["held"].pop("ttl")
    assert TTL - 15 < left <= TTL
    nothing = {"waiters": 0, "waiting": [], "problem": None}
    assert said["held"] == {"held": True, "holder": "the-holder", **nothing}
    assert said["free"] == {"held": False, "holder": None, "ttl": None, **nothing}
    assert 5 < said["strange"].pop("ttl") <= 20
    assert said["strange"] == {"held": True, "holder": "unknown", **nothing}
    assert said["unending"] == {"held": True, "holder": "unknown", "ttl": None, **nothing}
    table = cli(*ask, FASTLOCK_URL=shop.uri, FASTLOCK_CORE=core)
    rows = {words[0]: words[1:] for line in table.lines if (words := line.split())}
    assert rows["held"][0] == "the-holder"
    assert rows["free"] == ["(free)", "-", "0"]
    assert rows["unending"] == ["unknown", "no", "end", "0"]
    secret = lease.token.partition(".")[0]
    assert secret not in ran.out + table.out
    assert lease.release()


def test_json_is_what_jq_reads(shop: Any, client: fastlock.Client) -> None:
    with client.lock("jq", TTL):
        said = cli("status", "jq", "--json", FASTLOCK_URL=shop.uri).out
    try:
        ran = subprocess.run(
            ["jq", "-r", ".[0].holder"], input=said, capture_output=True, text=True, check=True
        )
    except FileNotFoundError:  # where it is not installed, Python's parser has the word
        assert json.loads(said)[0]["holder"] == "the-holder"
    else:
        assert ran.stdout == "the-holder\n"


def test_who_waits_in_a_fair_queue(shop: Any, client: fastlock.Client) -> None:
    lease = client.acquire("queue", TTL)
    first = started("run", "queue", "--fair", "--", "true", FASTLOCK_URL=shop.uri)
    key = "queue:fastlock.queue:{queue}"
    until(lambda: shop.admin.zcount(key, 1, "+inf") == 1)
    second = started("run", "queue", "--fair", "--", "true", FASTLOCK_URL=shop.uri)
    until(lambda: shop.admin.zcount(key, 1, "+inf") == 2)
    said = locks(cli("status", "queue", "--json", FASTLOCK_URL=shop.uri))["queue"]
    assert said["waiters"] == 2
    assert [label.rpartition(":")[2] for label in said["waiting"]] == [
        str(first.pid), str(second.pid),
    ]  # fmt: skip
    # One who died is passed over, and does not count.
    shop.admin.zadd(key, {"adead.one": -2e15, "ddead.one": 1})
    again = locks(cli("status", "queue", "--json", FASTLOCK_URL=shop.uri))["queue"]
    assert (again["waiters"], again["waiting"]) == (2, said["waiting"])
    assert lease.release()
    assert (first.wait(20), second.wait(20)) == (0, 0)


def test_who_waits_no_more_is_passed_over(shop: Any) -> None:
    """Their places in the queue have ended, and no step of another waiter has removed them yet."""
    shop.admin.set("dead", "another library's", px=TTL * 1000)
    gone, there = (f"{sign * 22}-1.{label}" for sign, label in (("g", "gone"), ("t", "there")))
    now = int(shop.admin.time()[0]) * 1000
    places = {
        f"a{gone}": -2e15,
        f"a{there}": -1e15,
        f"d{gone}": now - 60_000,
        f"d{there}": now + 60_000,
    }
    shop.admin.zadd("dead:fastlock.queue:{dead}", places)
    said = locks(cli("status", "dead", "--json", FASTLOCK_URL=shop.uri))["dead"]
    assert (said["waiters"], said["waiting"]) == (1, ["there"])


def test_all_that_match(shop: Any, client: fastlock.Client) -> None:
    keys = [f"job:{number}" for number in range(3)] + ["job:[x]*"]
    leases = [client.acquire(key, TTL, fence=True) for key in keys]
    other = client.acquire("jo", TTL)
    shop.admin.set("job:cache", "no lock")
    shop.admin.rpush("job:list", "no lock")
    said = locks(cli("status", "--match", "job:*", "--json", FASTLOCK_URL=shop.uri))
    assert list(said) == sorted(keys)
    said = locks(cli("status", "--match", "job:*", "--foreign", "--json", FASTLOCK_URL=shop.uri))
    assert list(said) == sorted([*keys, "job:cache"])
    said = locks(cli("status", "--match", "b:?", "--json", FASTLOCK_URL=f"{shop.uri}?prefix=jo"))
    assert list(said) == ["b:0", "b:1", "b:2"]
    ran = cli("status", "--match", "none*", FASTLOCK_URL=shop.uri)
    assert tuple(ran) == (0, "no lock matches\n", "")
    assert all(client.release_many([*leases, other]))
    # A prefix stands for itself, whatever patterns mean.
    with client.lock("[a]*:x", TTL), client.lock("a:x", TTL):
        env = {"FASTLOCK_URL": shop.uri, "FASTLOCK_PREFIX": "[a]*:"}
        assert list(locks(cli("status", "--match", "*", "--json", **env))) == ["x"]


def test_what_is_no_lock(shop: Any) -> None:
    shop.admin.rpush("a-list", "x")
    said = locks(cli("status", "a-list", "--json", FASTLOCK_URL=shop.uri))["a-list"]
    assert said["held"] is False
    assert said["problem"].startswith("WRONGTYPE")
    ran = cli("status", "a-list", FASTLOCK_URL=shop.uri)
    assert "(WRONGTYPE: it is no lock)" in ran.out
    shop.admin.set("loud\x1b[31m", "x", px=1000)
    assert "\x1b" not in cli("status", "loud\x1b[31m", FASTLOCK_URL=shop.uri).out


def test_the_least_that_a_user_must_be_allowed(shop: Any, client: fastlock.Client) -> None:
    rights = "+hello +getrange +pttl +zcount +zrange +time +scan".split()  # noqa: SIM905
    acl = ("ACL", "SETUSER", "reader", "reset", "on", f">{SECRET}", "~*")
    shop.admin.execute_command(*acl, *rights)
    url = f"redis://reader:{SECRET}@127.0.0.1:{shop.port}"
    with client.lock("allowed", TTL):
        assert locks(cli("status", "allowed", "--json", "--url", url))["allowed"]["held"]
        said = locks(cli("status", "--match", "allowed", "--json", "--url", url))
        assert list(said) == ["allowed"]
        shop.admin.execute_command(*acl, *rights, "-zcount", "-zrange", "-time")
        said = locks(cli("status", "allowed", "--json", "--url", url))["allowed"]
        assert (said["holder"], said["waiters"]) == ("the-holder", None)
    shop.admin.execute_command(*acl, *rights, "-getrange")
    ran = cli("status", "allowed", "--url", url)
    assert ran.code == 69
    assert "NOPERM" in complaint(ran)


def test_the_users_of_the_page(shop: Any) -> None:
    """docs/security.md: who looks, and who ends locks; the locks' own user may not look."""
    text = (Path(__file__).parents[2] / "docs/security.md").read_text()
    name, version = shop.version.split()
    own = next(
        words
        for where, words in re.findall(r"^(\S+ \S+) +(ACL SETUSER locks reset .*)$", text, re.M)
        if where in ("any other", f"{name.capitalize()} {version.rpartition('.')[0]}")
    )
    (looks,) = re.findall(r"^to look +(.*)$", text, re.M)
    (ends,) = re.findall(r"^to end one +(.*)$", text, re.M)

    def allow(words: str) -> None:
        shop.admin.execute_command(*words.replace("PASSWORD", SECRET).split())

    def url(user: str) -> str:
        return f"redis://{user}:{SECRET}@127.0.0.1:{shop.port}?prefix=locks:"

    allow(own)
    allow(looks)
    watch = ("watch", "--once", "--json")
    with fastlock.Client(url("locks"), label="the-holder") as client:
        client.acquire("paged", TTL)
        assert locks(cli("status", "paged", "--json", "--url", url("looker")))["paged"]["held"]
        assert list(locks(cli("status", "--match", "*", "--json", "--url", url("looker"))))
        (seen,) = map(json.loads, cli(*watch, "--url", url("looker")).lines)
        assert (seen["told"], [lock["key"] for lock in seen["locks"]]) == (True, ["paged"])
        force = ("release", "--force", "--yes", "paged", "--url", url("locks"))
        assert cli(*force).code == 69
        told = "  fastlock status and watch are for a user with +getrange +zcount +scan besides"
        ran = cli("doctor", "--url", url("locks"))
        assert told in ran.lines
        assert "problem:" not in ran.out
        allow(ends)
        assert cli(*force).out == "'paged' was held by the-holder; ended\n"


def test_keys_that_look_alike(shop: Any) -> None:
    """Each has its row, spelled as it may be typed again; in JSON each is what it is."""
    keys = ["like a", "like  a", "like\ta", "like\x1b[31ma", "like \u200ba", "like\udcffa"]
    for key in keys:
        shop.admin.set(
            key.encode(errors="surrogateescape"), f"{'x' * 22}-1.the-holder", px=TTL * 1000
        )
    said = locks(cli("status", "--match", "like*", "--json", FASTLOCK_URL=shop.uri))
    assert set(said) == set(keys)
    for words in (("status", "--match", "like*"), ("watch", "like", "--once")):
        lines = [line for line in cli(*words, FASTLOCK_URL=shop.uri).lines if "the-holder" in line]
        shown = {line.partition("the-holder")[0].rstrip() for line in lines}
        spelled = {r"like\ta", r"like\x1b[31ma", r"like \u200ba", r"like\xffa"}
        assert shown == {"like a", "like  a", *spelled}
    ran = cli("release", "--force", "--yes", "like  a", FASTLOCK_URL=shop.uri)
    assert ran.out == "'like  a' was held by the-holder; ended\n"
    assert shop.admin.exists("like a") == 1
    assert cli("run", "like\ta", "--timeout", "0", "--", "true", FASTLOCK_URL=shop.uri).err == (
        "fastlock: 'like\\ta' is held by the-holder; try: a longer --timeout, or fastlock status\n"
    )


def test_what_is_long_takes_several_lines_of_a_terminal(shop: Any) -> None:
    key, label = "long:" + "k" * 80, "h" * 70
    shop.admin.set(key, f"{'x' * 22}-1.{label}", px=TTL * 1000)
    with terminal("status", key, FASTLOCK_URL=shop.uri, COLUMNS="80") as at:
        assert at.ended() == 0
    shown = re.sub(r"\x1b\[\d*m", "", at.shown)  # the heading is bold
    rows = [line for line in shown.splitlines() if "k" in line or "h" in line]
    assert sum(row.count("k") for row in rows[1:]) == 80
    assert sum(row.count("h") for row in rows[1:]) == 70
    assert max(map(len, rows)) <= 80
    assert re.search(r" \d\d\.\d +0$", at.shown, re.M)


# ------------------------------------------------------------------ release


def test_it_is_ended_unasked_if_one_says_so(shop: Any, client: fastlock.Client) -> None:
    lease = client.acquire("stuck", TTL)
    ran = cli("release", "--force", "--yes", "stuck", FASTLOCK_URL=shop.uri)
    assert tuple(ran) == (0, "'stuck' was held by the-holder; ended\n", "")
    assert lease.release() is False
    ran = cli("release", "--force", "--yes", "stuck", FASTLOCK_URL=shop.uri)
    assert tuple(ran) == (1, "'stuck' is held by nobody\n", "")
    shop.admin.set("stuck", "\xff another library's")
    ran = cli("release", "--force", "-y", "stuck", "--json", FASTLOCK_URL=shop.uri)
    assert json.loads(ran.out) == {"key": "stuck", "released": True, "holder": "unknown"}
    assert shop.admin.exists("stuck") == 0


def test_it_asks_first(shop: Any, client: fastlock.Client) -> None:
    lease = client.acquire("asked", TTL)
    ask = ("release", "--force", "asked")
    for answer, said in ((b"n\n", "not ended\n"), (b"\n", "not ended\n")):
        with terminal(*ask, FASTLOCK_URL=shop.uri) as at:
            shown = at.until("End it? [y/N] ")
            assert "'asked' is held by the-holder and ends by itself in " in shown
            at.type(answer)
            assert at.ended() == 1
        assert at.shown.endswith(said)
        assert lease.valid()
        assert client.locked("asked")
    with terminal(*ask, FASTLOCK_URL=shop.uri) as at:
        at.until("End it? [y/N] ")
        at.type(b"y\n")
        assert at.ended() == 0
    assert at.shown.endswith("'asked' was held by the-holder; ended\n")
    assert not client.locked("asked")


def test_only_the_holder_that_was_shown_is_ended(shop: Any, client: fastlock.Client) -> None:
    lease = client.acquire("changes", TTL)
    with terminal("release", "--force", "changes", FASTLOCK_URL=shop.uri) as at:
        at.until("End it? [y/N] ")
        assert lease.release()
        later = client.acquire("changes", TTL)
        at.type(b"y\n")
        assert at.ended() == 1
    assert at.shown.endswith("the-holder holds it no more; not ended\n")
    assert later.release() is True


def test_there_is_nobody_to_ask(shop: Any, client: fastlock.Client) -> None:
    with client.lock("unasked", TTL):
        ran = cli("release", "--force", "unasked", FASTLOCK_URL=shop.uri)
        assert ran.code == 2
        assert "say --yes" in complaint(ran)
        assert client.locked("unasked")


# ------------------------------------------------------------------ that cannot work


@pytest.mark.parametrize("command", [("status", "x"), ("release", "--force", "x"), ("watch",)])
def test_the_server_is_in_trouble(command: tuple[str, ...], nobody: str, babbler: str) -> None:
    for uri in (nobody, babbler):
        ran = here(*command, "--url", uri)
        assert ran.code == 69
        assert "; try: " in complaint(ran)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("status",), "name keys, or give --match"),
        (("status", "x", "--match", "y"), "name keys, or give --match"),
        (("status", "x", "--foreign"), "--foreign goes with --match"),
        (("status", "--match", ""), "--match is empty, and no key is; '*' matches all"),
        (("status", ""), "key: it is empty"),
        (("release", "x"), "--force"),
        (("release", "--force"), "Missing argument 'KEY'"),
        (("watch", "--interval", "0"), "must be a number from 0.1"),
        (("watch", "--limit", "many"), "must be a number from 1"),
        (("bench", "--threads", "0"), "must be a number from 1"),
        (("completion", "tcsh"), "is not one of"),
    ],
)
def test_wrong_usage(args: tuple[str, ...], said: str) -> None:
    ran = here(*args)
    assert ran.code == 2
    assert said in complaint(ran)
