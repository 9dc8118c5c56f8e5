"""The checker finds what is wrong, each in a history that has nothing else wrong in it.

Law: every rule is broken here by the least that breaks it, and by nothing in the same history
without that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chaos._checker import Verdict, check
from chaos._history import history_of, span_of
from chaos._log import Event


class Story:
    """Events, told one after the other; a lease's ``t`` is when something had happened."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ends: dict[str, float] = {}

    def tell(self, t: float, e: str, p: str = "a", **fields: Any) -> None:
        self.events.append({"e": e, "t": t, "p": p, **fields})
        self.ends[p] = max(t, self.ends.get(p, t))

    def got(
        self, t: float, id: str, key: str = "k", ttl: float = 1.0, called: float | None = None,
        **fields: Any,
    ) -> None:  # fmt: skip
        """Tried for at ``called`` (or just before ``t``), acquired at ``t``."""
        p, renew = fields.pop("p", id[0]), fields.pop("renew", False)
        fair = fields.pop("fair", False)
        sent = t - 0.001
        self.tell(
            sent if called is None else called, "try", p, id=id, key=key, ttl=ttl, how="try",
            fence=False, renew=renew, fair=fair,
        )  # fmt: skip
        deadline = sent + span_of(ttl)
        self.tell(
            t, "got", p, id=id,
            **{"valid": True, "deadline": deadline, "ttl": ttl, "fence": None, **fields},
        )  # fmt: skip

    def held(self, t: float, id: str, deadline: float) -> None:
        self.tell(t, "held", id[0], id=id, deadline=deadline)

    def released(self, t: float, id: str, answer: str = "true", called: float = 0.0) -> None:
        self.tell(called or t - 0.001, "release", id[0], id=id)
        self.tell(t, "released", id[0], id=id, answer=answer)

    def lost(self, t: float, until: float, kind: str = "flush") -> None:
        self.tell(t, "fault", "conductor", kind=kind, target="server", until=until)

    def verdict(self) -> Verdict:
        for process in [*self.ends]:
            if not any(e["p"] == process and e["e"] == "end" for e in self.events):
                self.tell(self.ends[process] + 100, "end", process, left=[])
        return check(history_of(sorted(self.events, key=lambda event: event["t"])))

    def rules(self) -> list[str]:
        verdict = self.verdict()
        return [violation.rule for violation in verdict.violations]


@pytest.fixture
def story() -> Story:
    return Story()


# ------------------------------------------------------------------ nothing wrong


def test_one_after_the_other_is_right(story: Story) -> None:
    story.got(10.0, "a1", fence=7)
    story.released(10.5, "a1")
    story.got(10.6, "b1", fence=8)
    story.released(10.7, "b1")
    verdict = story.verdict()
    assert verdict.violations == []
    assert verdict.checked["exclusion"] == 2
    assert verdict.checked["fencing"] == 1
    assert verdict.checked["release"] == 2


# ------------------------------------------------------------------ exclusion


def test_two_at_once_are_found(story: Story) -> None:
    story.got(10.0, "a1")
    story.got(10.3, "b1")
    story.released(10.4, "b1")
    story.released(10.5, "a1")
    # and that the first one's release cannot have freed what was the second one's
    assert story.rules() == ["exclusion", "release"]


def test_other_keys_do_not_exclude(story: Story) -> None:
    story.got(10.0, "a1", "k")
    story.got(10.3, "b1", "l")
    assert story.rules() == []


def test_a_frozen_holder_s_lease_counts_up_to_its_deadline(story: Story) -> None:
    story.got(10.0, "a1")  # and nothing more is heard of it
    story.got(10.9, "b1")
    assert story.rules() == ["exclusion"]


def test_and_no_further(story: Story) -> None:
    story.got(10.0, "a1")
    story.got(9.999 + span_of(1.0) + 0.001, "b1")
    assert story.rules() == []


def test_valid_beyond_its_own_deadline_counts(story: Story) -> None:
    story.got(10.0, "a1")
    story.held(11.5, "a1", 10.987)
    story.got(11.2, "b1")
    assert story.rules() == ["exclusion"]


def test_a_lease_ends_where_its_release_is_called(story: Story) -> None:
    story.got(10.0, "a1")
    story.got(10.31, "b1")
    story.released(10.4, "a1", called=10.3)
    story.released(10.5, "b1")
    assert story.rules() == []


def test_an_extension_that_was_answered_counts(story: Story) -> None:
    story.got(10.0, "a1")
    story.tell(10.5, "extend", id="a1", ttl=2.0)
    story.tell(10.6, "extended", id="a1", valid=True, deadline=12.4, ttl=2.0)
    story.got(12.0, "b1")
    assert story.rules() == ["exclusion"]


def test_an_extension_under_way_counts_for_nothing(story: Story) -> None:
    story.got(10.0, "a1")
    story.tell(10.5, "extend", id="a1", ttl=0.1)
    story.tell(10.9, "unextended", id="a1", why="unknown")
    story.got(10.7, "b1")
    assert story.rules() == []


@pytest.mark.parametrize(("t", "rules"), [(10.95, []), (10.85, ["exclusion"])])
def test_a_renewed_lease_counts_as_long_as_it_was_seen_valid(
    story: Story, t: float, rules: list[str]
) -> None:
    story.got(10.0, "a1", renew=True)
    story.held(10.8, "a1", 11.5)
    story.tell(11.0, "gone", id="a1", seen=10.9, deadline=11.5)
    story.got(t, "b1")
    assert story.rules() == rules


# ------------------------------------------------------------------ windows of loss


def test_an_overlap_after_a_loss_is_counted_apart(story: Story) -> None:
    story.got(10.0, "a1")
    story.lost(10.2, 10.21)
    story.got(10.3, "b1")
    verdict = story.verdict()
    assert verdict.violations == []
    assert verdict.excused["exclusion"] == 1


def test_so_it_is_where_the_old_lease_was_asked_about_meanwhile(story: Story) -> None:
    story.got(10.0, "a1")
    story.lost(10.2, 10.21)
    story.got(10.3, "b1")
    story.tell(10.4, "extend", id="a1", ttl=1.0)
    story.tell(10.5, "unextended", id="a1", why="refused OOM")
    story.held(10.6, "a1", 10.987)
    verdict = story.verdict()
    assert verdict.violations == []
    assert verdict.excused["exclusion"] == 2


def test_a_fault_that_loses_nothing_excuses_nothing(story: Story) -> None:
    story.got(10.0, "a1")
    story.lost(10.2, 10.21, kind="restart")
    story.got(10.3, "b1")
    assert story.rules() == ["exclusion"]


def test_an_overlap_from_before_the_loss_is_no_part_of_it(story: Story) -> None:
    story.got(10.0, "a1")
    story.got(10.1, "b1")
    story.lost(10.2, 10.21)
    assert story.rules() == ["exclusion"]


def test_two_from_after_the_loss_exclude_each_other(story: Story) -> None:
    story.lost(9.0, 9.1)
    story.got(10.0, "a1")
    story.got(10.3, "b1")
    assert story.rules() == ["exclusion"]


def test_a_window_ends_with_the_old_lease_s_deadline(story: Story) -> None:
    story.got(10.0, "a1", renew=True)
    story.lost(10.2, 10.21)
    story.held(10.9, "a1", 11.8)  # renewed, though the server knows nothing of it
    story.got(11.5, "b1")
    assert "exclusion" in story.rules()


# ------------------------------------------------------------------ fencing


def test_a_number_that_does_not_rise_is_found(story: Story) -> None:
    story.got(10.0, "a1", fence=7)
    story.released(10.5, "a1")
    story.got(10.6, "b1", fence=6)
    assert story.rules() == ["fencing"]


def test_a_loss_does_not_excuse_it(story: Story) -> None:
    story.got(10.0, "a1", fence=7)
    story.lost(10.2, 10.21)
    story.got(10.6, "b1", fence=6)
    assert story.rules() == ["fencing"]


def test_it_is_compared_with_the_highest_not_the_latest(story: Story) -> None:
    story.got(10.0, "a1", fence=9)
    story.released(10.1, "a1")
    story.got(10.2, "b1", fence=10)
    story.released(10.3, "b1")
    story.got(10.4, "c1", fence=11)
    story.released(10.5, "c1")
    story.got(10.6, "d1", fence=10)
    assert sorted(story.rules()) == ["fencing", "fencing"]  # and it was given before


def test_the_order_of_those_that_waited_at_once_is_that_of_having_it(story: Story) -> None:
    story.got(10.5, "a1", fence=7, called=10.0)
    story.released(10.6, "a1")
    story.got(10.7, "b1", fence=6, called=10.1)
    assert story.rules() == ["fencing"]


def test_the_same_number_twice_is_found(story: Story) -> None:
    story.got(10.5, "a1", fence=7, called=10.0)
    story.lost(10.55, 10.56)
    story.got(10.7, "b1", fence=7, called=10.1)
    assert story.rules() == ["fencing"]


# ------------------------------------------------------------------ releases


def test_freeing_what_somebody_else_has_got_is_found(story: Story) -> None:
    story.got(10.0, "a1")
    story.got(11.5, "b1")
    story.released(11.7, "b1", called=11.6)
    story.released(12.0, "a1")
    assert story.rules() == ["release"]


@pytest.mark.parametrize(("called", "rules"), [(11.0, []), (11.8, ["release"])])
def test_unless_an_unanswered_release_may_have_freed_it(
    story: Story, called: float, rules: list[str]
) -> None:
    story.got(10.0, "a1")
    story.got(11.5, "b1")
    story.released(11.9, "a1", "unknown", called=called)
    story.released(12.0, "a1")
    assert story.rules() == rules


@pytest.mark.parametrize(("loss", "rules"), [(10.2, []), (9.0, ["release"])])
def test_unless_it_was_lost_before(story: Story, loss: float, rules: list[str]) -> None:
    story.lost(loss, loss + 0.01)
    story.got(10.0, "a1")
    story.tell(10.1, "gone", id="a1", seen=10.1, deadline=10.987)
    story.got(10.3, "b1")
    story.released(10.4, "b1")
    story.released(10.6, "a1", called=10.5)
    verdict = story.verdict()
    assert [violation.rule for violation in verdict.violations] == rules
    assert verdict.excused["release"] == 1 - len(rules)


def test_so_it_is_where_only_the_numbers_tell_who_was_first(story: Story) -> None:
    story.got(10.0, "a1", fence=7)
    story.got(11.5, "b1", fence=8, called=9.9)
    story.released(11.6, "b1")
    story.released(12.0, "a1")
    assert story.rules() == ["release"]


def test_a_key_that_outlives_its_release_is_found(story: Story) -> None:
    story.got(10.0, "a1")
    story.released(10.2, "a1")
    story.tell(10.3, "looked", id="a1", still=False)
    assert story.rules() == []
    story.tell(10.3, "looked", id="a1", still=True)
    assert story.rules() == ["release"]


def test_being_refused_what_nobody_else_can_have_is_found(story: Story) -> None:
    story.tell(10.0, "try", id="a1", key="chaos:long:a1", ttl=3600.0, how="try", fence=False,
               renew=False, fair=False)  # fmt: skip
    story.tell(10.1, "not", id="a1", why="taken")
    assert story.rules() == ["release"]


# ------------------------------------------------------------------ losses


def losing(story: Story, how: str) -> None:
    """``a1`` is lost at 10.5, its deadline is 10.987."""
    story.got(10.0, "a1", renew=how == "told")
    if how == "released":
        story.released(10.5, "a1", "false")
    elif how == "told":
        story.tell(10.5, "told", id="a1", deadline=10.987, reason="gone")
    else:
        story.tell(10.4, "extend", id="a1", ttl=1.0)
        story.tell(10.5, "unextended", id="a1", why="lost")


HOW = pytest.mark.parametrize("how", ["released", "told", "extended"])


@HOW
def test_a_lease_lost_before_its_deadline_is_found(story: Story, how: str) -> None:
    losing(story, how)
    assert story.rules() == ["loss"]


@HOW
def test_if_the_server_lost_it_that_is_counted_apart(story: Story, how: str) -> None:
    losing(story, how)
    story.lost(10.2, 10.21)
    verdict = story.verdict()
    assert verdict.violations == []
    assert verdict.excused["loss"] == 1


def test_after_its_deadline_it_may_be_lost(story: Story) -> None:
    story.got(10.0, "a1")
    story.released(11.0, "a1", "false")
    assert story.rules() == []


def test_a_lost_lease_that_is_valid_again_is_found(story: Story) -> None:
    story.got(10.0, "a1", renew=True)
    story.lost(10.1, 10.11)
    story.tell(10.3, "told", id="a1", deadline=10.987, reason="gone")
    story.held(10.4, "a1", 10.987)
    assert story.rules() == ["back"]


# ------------------------------------------------------------------ the server's view


def asked(story: Story, **fields: Any) -> None:
    told = {"until": 10.52, "valid": True, "deadline": 10.987, "mine": True, "pttl": 480}
    story.got(10.0, "a1")
    story.tell(10.5, "asked", id="a1", **{**told, **fields})


@pytest.mark.parametrize(
    "fields", [{}, {"valid": False, "mine": False}, {"until": 11.0, "mine": False, "pttl": -2}]
)
def test_a_lease_and_the_server_agree(story: Story, fields: dict[str, Any]) -> None:
    asked(story, **fields)
    assert story.rules() == []


@pytest.mark.parametrize("fields", [{"mine": False}, {"pttl": 460}, {"pttl": -1}])
def test_a_lease_that_the_server_does_not_grant_is_found(
    story: Story, fields: dict[str, Any]
) -> None:
    asked(story, **fields)
    assert story.rules() == ["server"]


def test_a_ttl_counted_from_the_answer_is_found(story: Story) -> None:
    story.got(10.0, "a1", deadline=10.0 + span_of(1.0))
    assert story.rules() == []
    story.events[1]["deadline"] += 0.001
    assert story.rules() == ["server"]


def test_unless_the_server_has_lost_it(story: Story) -> None:
    asked(story, mine=False)
    story.lost(10.2, 10.21)
    verdict = story.verdict()
    assert verdict.violations == []
    assert verdict.excused["server"] == 1


# ------------------------------------------------------------------ being told


def held_while_lost(story: Story, ttl: float = 3.0) -> None:
    story.got(10.0, "a1", ttl=ttl, renew=True)
    story.held(10.3, "a1", 9.999 + span_of(ttl))
    story.lost(10.2, 10.21)


def told(story: Story, t: float) -> None:
    story.tell(t, "told", id="a1", deadline=12.967, reason="gone")


def test_told_in_time(story: Story) -> None:
    held_while_lost(story)
    told(story, 12.2)  # 10.21 + 3 / 3 + 1 is the last moment
    assert story.rules() == []


@pytest.mark.parametrize("late", [lambda story: None, lambda story: told(story, 12.22)])
def test_told_too_late_or_never_is_found(story: Story, late: Callable[[Story], None]) -> None:
    held_while_lost(story)
    late(story)
    assert story.rules() == ["told"]


def test_told_twice_is_found(story: Story) -> None:
    held_while_lost(story)
    told(story, 11.0)
    told(story, 11.1)
    assert story.rules() == ["told"]


def test_who_has_released_need_not_be_told(story: Story) -> None:
    held_while_lost(story)
    story.released(12.0, "a1", "false")
    assert story.rules() == []


def test_nor_who_is_dead(story: Story) -> None:
    held_while_lost(story)
    story.tell(11.0, "fault", "conductor", kind="kill", target="a", until=11.0)
    story.events = [event for event in story.events if event["e"] != "end"]
    story.ends = {"conductor": 11.0}
    assert story.rules() == []


@pytest.mark.parametrize("fault", [("freeze", "a"), ("stall", "server")])
def test_who_could_not_hear_is_told_later(story: Story, fault: tuple[str, str]) -> None:
    held_while_lost(story)
    kind, target = fault
    story.tell(11.0, "fault", "conductor", kind=kind, target=target, until=11.7)
    told(story, 12.9)  # 12.21, and 0.7 later
    assert story.rules() == []


def test_but_not_for_the_sake_of_another_process(story: Story) -> None:
    held_while_lost(story)
    story.tell(11.0, "fault", "conductor", kind="freeze", target="b", until=11.7)
    told(story, 12.9)
    assert story.rules() == ["told"]


def test_a_renewed_lease_that_ran_out_is_told_too(story: Story) -> None:
    story.got(10.0, "a1", renew=True)
    story.tell(11.0, "gone", id="a1", seen=10.95, deadline=10.987)
    assert story.rules() == ["told"]
    story.tell(11.1, "told", id="a1", deadline=10.987, reason="no answer")
    assert story.rules() == []


# ------------------------------------------------------------------ processes, and the end


def test_a_child_that_holds_its_parent_s_lease_is_found(story: Story) -> None:
    story.got(10.0, "a1")
    story.tell(10.1, "child", "a-fork-1", id="a1", valid=False, release="LockError")
    assert story.rules() == []
    story.tell(10.2, "child", "a-fork-2", id="a1", valid=True, release="LockError")
    story.tell(10.3, "child", "a-fork-3", id="a1", valid=False, release="True")
    assert story.rules() == ["fork", "fork"]


def test_complaints_are_found(story: Story) -> None:
    story.tell(10.0, "complaint", what="an exception")
    story.tell(10.1, "reaped", child=1, status=9)
    story.tell(10.2, "end", left=["socket:[1]"])
    assert story.rules() == ["complaint"] * 3


def test_a_process_that_vanished_is_found(story: Story) -> None:
    story.tell(10.0, "start")
    story.ends = {"conductor": 10.0}
    assert story.rules() == ["complaint"]


def left(story: Story, key: str, when: str = "last") -> None:
    story.tell(99.0, "left", "conductor", at=when, keys=[key], connections=[])


@pytest.mark.parametrize("when", ["once", "last"])
def test_a_key_that_was_released_and_is_left_is_found(story: Story, when: str) -> None:
    story.got(10.0, "a1")
    story.released(10.1, "a1")
    left(story, "k", when)
    assert story.rules() == ["leak"]


def test_a_key_that_nobody_knows_is_found(story: Story) -> None:
    left(story, "k")
    assert story.rules() == ["leak"]


def test_a_short_lease_is_never_left(story: Story) -> None:
    story.got(10.0, "a1")
    story.released(10.1, "a1", "unknown")
    left(story, "k")
    assert story.rules() == ["leak"]


@pytest.mark.parametrize(
    ("why", "rules"), [("cut", ["leak"]), ("timeout", ["leak"]), ("unknown", [])]
)
def test_an_acquire_that_was_left_leaves_nothing(story: Story, why: str, rules: list[str]) -> None:
    key = "chaos:long:a1"
    story.tell(10.0, "try", id="a1", key=key, ttl=3600.0, how="try", fence=False, renew=False,
               fair=False)  # fmt: skip
    story.tell(10.1, "not", id="a1", why=why)
    left(story, key)
    assert story.rules() == rules


@pytest.mark.parametrize(
    ("why", "fair", "when", "rules"),
    [
        ("timeout", True, "once", ["leak"]),
        ("cut", True, "once", ["leak"]),
        ("unknown", True, "once", []),
        ("unknown", True, "last", ["leak"]),
        ("unknown", False, "once", ["leak"]),
    ],
)
@pytest.mark.parametrize("end", [":fastlock.queue:{%s}", ":fastlock.queue:{%s}:abc"])
def test_who_is_gone_waits_no_longer(
    story: Story, why: str, fair: bool, when: str, rules: list[str], end: str
) -> None:
    key = "chaos:long:a1"
    story.tell(10.0, "try", id="a1", key=key, ttl=3600.0, how="wait", fence=False, renew=False,
               fair=fair)  # fmt: skip
    story.tell(10.1, "not", id="a1", why=why)
    left(story, key + end % key, when)
    assert story.rules() == rules


@pytest.mark.parametrize(("t", "rules"), [(12.4, []), (12.6, ["leak"])])
def test_what_is_not_given_back_in_time_is_found(story: Story, t: float, rules: list[str]) -> None:
    key = "chaos:long:a1"
    story.tell(9.9, "try", id="a1", key=key, ttl=3600.0, how="try", fence=False, renew=False,
               fair=False)  # fmt: skip
    story.tell(10.0, "not", id="a1", why="cut")
    story.tell(t, "later", id="a1", since=10.0, there=True)
    assert story.rules() == rules
    story.tell(t + 0.5, "later", id="a1", since=10.0, there=False)
    assert story.rules() == []


def test_unless_the_server_could_not_be_reached(story: Story) -> None:
    story.got(9.9, "a1", "chaos:long:a1")
    story.released(10.0, "a1", "sent")
    story.tell(11.0, "fault", "conductor", kind="demote", target="server", until=12.0)
    story.tell(13.4, "later", id="a1", since=10.0, there=True)
    assert story.rules() == []


def test_a_connection_that_is_left_is_found(story: Story) -> None:
    story.tell(99.0, "left", "conductor", at="once", keys=[], connections=["127.0.0.1:5"])
    assert story.rules() == ["leak"]


def test_a_step_of_the_clock_makes_a_run_void(story: Story) -> None:
    story.tell(10.0, "step", "conductor", by=3.0)
    assert "3.000 s" in story.verdict().void
