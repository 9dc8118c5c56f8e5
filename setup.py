"""Builds the compiled core. Law: that and nothing else; all else is in pyproject.toml.

What the environment may say (unset and empty mean the default):

FASTLOCK_BUILD          auto    build the compiled core; if that fails, say so in one loud
                                line and build a package in Python only (the default)
                        cython  build the compiled core or fail
                        pure    do not try
FASTLOCK_HIREDIS        system  link the hiredis that pkg-config finds (1.0 or newer)
FASTLOCK_HIREDIS_SDIST  PATH    hiredis sources: a directory or a .tar.gz, of hiredis or
                                of the hiredis package
FASTLOCK_DEBUG          1       AddressSanitizer and UndefinedBehaviorSanitizer, C asserts, -O1 -g
                        fuzz    the same, instrumented for libFuzzer; needs CC=clang

Without the two HIREDIS variables the sources are those inside our own sdist, else the
sdist named by PIN, which pip fetches and whose hash it checks. A demand that cannot be
met (a variable that is wrong) is an error in every mode: only surprises fall back.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from setuptools import Command, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("src/fastlock")
#: The modules of the compiled core, and the one among them that hiredis is linked into.
MODULES = (
    "fastlock._pack",
    "fastlock._codec",
    "fastlock._leases",
    "fastlock._divide",
    "fastlock._meter",
    "fastlock._mux",
    "fastlock._core",
    "fastlock._straight",
    "fastlock._scheduler",
    "fastlock._heartbeat",
)
PARSES = "fastlock._codec"

#: The hiredis package (PyPI) whose sdist carries the C sources, and its SHA-256.
PIN = ("3.5.0", "c227592cc56b7df247abe4755c26723965be68972be2149fa441ac33d82131ba")
#: What our own sdist carries of it. Not "hiredis/": seen from the root of the sdist,
#: that would be importable under the name of a package that redis-py looks for.
CARRIED = ROOT / "vendor" / "hiredis"
#: The reader, without its sockets; headers are found by following #include.
UNITS = ("alloc.c", "read.c", "sds.c")
LICENCE = "COPYING"


class DemandError(SetupError):
    """The environment asks for something that cannot be had; no mode falls back from it."""


def setting(name: str, *allowed: str) -> str:
    value = os.environ.get(name, "").strip()
    if value and value not in allowed:
        raise SystemExit(f"{name}={value!r} is unknown; it can be {', '.join(allowed)}")
    return value


MODE = setting("FASTLOCK_BUILD", "auto", "cython", "pure") or "auto"
SYSTEM = setting("FASTLOCK_HIREDIS", "system") == "system"
DEBUG = setting("FASTLOCK_DEBUG", "0", "1", "fuzz") not in ("", "0")
FUZZ = setting("FASTLOCK_DEBUG", "0", "1", "fuzz") == "fuzz"


# --- hiredis (bench/limit.py borrows fetch, read_tar and read_tree) ------------------


@dataclass
class Hiredis:
    """How to compile against hiredis, and where it came from."""

    origin: str
    sources: list[str] = field(default_factory=list)
    include_dirs: list[str] = field(default_factory=list)
    compile_args: list[str] = field(default_factory=list)
    link_args: list[str] = field(default_factory=list)


def find_hiredis(scratch: Path) -> Hiredis:
    """The first source that the rules at the top of this file name."""
    if SYSTEM:
        return system_hiredis()
    into = scratch / "hiredis"
    origin = stage_hiredis(into)
    return Hiredis(
        origin,
        sources=[str(into / unit) for unit in UNITS],
        # Both <read.h> and <hiredis/read.h> are found, as with an installed hiredis.
        include_dirs=[str(into), str(scratch)],
    )


def system_hiredis() -> Hiredis:
    tool = os.environ.get("PKG_CONFIG", "pkg-config")

    def ask(*words: str) -> str:
        done = subprocess.run([tool, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemandError(
                "FASTLOCK_HIREDIS=system needs hiredis 1.0 or newer with its headers "
                f"(Debian: libhiredis-dev); {tool} says: {last_line(done.stderr) or 'not found'}"
            )
        return done.stdout.strip()

    if shutil.which(tool) is None:
        raise DemandError(f"FASTLOCK_HIREDIS=system needs {tool}, which is not on PATH")
    ask("--print-errors", "hiredis >= 1.0")
    return Hiredis(
        f"system {ask('--modversion', 'hiredis')}",
        include_dirs=[f"{ask('--variable=includedir', 'hiredis')}/hiredis"],
        compile_args=shlex.split(ask("--cflags", "hiredis")),
        link_args=shlex.split(ask("--libs", "hiredis")),
    )


def stage_hiredis(into: Path) -> str:
    """Put the reader's sources and the licence into ``into``; return their origin."""
    named = os.environ.get("FASTLOCK_HIREDIS_SDIST", "").strip()
    if named:
        source, origin = Path(named), "FASTLOCK_HIREDIS_SDIST"
        if not source.exists():
            raise DemandError(f"FASTLOCK_HIREDIS_SDIST={named!r} does not exist")
    elif CARRIED.is_dir():
        source, origin = CARRIED, f"{PIN[0]} (in the sdist)"
    else:
        source, origin = fetch(), f"{PIN[0]} (from the package index)"
    files = read_tar(source) if source.is_file() else read_tree(source)
    try:
        chosen = closure(files)
    except KeyError as missing:
        error = DemandError if named else SetupError
        raise error(f"{source} holds no hiredis sources ({missing} is missing)") from None
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for name, content in chosen.items():
        (into / name).write_bytes(content)
    return origin


def relevant(name: str) -> bool:
    return name == LICENCE or name.endswith((".c", ".h"))


def read_tree(folder: Path) -> dict[str, bytes]:
    inner = folder / "vendor" / "hiredis"
    home = inner if (inner / "read.c").is_file() else folder
    return {file.name: file.read_bytes() for file in home.iterdir() if relevant(file.name)}


def read_tar(archive: Path) -> dict[str, bytes]:
    """The files beside the outermost read.c. Read, not extracted: no path is trusted."""
    try:
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.isfile() and relevant(Path(m.name).name)]
            homes = [PurePosixPath(m.name).parent for m in members if m.name.endswith("/read.c")]
            home = min(homes, key=lambda p: len(p.parts), default=None)
            beside = [m for m in members if PurePosixPath(m.name).parent == home]
            return {PurePosixPath(m.name).name: tar.extractfile(m).read() for m in beside}  # type: ignore[union-attr]
    except tarfile.TarError as problem:
        raise DemandError(f"{archive} is no tar archive: {problem}") from None


def closure(files: dict[str, bytes]) -> dict[str, bytes]:
    """The units, every header that they reach, and the licence. KeyError: one is missing."""
    chosen = {LICENCE: files[LICENCE]}
    queue = list(UNITS)
    while queue:
        name = queue.pop()
        if name not in chosen:
            chosen[name] = files[name]
            wanted = re.findall(rb'^\s*#\s*include\s+"([^"/]+)"', files[name], re.MULTILINE)
            queue += [w.decode() for w in wanted if w.decode() in files]
    return chosen


def fetch() -> Path:
    """The pinned sdist, kept in build/ so that the next build needs no network."""
    version, digest = PIN
    folder = ROOT / "build"
    archive = folder / f"hiredis-{version}.tar.gz"
    if archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() == digest:
        return archive
    folder.mkdir(exist_ok=True)
    pinned = folder / "hiredis.txt"
    pinned.write_text(f"hiredis=={version} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--retries", "2", "--no-deps", "--no-binary", "hiredis", "--no-build-isolation",
               "--require-hashes", "--dest", str(folder), "-r", str(pinned)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not archive.is_file():
        raise SetupError(
            f"the C sources of hiredis {version} could not be fetched "
            f"({last_line(done.stderr) or 'pip gave no reason'}); without network, set "
            "FASTLOCK_HIREDIS_SDIST=/path/to/hiredis.tar.gz or FASTLOCK_HIREDIS=system"
        )
    return archive


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "")


# --- the extension ------------------------------------------------------------------


class Outcome:
    """What became of this build; BuildRecord writes it down. One build per process."""

    core = "python"
    why = "FASTLOCK_BUILD=pure was set"
    hiredis = ""
    licence: Path | None = None


class BuildCore(build_ext):
    """Cython, then the C compiler; in mode auto, any surprise leaves a pure package."""

    def run(self) -> None:
        # Neither flags nor the hiredis source show in a time stamp.
        self.force = True
        try:
            super().run()
        except DemandError:
            raise
        except Exception as problem:
            if MODE == "cython":
                raise
            self.fall_back(problem)
        else:
            Outcome.core, Outcome.why = "cython", "the compiled core was built"

    def build_extensions(self) -> None:
        if os.name != "posix" or platform.python_implementation() != "CPython":
            raise SetupError("the compiled core needs CPython on a POSIX system")
        try:
            from Cython.Build import cythonize
        except ImportError:
            raise SetupError("Cython is not installed (needed: cython >= 3.1)") from None
        compiler = self.compiler.compiler[0]
        if shutil.which(compiler) is None:
            raise SetupError(f"the C compiler {compiler} is not on PATH (Debian: gcc)")
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            raise SetupError("Python's C headers are not installed (Debian: python3-dev)")
        scratch = Path(self.build_temp)
        hiredis = find_hiredis(scratch)
        units = cythonize(
            self.extensions,
            build_dir=str(scratch / "cython"),
            include_path=[str(PACKAGE.parent)],
            compiler_directives={"language_level": "3"},
            emit_linenums=DEBUG,
            force=True,
            quiet=True,
        )
        compile_args, link_args = flags(strip=not (self.inplace or self.editable_mode))
        for ext, unit in zip(self.extensions, units, strict=True):
            ext.sources = list(unit.sources)
            ext.include_dirs += [str(PACKAGE), *hiredis.include_dirs]
            ext.extra_compile_args += [*compile_args, *hiredis.compile_args]
            ext.extra_link_args += link_args
            if ext.name == PARSES:
                ext.sources += hiredis.sources
                ext.extra_link_args += hiredis.link_args
        super().build_extensions()
        Outcome.hiredis = hiredis.origin
        if hiredis.sources:
            Outcome.licence = scratch / "hiredis" / LICENCE

    def fall_back(self, problem: Exception) -> None:
        text = str(problem).strip().splitlines()
        Outcome.why = text[0] if text else type(problem).__name__
        self.extensions: list[Extension] = []
        self.distribution.ext_modules = []
        print(
            "!!!! fastlock: BUILT WITHOUT ITS COMPILED CORE: the Python core does the same, "
            f"slower. Reason: {Outcome.why}. FASTLOCK_BUILD=cython makes this an error. !!!!",
            file=sys.stderr,
            flush=True,
        )


def flags(strip: bool) -> tuple[list[str], list[str]]:
    """Compiler and linker arguments, which come after those Python itself was built with.

    ``strip``: drop the names of functions too. Profilers want them, so a build in the
    work tree keeps them.
    """
    compile_args = ["-fvisibility=hidden", "-pthread"]
    link_args = ["-pthread"]
    if DEBUG:
        sanitize = "-fsanitize=address,undefined"
        compile_args += ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", sanitize]
        # What is undefined ends the process, as a wrong access does.
        compile_args += ["-fno-sanitize-recover=undefined"]
        compile_args += ["-fsanitize=fuzzer-no-link"] if FUZZ else []
        link_args += [] if FUZZ else [sanitize]  # the fuzzer brings what they call
    else:
        compile_args += ["-O2", "-g0"]
        link_args += ["-Wl,-S"]  # no debug symbols; GNU ld, lld and Apple's ld know it
        if strip:
            link_args += ["-Wl,-x"] if sys.platform == "darwin" else ["-Wl,-s"]
    return compile_args, link_args


# --- the commands around it -----------------------------------------------------------


class BuildRecord(Command):
    """Writes fastlock/_build.json, from which the installed package explains its core."""

    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        if self.editable_mode:
            home = ROOT / PACKAGE
            if Outcome.core == "python":
                self.drop_stale_core(home)
        else:
            home = Path(self.build_lib or "") / "fastlock"
        record = {
            "asked": MODE,
            "core": Outcome.core,
            "debug": DEBUG,
            "hiredis": Outcome.hiredis,
            "why": Outcome.why,
        }
        (home / "_build.json").write_text(json.dumps(record, indent=1) + "\n")

    def drop_stale_core(self, home: Path) -> None:
        # An older in-place build for this interpreter would be imported instead.
        command = self.get_finalized_command("build_ext")
        for name in MODULES:
            (home / Path(command.get_ext_filename(name)).name).unlink(missing_ok=True)

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    sub_commands = [*build.sub_commands, ("build_record", None)]

    def run(self) -> None:
        # A module deleted from the tree must not travel on from an older build.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class Wheel(bdist_wheel):
    """Builds before the tag is chosen: only then is it known whether there is an extension."""

    skip_build: bool

    def run(self) -> None:
        if not self.skip_build:
            self.run_command("build")
            self.skip_build = True
            self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def write_wheelfile(self, wheelfile_base: Any, *args: Any, **kwargs: Any) -> None:
        super().write_wheelfile(wheelfile_base, *args, **kwargs)
        if Outcome.licence is not None and not self.editable():
            home = Path(wheelfile_base) / "licenses" / "hiredis"
            home.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Outcome.licence, home / LICENCE)

    def editable(self) -> bool:
        return "editable_wheel" in self.distribution.command_obj


class Sdist(sdist):
    """Adds hiredis's sources and licence: a wheel builds from the sdist without network."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        stage_hiredis(Path(base_dir) / CARRIED.relative_to(ROOT))


def extensions() -> list[Extension]:
    return [
        Extension(name, [str(PACKAGE / f"{name.rpartition('.')[2]}.pyx")])
        for name in MODULES
        if MODE != "pure"
    ]


setup(
    ext_modules=extensions(),
    cmdclass={
        "bdist_wheel": Wheel,
        "build": Build,
        "build_ext": BuildCore,
        "build_record": BuildRecord,
        "sdist": Sdist,
    },
)
