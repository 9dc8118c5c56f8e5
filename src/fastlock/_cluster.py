"""Floor 5, a cluster: which node serves a slot, and what is done about a refusal.

Law: no I/O and no waiting: ``routed`` and ``routed_many`` are generators, whose driver sends, reads
the map and pauses for them. A command is sent again here only if it surely was not carried out: the
server has refused it as none of its own, or not now, or it never left. What was sent and not
answered is the operation's (``_ops``), which says what that means; its next command is routed anew.

    Send(parcels)      -> for each parcel (time before sending, replies), or TransportError in
                          place of that
    Look()             -> None; the map was read anew if that was due
    Pause(seconds)     -> None
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from random import uniform
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ._clock import clock
from ._config_fields import divided, joined
from ._replies import not_ready
from ._slots import SLOTS, slot
from ._tokens import Pair
from .config import Config
from .errors import ConfigError, FastlockError, ServerError, TransportError

if TYPE_CHECKING:
    from ._effects import Call
    from ._impl import DivisionLike
    from ._topology import Link

N = TypeVar("N", bound=Any)
Address = tuple[str, int]
Answer = tuple[float, list[Any]]

#: So many times in a row a command follows a redirection at once; after that with pauses.
MOST_REDIRECTIONS = 8
#: Refusals that pass, and of commands that surely were not carried out.
PASSING = frozenset({"TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"})
#: Longest pause between two tries while no node takes the command, in seconds.
LONGEST_PAUSE = 0.1
#: Seconds between two readings of the map at least, and at most while it is used.
FRESH = 0.1
OLD = 60.0
#: Seconds that one node may take to tell the map, before another is asked.
PATIENCE = 1.0
#: Seconds that a node is asked last after it has failed.
SHY = 5.0


class Parcel(NamedTuple):
    """What goes to one node; ``asking``: although it does not serve the slot yet."""

    node: Any
    call: Call
    asking: bool


class Send(NamedTuple):
    """All of these are sent before an answer is waited for."""

    parcels: list[Parcel]


class Look(NamedTuple):
    """Read the map, if that is due."""


class Pause(NamedTuple):
    """In seconds."""

    seconds: float


Effects = Generator[Send | Look | Pause, Any, Answer]


class Book(Generic[N]):
    """The map of one client, and its nodes, which ``make(config)`` makes when first needed.

    Nothing here blocks: each step is one operation on a dict, a list or an attribute.
    """

    def __init__(self, config: Config, make: Callable[[Config], N]) -> None:
        self._config = config
        self._make = make
        self.forget()

    def forget(self) -> None:
        """Know nothing but where to begin."""
        self.stale = True  # something was met that it does not say, or nothing was read yet
        self.nodes: dict[Address, N] = {}
        self.serving: list[N | None] = []  # by slot; empty before the first reading
        self.masters = 1  # how many nodes that are
        self.hinted = False  # it is to be read when nobody waits for it
        self.read_at = float("-inf")
        self._idle: dict[Address, float] = {}  # since when they serve nothing
        self._turn = 0

    def seeds(self) -> list[Address]:
        """Where to ask for the map when no known node tells it."""
        return [divided(node) for node in self._config.cluster or ()]

    def config_of(self, address: Address) -> Config:
        """The client's settings for one node. TransportError: that is no address."""
        try:
            return self._config.at(*address)
        except ConfigError as error:
            raise TransportError(f"the cluster named a node that cannot be: {error}") from None

    def node_at(self, address: Address) -> N:
        """The node there."""
        node = self.nodes.get(address)
        if node is None:
            node = self.nodes.setdefault(address, self._make(self.config_of(address)))
        return node

    def node_of(self, key: bytes) -> N | None:
        """Which node serves the key, as far as is known without asking."""
        serving = self.serving
        return serving[slot(key)] if serving else None

    def node_of_all(self, keys: Iterable[bytes]) -> N | None:
        """The one node that serves them all, as far as is known."""
        nodes = {self.node_of(key) for key in keys}
        return nodes.pop() if len(nodes) == 1 else None

    def by_node(self, pairs: Iterable[Pair]) -> dict[N, list[Pair]]:
        """These pairs by the nodes that serve them; without those of no known node."""
        found: dict[N, list[Pair]] = {}
        for pair in pairs:
            node = self.node_of(pair[0])
            if node is not None:
                found.setdefault(node, []).append(pair)
        return found

    def any_node(self) -> N | None:
        """One that serves something."""
        return next((node for node in self.serving if node is not None), None)

    def due(self) -> bool:
        """Whether the map must be read before it is used."""
        return self.stale and clock() >= self.read_at + FRESH

    def due_behind(self, now: float) -> bool:
        """Whether it is to be read in the background."""
        return now >= self.read_at + (FRESH if self.hinted else OLD)

    def candidates(self) -> list[N]:
        """Whom to ask for the map, beginning with another one each time."""
        nodes = list(self.nodes.values())
        self._turn += 1
        start = self._turn % len(nodes) if nodes else 0
        return nodes[start:] + nodes[:start]

    def learn(self, reply: Any, asked: Address) -> None:
        """Take over what a node said of all slots. TransportError: it was no map."""
        serving: list[N | None] = [None] * SLOTS
        for first, last, address in ranges(reply, asked):
            serving[first : last + 1] = [self.node_at(address)] * (last + 1 - first)
        self.serving = serving
        self.masters = max(1, len({node for node in serving if node is not None}))
        self.stale = self.hinted = False
        self.read_at = clock()

    def gone(self, after: float) -> list[N]:
        """Forget nodes that have served nothing for ``after`` seconds: those."""
        serving, now = set(self.serving), clock()
        found = []
        for address, node in list(self.nodes.items()):
            if node in serving:
                self._idle.pop(address, None)
            elif now - self._idle.setdefault(address, now) > after:
                self._idle.pop(address, None)
                self.nodes.pop(address, None)
                found.append(node)
        return found

    def astray(
        self, link: Link, failure: TransportError | None, replies: Sequence[Any] | None
    ) -> bool:
        """Whether a command that went straight was surely not carried out; notes why.

        It is then routed, as if it had not been sent.
        """
        if failure is not None:
            self.stale = True
            node = self._node_by(link)
            if node is not None:
                node.failed_at = clock()
            return not failure.sent
        refusal = refusal_of(replies or ())
        if refusal is None:
            return False
        if refusal.code == "MOVED":
            node = self._node_by(link)
            if node is not None:
                with suppress(TransportError):  # routed, it is refused once more
                    self.follow(refusal, node.address)
        return True

    def _node_by(self, link: Link) -> N | None:
        """Whose connection that is, unless it has been forgotten."""
        return next((node for node in list(self.nodes.values()) if node.server._link is link), None)

    def follow(self, refusal: ServerError, refused_by: Address) -> tuple[N, bool]:
        """Where a MOVED or ASK sends us; whether with ASKING. TransportError: nowhere."""
        code, number, address = redirection(refusal, refused_by)
        node = self.node_at(address)
        if code == "MOVED" and self.serving:
            self.serving[number] = node
            self.hinted = True
        return node, code == "ASK"


def ranges(reply: Any, asked: Address) -> list[tuple[int, int, Address]]:
    """The answer to CLUSTER SLOTS of the node ``asked``: first slot, last slot, master.

    ServerError: it has no map, or this user may not ask. TransportError: not now.
    """
    if isinstance(reply, ServerError):
        raise not_ready(reply) if reply.code in PASSING else reply
    try:
        found = []
        for first, last, master, *_ in reply:
            host, port = master[0], master[1]
            name = host.decode() if host and host != b"?" else asked[0]
            if not (0 <= first <= last < SLOTS and type(port) is int):
                raise ValueError
            found.append((first, last, (name, port)))
        return found
    except (TypeError, ValueError, IndexError, AttributeError):
        raise TransportError(
            f"{joined(*asked)} gave an answer that CLUSTER SLOTS cannot have"
        ) from None


def redirection(refusal: ServerError, refused_by: Address) -> tuple[str, int, Address]:
    """Of "MOVED 3999 127.0.0.1:7001": its code, slot and address."""
    try:
        code, number, address = str(refusal).split(" ")[:3]
        host, _, port = address.rpartition(":")
        if not 0 <= int(number) < SLOTS:
            raise ValueError
        known = host and host != "?"  # a node that is to have a name, and has none
        return code, int(number), (host if known else refused_by[0], int(port))
    except ValueError:
        raise TransportError(f"the cluster sends us nowhere: {refusal}") from None


def refusal_of(replies: Sequence[Any]) -> ServerError | None:
    """The first of them that says: not here, or not now."""
    for reply in replies:
        if isinstance(reply, ServerError) and (
            reply.code == "MOVED" or reply.code == "ASK" or reply.code in PASSING
        ):
            return reply
    return None


def words(link: Link, call: Call, asking: bool) -> tuple[bytes, int]:
    """The call's bytes, and the number of replies; ``asking``: each command behind an ASKING."""
    if not asking:
        return link.encode(call), call.count
    commands = link.commands
    ask = commands.pack(b"ASKING")
    if call.verb == "adopt":
        (key,) = call.args
        parts = [commands.pack(b"PTTL", key), commands.pack(b"GET", key)]
    elif is_many(call):
        pairs, *rest = call.args
        parts = [link.encode(part_of(call, [pair], rest)) for pair in pairs]
    else:
        parts = [link.encode(call)]
    return b"".join([ask + part for part in parts]), 2 * call.count


def is_many(call: Call) -> bool:
    """Whether it is one command about each of several pairs, of any slots."""
    return bool(call.args) and type(call.args[0]) is not bytes and not call.verb.endswith("_all")


def part_of(call: Call, pairs: list[Any], rest: Sequence[Any]) -> Call:
    """The same about some of its pairs."""
    return type(call)(call.verb, (pairs, *rest), len(pairs), call.until, call.spelled_out)


def key_of(call: Call) -> bytes | None:
    """A key whose slot it belongs to; None: any node will do."""
    if not call.args:
        return None
    first = call.args[0]
    key: bytes = first if type(first) is bytes else first[0][0]
    return key


def routed(call: Call, book: Book[Any], patience: float) -> Effects:
    """Bring one command, or script, to the node that carries it out; tried for ``patience``
    seconds, or until the call's own deadline.
    """
    end = clock() + patience if call.until is None else call.until
    key = key_of(call)
    node, asking, redirections, failures = None, False, 0, 0
    while True:
        call.left = False
        if node is None and book.due():
            yield Look()
        try:
            if node is None:
                node = book.any_node() if key is None else book.node_of(key)
            if node is None:
                raise TransportError("no node of the cluster serves the slot now")
            (answer,) = yield Send([Parcel(node, call, asking)])
            if isinstance(answer, TransportError):
                raise answer
            sent_at, replies = answer
            refusal = refusal_of(replies)
            if refusal is None:
                return sent_at, replies
            call.left = False
            if refusal.code in PASSING or redirections >= MOST_REDIRECTIONS:
                raise not_ready(refusal)
            redirections += 1
            node, asking = book.follow(refusal, node.address)
            continue
        except TransportError as error:
            book.stale = True
            if error.sent:
                raise
            failures += 1
            pause = _pause(failures, end)
            if pause <= 0:
                raise
        node, asking, redirections = None, False, 0
        yield Pause(pause)


def routed_many(
    call: Call, book: Book[Any], patience: float, divide: Callable[..., DivisionLike]
) -> Effects:
    """The same of one command for each pair: those of a node in one run of bytes.

    What is answered is kept. Where anything is not, TransportError, whose ``replies`` has a
    TransportError in the place of each answer that is missing. ``divide`` is the core's: the
    usual case, in which all goes out at once and is answered, takes no step for each pair here.
    """
    end = clock() + patience if call.until is None else call.until
    pairs, *rest = call.args
    replies: list[Any] = [None] * len(pairs)
    detours: dict[int, tuple[Any, bool]] = {}  # where redirections have sent some
    left: Sequence[int] = range(len(pairs))
    failures = redirections = 0
    first_at: float | None = None
    heard = False  # of some it is known what came of them
    trouble: TransportError | None = None
    while left:
        call.left = first_at is not None
        failure: TransportError | None = None
        gives_up = False
        if book.due():
            try:
                yield Look()
            except FastlockError as error:
                if not heard:
                    raise
                failure, gives_up = unsent(error), True
        serving = book.serving or [None] * SLOTS
        division: DivisionLike | None = None
        groups: dict[tuple[Any, bool], list[int]] = {}
        if len(left) == len(pairs) and not detours:
            division = divide(pairs, serving)
            parcels = [
                Parcel(node, part_of(call, part, rest), False)
                for node, part in zip(division.servers, division.parts, strict=True)
                if node is not None
            ]
        else:
            for place in left:
                where = (serving[slot(pairs[place][0])], False)
                groups.setdefault(detours.pop(place, where), []).append(place)
            parcels = [
                Parcel(node, part_of(call, [pairs[place] for place in group], rest), asking)
                for (node, asking), group in groups.items()
                if node is not None
            ]
        first_at = clock() if first_at is None else first_at
        call.left = True
        try:
            answers = (yield Send(parcels)) if parcels else []
        except FastlockError as error:  # of one node alone, or in a forked child
            if not heard:
                raise
            answers, gives_up = [unsent(error)] * len(parcels), True
        if division is not None:
            if len(parcels) == len(division.parts):
                merged = division.merged(
                    [None if isinstance(one, TransportError) else one[1] for one in answers]
                )
                if merged is not None:
                    replies = merged
                    break
            places = division.places()
            groups = {
                (node, False): own for node, own in zip(division.servers, places, strict=True)
            }
        again: list[int] = groups.pop((None, False), [])
        if again:
            failure = failure or TransportError("no node of the cluster serves the slot now")
        for parcel, group, answer in zip(parcels, groups.values(), answers, strict=True):
            said: Sequence[Any] = (
                answer.replies if isinstance(answer, TransportError) else answer[1]
            )
            if len(said) == len(group) and ServerError not in map(type, said):
                heard = True
                for place, reply in zip(group, said, strict=True):
                    replies[place] = reply
                continue
            for index, place in enumerate(group):
                reply = said[index] if index < len(said) else answer
                refusal = refusal_of((reply,))
                if refusal is not None:
                    again.append(place)
                    if refusal.code in PASSING or redirections >= MOST_REDIRECTIONS:
                        failure = failure or not_ready(refusal)
                    else:
                        try:
                            detours[place] = book.follow(refusal, parcel.node.address)
                        except TransportError as error:
                            failure = failure or error
                elif isinstance(reply, TransportError) and not reply.sent:
                    again.append(place)
                    failure = failure or reply
                elif _unread(call, reply) and redirections < MOST_REDIRECTIONS:
                    again.append(place)
                else:
                    heard = True
                    replies[place] = reply
                    if isinstance(reply, TransportError):
                        trouble = trouble or reply
                        book.stale = True
        left = sorted(again)
        redirections += 1
        if failure is not None:
            book.stale = True
            failures += 1
            pause = 0.0 if gives_up else _pause(failures, end)
            if pause > 0:
                try:
                    yield Pause(pause)
                except FastlockError as error:  # the client was closed
                    if not heard:
                        raise
                    failure, pause = unsent(error), 0.0
            if pause <= 0:
                for place in left:
                    replies[place] = failure
                trouble = trouble or failure
                break
            detours.clear()
            redirections = 0
    sent_at = clock() if first_at is None else first_at
    call.late = failures > 0
    if trouble is None:
        return sent_at, replies
    sent = any(isinstance(reply, TransportError) and reply.sent for reply in replies)
    missing = TransportError(str(trouble), sent)
    missing.replies, missing.sent_at = replies, sent_at
    raise missing


def _unread(call: Call, reply: Any) -> bool:
    """Whether the script was to come with the batch's first command, which was refused unread."""
    return call.spelled_out and isinstance(reply, ServerError) and reply.code == "NOSCRIPT"


def unsent(error: FastlockError) -> TransportError:
    """The same of one node, where the others' answers count: nothing was sent to it."""
    return error if isinstance(error, TransportError) else TransportError(str(error))


def _pause(failures: int, end: float) -> float:
    """Seconds; 0: there is no time left."""
    longest = min(LONGEST_PAUSE, 0.02 * failures)
    return min(uniform(0.5, 1.0) * longest, end - clock())


def without_asking(replies: list[Any], asking: bool) -> list[Any]:
    """The answers to the commands alone."""
    return replies[1::2] if asking else replies
