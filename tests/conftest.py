"""What every test session has: servers, cores, both APIs, and an honest sum at its end.

Law: a skip that tests/expected_skips.txt does not explain fails the session; so does a GIL
that is on at its end, in a CPython that has none unless a package wants it.
"""

from __future__ import annotations

import inspect
import os
import platform
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _servers
import pytest
from _alone import Gate
from _harness import APIS, CORES, FREE_THREADED, SERVERS, Ways, gil
from _matrix import TOTALS, summary
from _proxy import INJECTED

WORKERS_PER_CPU = 3.5
MOST_WORKERS = 16

_expected = Path(__file__).with_name("expected_skips.txt")
_met = _servers.MET
_ways: Counter[str] = Counter()  # "sync cython" -> tests run
_skips: dict[tuple[str, str], str | None] = {}  # node id and reason -> why that is fine
_gils: Counter[str] = Counter()  # how the GIL was at the end -> processes
_silent: list[str] = []  # workers that ended without a word: what they counted is lost
_gate: Gate | None = None  # of one of pytest -n's workers


def pytest_addoption(parser: pytest.Parser) -> None:
    add = parser.addoption
    add("--hammer", type=float, default=2.0, help="seconds of many threads at once (2)")
    add("--shares", type=float, default=3.0, help="seconds of eight processes at one key (3)")
    add("--no-gil", action="store_true", help="refuse a Python that is built with the GIL")
    add("--trustme", help="a Python that has trustme, where this one cannot have it")
    add("--hiredis", help="a folder with the package hiredis, where it is not installed")
    add("--one-kind", action="store_true", help="each test on one kind of server, in turns")
    add("--quorum-kills", type=int, default=20, help="servers killed amid acquires, each way (20)")
    add("--leak-operations", type=int, default=10_000, help="of tests/leaks, each way (10000)")


# ------------------------------------------------------------------ fixtures


@pytest.fixture(scope="session")
def server_of() -> Iterator[Any]:
    """kind -> the session's server of that kind; started when first asked for."""
    started: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in started:
            if kind == "given":
                assert _servers.GIVEN_URL
                started[kind] = _servers.GivenServer(_servers.GIVEN_URL)
            else:
                if _servers.binary_of(kind) is None:
                    pytest.skip(f"{kind}-server is not installed")
                started[kind] = _servers.Server(kind)
                is_now = started[kind].version
                if kind in _servers.NAMED and not f"{is_now}.".startswith(
                    f"{kind.replace('-', ' ')}."
                ):
                    raise RuntimeError(f"FASTLOCK_TEST_SERVERS: {kind} says that it is {is_now}")
            _met[kind] = started[kind].version
        return started[kind]

    yield get
    for server in started.values():
        server.discard()


@pytest.fixture(scope="session")
def met() -> dict[str, str]:
    """For what the session's footer says of servers that a test module has started itself."""
    return _met


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, server_of: Any) -> Any:
    """Every kind of server in turn; shared by all tests, so use keys of your own."""
    return server_of(request.param)


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[_servers.Server]:
    """A server for this test alone: it may be restarted, killed, stopped.

    Of the kind that the test is run with; of no matter which, an embedded one.
    """
    kind = request.getfixturevalue("server").kind if "server" in request.fixturenames else "given"
    server = _servers.Server("valkey" if kind == "given" else kind)
    yield server
    server.thaw() if server.process else None
    server.discard()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> _servers.Certificates:
    """A certificate authority, and a certificate for localhost (not for 127.0.0.1)."""
    return _servers.Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_server(certificates: _servers.Certificates) -> Iterator[_servers.Server]:
    """A server that speaks TLS only."""
    if _servers.tls_binary() is None:
        pytest.skip("no server with TLS is installed")
    server = _servers.Server("redis", tls=certificates.options())
    _met["tls"] = f"{server.version} with TLS"
    yield server
    server.discard()


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> str:
    """Both cores."""
    name: str = request.param
    return name


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    """Both APIs."""
    name: str = request.param
    return name


@pytest.fixture
def fl(api: str, core: str, server: Any) -> Ways:
    """The way this test is run; see _harness."""
    _ways[f"{api} {core}"] += 1
    return Ways(api, core, server)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine function is run by its ``fl``."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    body = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    pyfuncitem.funcargs["fl"].run(body)
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark whole folders; those alone first. With ``--one-kind``, of tests that are alike but
    for the server, one stays, of each kind in turn.
    """
    items.sort(key=lambda item: not _alone(item))
    for item in items:
        mark = {"contract": "contract", "redis_py": "drop_in"}.get(item.path.parent.name)
        if mark is not None:
            item.add_marker(mark)
    if not config.getoption("--one-kind"):
        return
    alike: dict[Any, list[pytest.Item]] = {}
    for item in items:
        spec = getattr(item, "callspec", None)
        rest = {} if spec is None else {**spec.indices, "server": None}
        alike.setdefault((item.nodeid.partition("[")[0], *sorted(rest.items())), []).append(item)
    kept = [same[place % len(same)] for place, same in enumerate(alike.values())]
    left_out = set(items) - set(kept)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


# ------------------------------------------------------------------ several workers: pytest -n


def _alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # waiting is not of the test's own time
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[Any]:
    """Let tests be alone that are marked so."""
    if _gate is None:
        return (yield)
    _gate.enter(_alone(item))
    try:
        return (yield)
    finally:
        _gate.leave(_alone(nextitem))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` means: more workers than CPUs, for much of a test is waiting.

    None (all in this process) with a server that was given: workers would share it, and
    tests count its connections and empty its memory of scripts.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 0 if _servers.GIVEN_URL else min(int(WORKERS_PER_CPU * (cpus or 1)), MOST_WORKERS)


# ------------------------------------------------------------------ the sum


def expected_skips(text: str) -> list[tuple[re.Pattern[str], re.Pattern[str], str]]:
    """The lines ``node id or glob :: regex of the reason :: why``; ``*`` is the only wildcard."""
    entries = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" :: ")]
        if len(parts) != 3 or not all(parts):
            raise pytest.UsageError(f"{_expected.name}: not 'test :: reason :: why': {line!r}")
        glob = ".*".join(map(re.escape, parts[0].split("*")))
        entries.append((re.compile(glob, re.DOTALL), re.compile(parts[1]), parts[2]))
    return entries


def why_expected(nodeid: str, reason: str, text: str) -> str | None:
    """Why this skip is fine, or None if nobody has said so."""
    for test, pattern, why in expected_skips(text):
        if test.fullmatch(nodeid) and pattern.search(reason):
            return why
    return None


def _note_skip(nodeid: str, reason: str) -> None:
    text = _expected.read_text() if _expected.exists() else ""
    _skips[nodeid, reason] = why_expected(nodeid, reason, text)


def _look_for_a_skip(report: Any) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    _note_skip(report.nodeid, reason.removeprefix("Skipped: "))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _look_for_a_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _look_for_a_skip(report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    _gils[gil()] += 1
    if _gate is not None:
        _gate.remove()
    if output is not None:  # one of pytest -n's workers: the controller does the sum
        skips = [list(key) for key in _skips]
        output["fastlock"] = [
            _met, dict(_ways), dict(INJECTED), skips, dict(_gils), dict(TOTALS)
        ]  # fmt: skip
        return
    if (None in _skips.values() or "on" in _gils) and exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """In the controller of pytest -n: a worker has ended."""
    if "fastlock" not in getattr(node, "workeroutput", {}):
        _silent.append(f"{node.gateway.id}: {error}")
        return
    met, ways, faults, skips, gils, totals = node.workeroutput["fastlock"]
    _met.update(met)
    _ways.update(ways)
    INJECTED.update(faults)
    TOTALS.update(totals)
    _gils.update(gils)
    for nodeid, reason in skips:
        _note_skip(nodeid, reason)


def pytest_configure(config: pytest.Config) -> None:
    for name in ("SIGINT", "SIGQUIT", "SIGHUP"):
        # In a shell's background, or under nohup: what the tests start would ignore it, too.
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            mine = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(number, mine)
    _servers.TRUSTME = config.getoption("--trustme") or _servers.TRUSTME
    wrong = _servers.unusable()
    if config.getoption("--no-gil") and not FREE_THREADED:
        wrong = f"--no-gil: {sys.executable} is built with the GIL"
    if wrong is not None:
        raise pytest.UsageError(wrong)
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        global _gate
        _gate = Gate(worker["testrunuid"])


def pytest_report_header() -> list[str]:
    if _servers.GIVEN_URL:
        binaries: list[str | None] = ["the one of FASTLOCK_TEST_URL"]
    elif _servers.NAMED:
        binaries = [f"{name} ({program})" for name, program in _servers.NAMED.items()]
    else:
        binaries = [_servers.valkey_binary(), _servers.redis_binary()]
    return [
        f"fastlock: cores {', '.join(CORES)}; APIs {', '.join(APIS)}",
        f"servers: {', '.join(filter(None, binaries)) or 'none'}",
    ]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    out = terminalreporter
    out.section("fastlock")
    out.line(f"python   {platform.python_version()} on {platform.platform(terse=True)}")
    if FREE_THREADED:
        out.line(f"gil      {_counted(_gils)} at the end", red="on" in _gils)
    out.line(f"servers  {', '.join(sorted(_met.values())) or 'none was needed'}")
    out.line(f"ways     {_counted(_ways) or 'none was taken'}")
    out.line(f"faults   {_counted(INJECTED) or 'none was injected'}")
    if sum_of_cuts := summary(TOTALS):
        out.line(f"cuts     {sum_of_cuts}", red=bool(TOTALS["violations"] + TOTALS["leaks"]))
    explained = Counter(f"{reason} ({why})" for (_, reason), why in _skips.items() if why)
    for text, number in explained.items():
        out.line(f"skipped  {number}: {text}")
    for worker in _silent:
        out.line(f"NOT COUNTED: what worker {worker.strip()} did", red=True)
    for (nodeid, reason), why in _skips.items():
        if why is None:
            out.line(f"SKIPPED WITHOUT AN ENTRY IN {_expected.name}: {nodeid}: {reason}", red=True)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counter.items()))
