"""``fastlock run`` at a terminal: the keyboard's signals reach the command once."""

from __future__ import annotations

import sys
from typing import Any

from _cli import signal
from _terminal import CTRL_C, terminal

COUNTS = """
import signal, time
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(1))
print("runs", flush=True)
while not told:
    time.sleep(0.01)
time.sleep(0.3)
print("told", len(told), "times", flush=True)
"""


def test_ctrl_c_is_told_once(shop: Any) -> None:
    words = ("run", "keys", "--", sys.executable, "-c", COUNTS)
    with terminal(*words, FASTLOCK_URL=shop.uri) as at:
        at.until("runs\n")
        at.type(CTRL_C)
        at.until("told 1 times")
        assert at.ended() == 0


def test_what_another_process_sends_is_passed_on(shop: Any) -> None:
    """That has come to fastlock alone."""
    words = ("run", "keys", "--", sys.executable, "-c", COUNTS)
    with terminal(*words, FASTLOCK_URL=shop.uri) as at:
        at.until("runs\n")
        at.process.send_signal(signal.SIGINT)
        at.until("told 1 times")
        assert at.ended() == 0


def test_ctrl_c_ends_the_command_and_frees_the_lock_at_once(shop: Any) -> None:
    words = ("run", "keys", "--", "sh", "-c", "echo runs; exec sleep 60")
    with terminal(*words, FASTLOCK_URL=shop.uri) as at:
        at.until("runs\n")
        assert shop.admin.pttl("keys") > 20_000
        at.type(CTRL_C)
        assert at.ended() == 130
        assert shop.admin.exists("keys") == 0


def test_the_command_may_read_the_keyboard(shop: Any) -> None:
    words = ("run", "keys", "--", "sh", "-c", "echo runs; read answer; echo it was $answer")
    with terminal(*words, FASTLOCK_URL=shop.uri) as at:
        at.until("runs\n")
        at.type(b"forty-two\n")
        at.until("it was forty-two")
        assert at.ended() == 0


def test_ctrl_c_while_waiting(shop: Any) -> None:
    shop.admin.set("keys", "x", px=60_000)
    with terminal("run", "keys", "--fair", "--", "echo", "ran", FASTLOCK_URL=shop.uri) as at:
        while not shop.admin.exists("keys:fastlock.queue:{keys}"):
            assert at.process.poll() is None
        at.type(CTRL_C)
        assert at.ended() == 130
    assert "ran" not in at.shown
    assert shop.admin.exists("keys:fastlock.queue:{keys}") == 0
    shop.admin.delete("keys")
