"""``fastlock doctor`` about the GIL, on Pythons that can do without it.

Law: the module that needs the GIL is hiredis itself, which lies apart (``--hiredis``), as no
test of the session may import it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _cli import cli, ended, started
from _harness import FREE_THREADED
from test_doctor import problems

#: Imports hiredis's extension under another name, then runs the doctor.
OTHER = """
import sys, warnings
warnings.simplefilter("ignore")
import elsewhere.hiredis
from fastlock.cli import main
sys.exit(main(sys.argv[1:]))
"""
HEARD = """
from fastlock.cli import doctor
with doctor._heard() as modules:
    import elsewhere.hiredis
print(*modules)
"""
UNINSTALL = (
    "pip uninstall hiredis (the compiled core has a parser of its own), or start Python with "
    "PYTHON_GIL=0"
)


def how_it_is(ran: Any) -> str:
    """What the section about the GIL says."""
    place = ran.lines.index("gil")
    said: str = ran.lines[place + 1].strip()
    return said


if not FREE_THREADED:

    def test_where_it_is_built_in_nothing_is_said_of_it(shop: Any) -> None:
        ran = cli("doctor", "--url", shop.uri)
        assert "gil" not in ran.lines
        assert "  Python is built with the GIL" in ran.lines

else:

    @pytest.fixture
    def hiredis(pytestconfig: pytest.Config) -> str:
        """The folder that has it."""
        folder = pytestconfig.getoption("--hiredis")
        assert folder, "say --hiredis FOLDER, made by pip install --target FOLDER hiredis"
        return str(Path(folder).absolute())

    @pytest.fixture
    def elsewhere(hiredis: str, tmp_path: Path) -> str:
        """A folder where the same extension is called elsewhere.hiredis."""
        (extension,) = Path(hiredis, "hiredis").glob("hiredis.*.so")
        package = tmp_path / "elsewhere"
        package.mkdir()
        (package / extension.name).symlink_to(extension)
        (package / "__init__.py").touch()
        return str(tmp_path)

    def test_it_is_off(shop: Any, core: str) -> None:
        ran = cli("doctor", "--url", shop.uri, FASTLOCK_CORE=core)
        assert problems(ran) == []
        assert "  Python is a free-threaded build" in ran.lines
        assert how_it_is(ran) == "off"

    def test_hiredis_switches_it_on(shop: Any, core: str, hiredis: str) -> None:
        ran = cli("doctor", "--url", shop.uri, FASTLOCK_CORE=core, PYTHONPATH=hiredis)
        ((what, do),) = problems(ran)
        assert how_it_is(ran) == "on"
        assert what == (
            "the GIL is on in a free-threaded Python: "
            "redis-py imports hiredis, which switches it on"
        )
        assert do == UNINSTALL

    def test_it_is_told_also_where_no_server_was_looked_at(hiredis: str) -> None:
        """Nothing has connected, so nothing has imported redis-py yet."""
        ran = cli("doctor", FASTLOCK_PORT="70000", PYTHONPATH=hiredis)
        (wrong, _), (what, do) = problems(ran)
        assert wrong.startswith("FASTLOCK_PORT: ")
        assert "redis-py imports hiredis" in what
        assert do == UNINSTALL

    def test_python_was_told_to_leave_it_off(shop: Any, hiredis: str) -> None:
        ran = cli("doctor", "--url", shop.uri, PYTHON_GIL="0", PYTHONPATH=hiredis)
        assert problems(ran) == []
        assert how_it_is(ran) == "off: Python was told so (PYTHON_GIL or -X gil)"

    def test_python_was_told_to_switch_it_on(shop: Any) -> None:
        ran = cli("doctor", "--url", shop.uri, PYTHON_GIL="1")
        ((what, do),) = problems(ran)
        assert how_it_is(ran) == "on"
        assert what == "the GIL is on in a free-threaded Python, which was told so"
        assert do == "unset PYTHON_GIL, and leave out -X gil"

    def test_some_other_module_has_switched_it_on(shop: Any, elsewhere: str) -> None:
        url = ("doctor", "--url", shop.uri)
        ran = ended(started(*url, python=("-c", OTHER), PYTHONPATH=elsewhere))
        ((what, do),) = problems(ran)
        assert what.endswith(": some extension module switches it on")
        assert do.endswith("PYTHON_GIL=0")

    def test_a_module_that_switches_it_on_is_called_by_its_name(elsewhere: str) -> None:
        words = [sys.executable, "-c", f"import sys; sys.path.append({elsewhere!r}){HEARD}"]
        ran = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        assert (ran.stdout, ran.stderr) == ("elsewhere.hiredis\n", "")

    def test_the_compiled_core_leaves_it_off_and_hiredis_alone() -> None:
        """What fastlock imports by itself, and what a first connection would."""
        program = (
            "import sys, fastlock, fastlock.aio, redis, redis.asyncio\n"
            "assert fastlock.core == 'cython', fastlock.core\n"
            "print(sys._is_gil_enabled(), 'hiredis' in sys.modules)"
        )
        words = [sys.executable, "-W", "error", "-c", program]
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.stdout, ran.stderr) == ("False False\n", "")
