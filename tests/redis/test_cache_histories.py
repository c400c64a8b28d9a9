"""Histories of four processes that read and change the same paths of a lane, while they are killed and frozen and the lane is emptied."""

import random
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

PROCESSES, READS, CHANGES = 4, 1_500, 100
MOST_SECONDS = 90.0
"""A busy machine takes long to write so much history."""


class Crew:
    """The processes, and what becomes of them."""

    def __init__(self, lane: Any, truth: Any, directory: Path, seed: int) -> None:
        self.lane, self.truth, self.directory, self.random = lane, truth, directory, random.Random(seed)
        self.started: list[subprocess.Popen[bytes]] = []
        self.deeds = Counter[str]()
        self.crew = [self.start() for _ in range(PROCESSES)]

    def start(self) -> subprocess.Popen[bytes]:
        number = len(self.started)
        command = [sys.executable, "-m", "tests.redis.cache_history", self.lane.url, self.truth.url, str(number)]
        self.started.append(subprocess.Popen([*command, str(self.directory / f"{number}.history")]))
        return self.started[-1]

    def run(self) -> None:
        """Make trouble until there is enough history."""
        end = time.monotonic() + MOST_SECONDS
        while not self.is_enough():
            assert time.monotonic() < end, f"only {self.counts()} in {MOST_SECONDS:g} s"
            # A process takes as long to start as a hundred answers.
            deed, number = self.random.choices(["kill", "freeze", "flush", "wait"], [1, 12, 3, 12])[0], self.random.randrange(PROCESSES)
            self.deeds[deed] += 1
            if deed == "kill":
                self.crew[number].kill()
                self.crew[number] = self.start()
            elif deed == "freeze":
                self.crew[number].send_signal(signal.SIGSTOP)
                time.sleep(self.random.choice([0.01, 0.1, 0.2]))
                self.crew[number].send_signal(signal.SIGCONT)
            elif deed == "flush":
                self.lane.flush()
            else:
                time.sleep(self.random.random() * 0.2)

    def counts(self) -> Counter[str]:
        return Counter(deed for deed, *_ in self.lines())

    def is_enough(self) -> bool:
        counts = self.counts()
        return counts["read"] >= READS and counts["change"] >= CHANGES and all(self.deeds[deed] for deed in ("kill", "freeze", "flush"))

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()

    def lines(self) -> Iterator[list[str]]:
        for file in self.directory.glob("*.history"):
            yield from (line.split() for line in file.read_text().splitlines())


@pytest.mark.worker
def test_nobody_is_given_an_answer_older_than_a_change_that_was_over_before_the_question(
    valkeys: Callable[..., Any], tmp_path: Path
) -> None:
    """CACHE-8, CACHE-9: whatever happens to those who make answers, to their leases and to the lane."""
    crew = Crew(valkeys(), valkeys(), tmp_path, 1)
    try:
        crew.run()
    finally:
        crew.stop()
    checked = 0
    for path in "ab":
        own = [(deed, int(when), int(version)) for deed, name, when, version in crew.lines() if name == path]
        over = sorted((when, version) for deed, when, version in own if deed == "change")
        moments, newest = [when for when, _ in over], list(accumulate((version for _, version in over), max, initial=0))
        reads = [(start, version) for deed, start, version in own if deed == "read"]
        assert [(start, version) for start, version in reads if version < newest[bisect_left(moments, start)]] == []
        checked += len(reads)

    assert checked >= READS
