"""``fastlock run`` at a terminal: the keyboard's signals reach the command once."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from _cli import signal
from _terminal import CTRL_C, Terminal, terminal

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who sent a signal")

#: Says of each SIGINT which process has sent it: of the keyboard's, which are the kernel's, none.
HEARS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("runs", flush=True)
while True:
    told = signal.sigtimedwait([signal.SIGINT], 2)
    if told is None:
        break
    print("from", told.si_pid, "end", flush=True)
"""
#: Times that a key is pressed: two signals that come as one, by chance, do so once.
PRESSED = 5


@linux
def test_ctrl_c_is_told_once(shop: Any) -> None:
    words = ("run", "keys", "--", sys.executable, "-c", HEARS)
    with terminal(*words, FASTLOCK_URL=shop.uri) as at:
        at.until("runs\n")
        for number in range(PRESSED):
            at.type(CTRL_C)
            while len(told(at)) <= number:
                assert at.read(20)
        assert at.ended() == 0
    assert told(at) == ["0"] * PRESSED


@linux
def test_what_another_process_sends_is_passed_on(shop: Any) -> None:
    """That has come to fastlock alone."""
    words = ("run", "keys", "--", sys.executable, "-c", HEARS)
    with terminal(*words, FASTLOCK_URL=shop.uri) as at:
        at.until("runs\n")
        at.process.send_signal(signal.SIGINT)
        assert at.ended() == 0
        assert told(at) == [str(at.process.pid)]


def told(at: Terminal) -> list[str]:
    return re.findall(r"from (\d+) end", at.shown)


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
