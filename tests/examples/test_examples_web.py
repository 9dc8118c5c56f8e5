"""The examples that answer requests: FastAPI under uvicorn, Django, gunicorn with workers.

Law: real servers on real ports, requests really at once, and each is killed while it holds a
lock.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from _program import program
from _running import EXAMPLES, Answer, example, holder, listening, needs, post, until
from _servers import Server, free_port

pytestmark = pytest.mark.slow

TTL = {"LOCK_TTL": "1"}


def test_fastapi(own_server: Server) -> None:
    port, admin = free_port(), own_server.admin
    uri = own_server.uri
    with ThreadPoolExecutor() as beside, example("fastapi_app", uri, PORT=str(port), **TTL) as one:
        listening(port, one)
        slow = beside.submit(post, port, "/orders/42/pay?seconds=1.2")  # longer than its ttl
        until(lambda: admin.exists("order:42"))
        refused = post(port, "/orders/42/pay")
        assert (refused.status, refused.headers["Retry-After"]) == (423, "1")
        assert post(port, "/orders/43/pay").status == 200
        paid = slow.result()
        assert (paid.status, paid.json["status"]) == (200, "paid")
        assert not admin.exists("order:42")  # before the answer was sent
        assert post(port, "/orders/42/pay").json["fence"] > paid.json["fence"]

        slow = beside.submit(post, port, "/orders/42/pay?seconds=60")
        until(lambda: admin.exists("order:42"))
        admin.set("order:42", "another's")
        lost = slow.result()  # and not after a minute
        assert (lost.status, "lost" in lost.json["detail"]) == (409, True)
        assert "Retry-After" not in lost.headers
        assert admin.get("order:42") == b"another's"
        admin.delete("order:42")

        slow = beside.submit(post, port, "/orders/42/pay?seconds=60")
        until(lambda: admin.exists("order:42"))
        one.signal(signal.SIGKILL)
        one.process.wait(30)
        assert isinstance(slow.exception(), OSError)
        assert 0 < admin.pttl("order:42") <= 1000
        with example("fastapi_app", uri, PORT=str(port), LOCK_TTL="30") as other:
            listening(port, other)
            until(lambda: post(port, "/orders/42/pay").status == 200)
            # Nobody looks before the end: the answer has not been sent by then.
            slow = beside.submit(post, port, "/orders/42/pay?seconds=0.5")
            until(lambda: admin.exists("order:42"))
            admin.set("order:42", "another's")
            assert slow.result().status == 409
            assert admin.get("order:42") == b"another's"

            slow = beside.submit(post, port, "/orders/44/pay?seconds=0.5")
            until(lambda: admin.exists("order:44"))
            own_server.kill()
            in_doubt = slow.result()  # it is paid, and nobody hears of a release
            assert (in_doubt.status, in_doubt.headers["Retry-After"]) == (409, None)
            refused = post(port, "/orders/45/pay")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")


def test_django(own_server: Server) -> None:
    port, uri, admin = free_port(), own_server.uri, own_server.admin
    path, key = "/reports/sales/rebuild", "report:sales"
    serve = ("runserver", "--noreload", f"127.0.0.1:{port}")

    def command(*words: str) -> tuple[int, str, str]:
        with example("django_app", uri, "rebuild_report", "sales", *words, **TTL) as process:
            return process.ended()

    with ThreadPoolExecutor() as beside, example("django_app", uri, *serve, **TTL) as site:
        listening(port, site)
        assert post(port, path).json == {"report": "sales", "by": site.pid}
        assert post(port, path, "GET").status == 405
        told = beside.submit(command, "--seconds", "1.2")  # longer than its ttl
        until(lambda: admin.exists(key))
        refused = post(port, path)
        assert (refused.status, refused.headers["Retry-After"]) == (423, "1")
        waits = beside.submit(command, "--wait", "20")
        assert [done.result()[:2] for done in (told, waits)] == [(0, "rebuilt sales\n")] * 2

        slow = beside.submit(post, port, f"{path}?seconds=0.5")
        until(lambda: admin.exists(key))
        admin.set(key, "another's", px=100)
        lost = slow.result()
        assert (lost.status, lost.headers["Retry-After"]) == (409, None)

        slow = beside.submit(post, port, f"{path}?seconds=60")
        until(lambda: holder(own_server, key) == site.pid)
        code, _, complaint = command()
        assert code == 75
        assert complaint.startswith("CommandError: ")
        assert key in complaint
        site.signal(signal.SIGKILL)
        assert isinstance(slow.exception(), OSError)
        assert 0 < admin.pttl(key) <= 1000
        assert command("--wait", "20")[:2] == (0, "rebuilt sales\n")
    assert admin.keys() == []


def test_django_while_the_server_is_away(own_server: Server) -> None:
    port, path, key = free_port(), "/reports/sales/rebuild", "report:sales"
    serve = ("runserver", "--noreload", f"127.0.0.1:{port}")
    with ThreadPoolExecutor() as beside, example("django_app", own_server.uri, *serve) as site:
        listening(port, site)
        slow = beside.submit(post, port, f"{path}?seconds=0.5")
        until(lambda: own_server.admin.exists(key))
        own_server.kill()
        in_doubt = slow.result()  # it is rebuilt, and nobody hears of a release
        assert (in_doubt.status, in_doubt.headers["Retry-After"]) == (409, None)
        refused = post(port, path)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")


def test_django_under_gunicorn_has_a_connection_for_each_process(own_server: Server) -> None:
    needs("gunicorn_app")
    needs("django_app")
    port, admin = free_port(), own_server.admin
    words = (
        "-m", "gunicorn", "--preload", "--workers", "2", "--no-control-socket",
        "--chdir", str(EXAMPLES), "--bind", f"127.0.0.1:{port}", "django_app:application",
    )  # fmt: skip
    named = {"FASTLOCK_URL": own_server.uri, "FASTLOCK_CLIENT_NAME": "site"}
    with program(*words, **named) as master:
        listening(port, master)
        assert [c for c in admin.client_list() if c["name"] == "site"] == []  # none before the fork
        by = set()
        until(lambda: by.add(post(port, "/reports/sales/rebuild").json["by"]) or len(by) == 2)
        assert master.pid not in by
        assert len([c for c in admin.client_list() if c["name"] == "site"]) == 2


def test_gunicorn(own_server: Server, tmp_path: Path) -> None:
    port, admin, visits = free_port(), own_server.admin, tmp_path / "visits"
    named = {"PORT": str(port), "COUNTER": str(visits), "PATIENCE": "4", **TTL}

    def visit(path: str = "/") -> Answer:
        """As a visitor does who is told to come again: what was answered by 503 is not counted."""
        answer: Answer = until(lambda: got if (got := post(port, path)).status != 503 else None)
        return answer

    with (
        ThreadPoolExecutor(8) as beside,
        example("gunicorn_app", own_server.uri, "--no-control-socket", **named) as master,
    ):
        until(lambda: "Listening" in master.process.stderr.readline().decode())
        answers = list(beside.map(lambda _: visit("/?seconds=0.02"), range(40)))
        numbers, workers = zip(
            *((answer.body.split()[1], answer.body.split()[-1]) for answer in answers), strict=True
        )
        assert sorted(int(number.rstrip(",")) for number in numbers) == list(range(1, 41))
        assert visits.read_text() == "40"
        assert len(set(workers)) > 1

        with visits.open() as opened:  # written beside, and put in its place as a whole
            assert visit().body.startswith("visit 41,")
            assert opened.read() == "40"

        slow = beside.submit(post, port, "/?seconds=1")
        worker = until(lambda: holder(own_server, "visits"))
        os.kill(worker, signal.SIGSTOP)  # and it goes on when its lock has ended
        until(lambda: not admin.exists("visits"))
        visits.write_text("50")
        os.kill(worker, signal.SIGCONT)
        refused = slow.result()
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert visits.read_text() == "50"

        slow = beside.submit(post, port, "/?seconds=60")
        worker = until(lambda: holder(own_server, "visits"))
        os.kill(worker, signal.SIGKILL)
        assert isinstance(slow.exception(), OSError)
        assert admin.pttl("visits") <= 1000
        counted = visit()
        assert (counted.status, counted.body.startswith("visit 51,")) == (200, True)

        admin.set("visits", "somebody who counts for ever")
        refused = post(port)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert visits.read_text() == "51"
        admin.delete("visits")

        def lost_behind_the_look() -> str | None:
            """What a visit says whose lock goes before it is released, and unnoticed."""
            slow = beside.submit(post, port, "/?seconds=0.1")
            unlocked = until(lambda: admin.delete("visits") or slow.done())
            answer = slow.result()
            return answer.body if unlocked is not True and answer.status == 200 else None

        number = until(lost_behind_the_look).split()[1]  # it is counted, and so it says
        assert visits.read_text() == number.rstrip(",")

        kept = visits.read_text()
        own_server.kill()
        away = post(port)
        assert (away.status, away.headers["Retry-After"]) == (500, None)
        assert away.body.startswith("no locks")
        assert visits.read_text() == kept
        master.signal(signal.SIGTERM)
        assert master.ended()[0] == 0
