# SPDX-License-Identifier: Apache-2.0
"""A storm of SIGKILL, SIGSTOP and SIGCONT over worker processes that share a pool and three queues.

    python -m tests.storm --kills 100000 --seed 7

It runs in rounds of ROUND_KILLS kills. Each has a pool of its own, of one size class or of several,
with packets for each of them. In a round every worker that dies is replaced at once. The driver,
which is never killed, audits. It recovers after each kill, except with --nobody-recovers: then the
survivors must recover when they are blocked. At the end of a round the workers stop by themselves,
the queues are drained, storm_ledger.py checks the logs of all workers, and each size class must
have all its buffers. The queues:

    0  any producers and consumers, on_death="free"
    1  any producers and consumers, on_death="requeue", a dead-letter queue and max_redeliveries
    2  a single producer or consumer or both, by round; a new worker takes over a dead one's role

With --topics the workers publish to three topics and subscribe to them (storm_topic_round.py).
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable

from shmpool.geometry import CLASSES_MAX
from tests.storm_driver import SIZES, Figures, Options, StormError
from tests.storm_round import Round
from tests.storm_topic_round import TopicRound

ROUND_KILLS = 500


def storm(options: Options, say: Callable[[Figures], None]) -> Figures:
    figures, number, left = Figures(), 0, options.kills
    while left > 0:
        kills = min(left, ROUND_KILLS)
        try:
            (TopicRound if options.topics else Round)(options, number, kills, figures).run()
        except StormError as error:
            raise StormError(f"seed {options.seed}, round {number}: {error}") from None
        left -= kills
        number += 1
        say(figures)
    return figures


def parse() -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="tests.storm", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--size", type=int, default=0, help="of packets; 0: 64 B to 1 MiB in turn")
    parser.add_argument(
        "--classes", type=int, default=0, help="size classes; 0: one or several, by round"
    )
    parser.add_argument("--workers", type=int, default=8, help="at least 6")
    parser.add_argument("--nobody-recovers", action="store_true", help="but the survivors")
    parser.add_argument("--recover-every", type=int, default=1, help="strikes, of one kill or some")
    parser.add_argument("--topics", action="store_true", help="instead of queues")
    parser.add_argument("--json", action="store_true", help="figures on stdout as JSON")
    args = parser.parse_args()
    if args.workers < 6:
        parser.error("--workers is at least 6")
    if args.size and args.size < SIZES[0]:
        parser.error(f"--size is at least {SIZES[0]}")
    if not 0 <= args.classes <= CLASSES_MAX:
        parser.error(f"--classes is at most {CLASSES_MAX}")
    return Options(
        args.kills,
        args.seed,
        args.size,
        args.workers,
        args.nobody_recovers,
        args.recover_every,
        args.classes,
        args.topics,
    ), args.json


def main() -> int:
    options, as_json = parse()
    begun = time.monotonic()

    def say(figures: Figures) -> None:
        c, s = figures.counts, time.monotonic() - begun
        text = f"{c['kills']} kills, {c['stops']} stops, {c['packets']} packets in {s:.1f} s"
        print(f"storm: {text}", file=sys.stderr, flush=True)

    try:
        figures = storm(options, say)
    except StormError as error:
        print(f"storm: {error}", file=sys.stderr)
        return 1
    result = figures.as_dict() | {"failures": 0, "seconds": round(time.monotonic() - begun, 1)}
    result["seed"] = options.seed
    if as_json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:40} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
