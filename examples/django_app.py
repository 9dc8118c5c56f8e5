"""Django: a view and a management command that must not overlap.

Shows:    one client for each process of a project, a decorator that lets one request in at a
          time, and a command that keeps out of its way, or waits for it.
Run:      pip install 'fastlock[examples]'
          python examples/django_app.py runserver
          curl -i -X POST 'http://localhost:8000/reports/sales/rebuild?seconds=5'
          python examples/django_app.py rebuild_report sales --wait 10
Server:   FASTLOCK_URL=redis://localhost:6379; LOCK_TTL=30 can be set, too.
Promises: While a report is rebuilt, by whichever process, another request gets 423 and
          Retry-After, and the command ends with code 75, or waits. Whose lock was lost, or whose
          release goes unheard, is told by 409 without Retry-After, or an error: it may have been
          carried out. While the server is away, requests get 503 and Retry-After, and nothing is
          begun. What a killed process had locked is free within LOCK_TTL seconds.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import execute_from_command_line, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

import fastlock

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"])
TTL = float(os.environ.get("LOCK_TTL", "30"))

# Connects at its first call. Each process that a server forks connects for itself.
locks = fastlock.Client(fastlock.Config.from_env())
View = Callable[..., HttpResponse]


def one_at_a_time(key: str) -> Callable[[View], View]:
    """Hold the lock while the view runs; ``key`` may name what the url names.

    Not longer: open transactions inside the view (no ATOMIC_REQUESTS, which commits after it),
    and do not stream.
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(request: HttpRequest, **named: Any) -> HttpResponse:
            later = {"Retry-After": "1"}  # nothing has begun
            try:
                lease = locks.try_acquire(key.format(**named), ttl=TTL, auto_renew=True)
            except (fastlock.TransportError, fastlock.ServerError, fastlock.OutcomeUnknown):
                return JsonResponse({"detail": "locks cannot be had"}, status=503, headers=later)
            if lease is None:
                return JsonResponse({"detail": "somebody is at it"}, status=423, headers=later)
            try:
                with lease:
                    return view(request, **named)
            except fastlock.FastlockError:  # it may be done: nobody may simply try again
                doubt = {"detail": "the lock was lost, or is in doubt; see what has become of it"}
                return JsonResponse(doubt, status=409)

        return guarded

    return decorate


@require_POST
@one_at_a_time("report:{name}")
def rebuild(request: HttpRequest, name: str) -> HttpResponse:
    time.sleep(float(request.GET.get("seconds", "0.1")))  # the work
    return JsonResponse({"report": name, "by": os.getpid()})


class RebuildReport(BaseCommand):  # in a project: management/commands/rebuild_report.py
    help = "Rebuild a report, unless somebody is at it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--wait", type=float, default=0, help="for the lock, in seconds")
        parser.add_argument("--seconds", type=float, default=0.1, help="that the work takes")

    def handle(self, name: str, wait: float, seconds: float, **_: Any) -> None:
        try:
            with locks.lock(f"report:{name}", ttl=TTL, timeout=wait, auto_renew=True):
                time.sleep(seconds)  # the work
        except fastlock.AcquireTimeout as busy:
            raise CommandError(str(busy), returncode=75) from None
        self.stdout.write(f"rebuilt {name}")


urlpatterns = [path("reports/<name>/rebuild", rebuild)]
application = get_wsgi_application()  # for gunicorn, uWSGI and the like

if __name__ == "__main__":
    get_commands()["rebuild_report"] = RebuildReport()
    try:
        locks.ping()
    except fastlock.FastlockError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
    execute_from_command_line(sys.argv if sys.argv[1:] else [*sys.argv, "runserver"])
