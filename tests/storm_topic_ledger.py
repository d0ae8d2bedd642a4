# SPDX-License-Identifier: Apache-2.0
"""Checks a storm over topics: compares what was published with what each subscriber got.

A message's sequence number is its position in the topic. What all subscribers got says which
message each position has; a witness, which is never killed, has got all of them. Then:

    a publish that returned       its messages, at consecutive positions
    a publish cut by a kill       the first of its messages, or none; the other positions stay empty
    a subscriber that blocks      every message from its first one on, once and in order, no gaps
    one that drops the oldest,    in order; gaps are the messages that it has not got, plus at
    or gets the latest            most the empty positions among them
    one that drops the newest     the same, and the first messages up to the topic's depth
    the end                       each has the last message; who drops the newest may not

Where a subscription begins is known between two readings of Topic.published. If both are the same,
and no position is empty, gaps are checked exactly; `figures` says how often.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from tests.storm_ledger import VIOLATIONS_MAX, name
from tests.storm_log import SEQUENCE_BITS, TOPIC_BITS, Record, Told
from tests.storm_topic_worker import POLICIES, STARTS


@dataclass
class Subscription:
    """What one subscriber did. Positions and gaps are numbers of messages."""

    topic: int
    policy: str
    oldest: bool
    before: int  # published when it had not subscribed yet
    after: int = -1  # published when it had; -1: killed before that
    got: "array[int]" = field(default_factory=lambda: array("Q"))
    gaps: list[tuple[int, int]] = field(default_factory=list)  # how many it had got, its gaps
    ends: bool = False  # the last gaps are those when it was about to leave
    drained: bool = False  # and then there was nothing more to get
    left: int = -1  # published when it left; -1: it was killed


@dataclass
class Stream:
    """What one worker process published in one topic."""

    put: int = 0  # so many with certainty
    may: int = 0  # and up to so many
    bursts: list[tuple[int, int]] = field(default_factory=list)  # the first of each, and how many


class TopicLedger:
    """The account of one round."""

    def __init__(self, depths: list[int], witnessed: set[int]) -> None:
        self.depths, self.witnessed = depths, witnessed
        self.message: list[dict[int, int]] = [{} for _ in depths]  # position: stamp
        self.streams: dict[tuple[int, int], Stream] = {}  # by topic and life
        self.subscriptions: list[Subscription] = []
        self.figures: Counter[str] = Counter()
        self.violations: list[str] = []

    def wrong(self, text: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(text)

    def life(self, life: int, records: Iterable[Record], killed: bool) -> None:
        """Reads the log of one worker process."""
        open_: dict[int, Subscription] = {}
        at = 0
        for kind, where, small, last in records:
            topic = where & (1 << TOPIC_BITS) - 1
            match kind:
                case Told.PUBLISHING:
                    stream = self.streams.setdefault((topic, life), Stream())
                    stream.may = stream.put + small
                    self.figures["publishes cut by a kill"] += 1
                case Told.PUBLISHED:
                    if small:
                        stream.bursts.append((stream.put, small))
                    stream.put = stream.may = stream.put + small
                    self.figures["publishes cut by a kill"] -= 1
                    self.figures["published"] += small
                case Told.SUBSCRIBING:
                    policy, start = POLICIES[small % len(POLICIES)], STARTS[small // len(POLICIES)]
                    open_[where] = Subscription(topic, policy, start == "oldest", last)
                    self.subscriptions.append(open_[where])
                    self.figures[f"subscribed, {policy}"] += 1
                case Told.SUBSCRIBED:
                    open_[where].after = last
                case Told.SEQUENCE:
                    at = last
                case Told.MESSAGE:
                    open_[where].got.append(at)
                    self.place(topic, at, last)
                case Told.MISSED:
                    open_[where].gaps.append((len(open_[where].got), last))
                case Told.ENDS:
                    one = open_[where]
                    one.ends, one.drained = True, bool(small)
                    one.gaps.append((len(one.got), last))
                case Told.LEFT:
                    open_.pop(where).left = last
        if not killed and open_:
            self.wrong(f"life {life} ended and was subscribed: {list(open_.values())}")

    def place(self, topic: int, at: int, stamp: int) -> None:
        self.figures["packets"] += 1
        if self.message[topic].setdefault(at, stamp) != stamp:
            self.wrong(
                f"topic {topic}: message {at} is {name(stamp)} and {name(self.message[topic][at])}"
            )

    def settle(self, ends: list[int]) -> None:
        """Makes the final checks. ends are the positions at which the topics end."""
        for topic, end in enumerate(ends):
            self.check_published(topic, end)
        values = [sorted(messages) for messages in self.message]
        for one in self.subscriptions:
            Check(self, one, values[one.topic], ends[one.topic]).run()

    def check_published(self, topic: int, end: int) -> None:
        """Each publisher's messages are there once and in order; all of them, if a witness says
        so."""
        streams = {life: one for (t, life), one in self.streams.items() if t == topic}
        least = sum(one.put for one in streams.values())
        most = sum(one.may for one in streams.values())
        if not least <= end <= most:
            self.wrong(f"topic {topic}: has {end} positions, {least} to {most} were published")
        found: dict[int, dict[int, int]] = {life: {} for life in streams}
        mask = (1 << SEQUENCE_BITS) - 1
        for at, stamp in sorted(self.message[topic].items()):
            life, number = stamp >> SEQUENCE_BITS, stamp & mask
            if life not in streams or number >= streams[life].may or at >= end:
                self.wrong(f"topic {topic}: {name(stamp)} at {at} was not published")
                return
            numbers = found[life]
            if numbers and number <= next(reversed(numbers)):
                self.wrong(f"topic {topic}: {name(stamp)} at {at} came after a later one, or twice")
            numbers[number] = at
        if topic not in self.witnessed:
            return
        for life, stream in streams.items():
            numbers = found[life]
            if len(numbers) < stream.put or list(numbers) != list(range(len(numbers))):
                self.wrong(f"topic {topic}: life {life} published {stream}, {len(numbers)} came")
                continue
            for first, n in stream.bursts:
                if numbers[first + n - 1] - numbers[first] != n - 1:
                    self.wrong(f"topic {topic}: others came into a burst of life {life}")
        self.figures["empty positions"] += end - len(self.message[topic])
        self.figures["witnessed"] += end


class Check:
    """Checks one subscription."""

    def __init__(self, ledger: TopicLedger, one: Subscription, values: list[int], end: int) -> None:
        self.ledger, self.one, self.values, self.end = ledger, one, values, end
        self.depth = ledger.depths[one.topic]
        # Gaps count from a position between these two on.
        self.after = one.after if one.after >= 0 else end
        early = one.oldest and one.policy == "drop-oldest"
        self.before = max(0, one.before - self.depth) if early else one.before

    def there(self, begin: int, end: int) -> int:
        """Returns how many messages are known to be at those positions."""
        return max(0, bisect_left(self.values, end) - bisect_left(self.values, begin))

    def wrong(self, text: str) -> None:
        one = self.one
        start = "oldest" if one.oldest else "newest"
        self.ledger.wrong(
            f"topic {one.topic}, {one.policy} from the {start}, published {one.before} to "
            f"{one.after}, got {len(one.got)} from {list(one.got[:1])} to {list(one.got[-1:])}, "
            f"drained {one.drained}: {text}"
        )

    def run(self) -> None:
        one, got = self.one, self.one.got
        if any(b <= a for a, b in pairwise(got)):
            self.wrong("out of order, or twice")
            return
        if got:
            self.first(got[0])
        if one.policy == "block":
            self.blocking()
        else:
            self.gaps()
        if one.drained and one.policy != "drop-newest":
            last = got[-1] + 1 if got else self.after
            if self.there(last, self.end):
                self.wrong(f"{self.there(last, self.end)} messages are left")
        self.ledger.figures[f"ended, {one.policy}"] += one.left >= 0

    def first(self, first: int) -> None:
        one = self.one
        kept = one.oldest or one.policy == "latest"
        if first < (max(0, one.before - self.depth) if kept else one.before):
            self.wrong("began too early")
        if one.policy == "block" and self.there(self.after, first):
            self.wrong("began too late")
        # It accepts as many as the topic keeps, from where it begins.
        begin, accepted = self.after, one.before + self.depth
        wanted = self.there(begin, accepted)
        enough = len(one.got) >= self.depth and accepted > begin
        if one.policy == "drop-newest" and not one.oldest and enough:
            has = bisect_left(one.got, accepted) - bisect_left(one.got, begin)
            if has != wanted:
                self.wrong(f"has {has} of the first {wanted} messages")
            self.ledger.figures["first messages of drop-newest"] += wanted

    def blocking(self) -> None:
        one = self.one
        if one.got:
            between = self.there(one.got[0], one.got[-1] + 1)
            if between != len(one.got):
                self.wrong(f"missed {between - len(one.got)} messages")
        if any(gaps for _, gaps in one.gaps):
            self.wrong(f"counts gaps: {one.gaps[-1]}")
        self.ledger.figures["in order and complete, block"] += len(one.got)

    def gaps(self) -> None:
        """After each get, and at the end, gaps are what it has missed."""
        one = self.one
        ends = len(one.gaps) - 1 if one.ends else -1
        for i, (n, gaps) in enumerate(one.gaps):
            last = one.got[n - 1] + 1 if n else self.after
            least = self.there(self.after, last) - self.since(self.after, n)
            most = last
            if one.policy == "drop-newest" or i == ends:
                most = one.left if one.left >= 0 else self.end
            if i == ends and one.drained:
                least = self.there(self.after, self.end) - self.since(self.after, n)
                most = self.end
            most = max(0, most - self.before - self.since(self.before, n))
            if not least <= gaps <= most:
                self.wrong(f"counts {gaps} gaps after {n} messages; {least} to {most} are missing")
                return
            self.ledger.figures["gaps checked"] += 1
            self.ledger.figures["gaps checked exactly"] += least == most
        if one.gaps:
            self.ledger.figures[f"missed, {one.policy}"] += one.gaps[-1][1]

    def since(self, begin: int, n: int) -> int:
        """Returns how many of the first n that it got are at that position or later."""
        return max(0, n - bisect_left(self.one.got, begin))
