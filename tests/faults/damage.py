"""Damage to bytes, drawn by hypothesis, and the limits that reading of damaged files must keep."""

import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(gettempdir(), "tll-hypothesis"))  # it keeps tables of characters, without a database too
SECONDS = 5  # of processor time for one input: other programs on the machine do not count
HANGS = 120  # seconds on the clock after which an input is given up
MEGABYTES = 1000  # that reading all inputs of a test may add to the peak of the process

# A place in a file: near its start, where headers are, or anywhere (in millionths of its length).
PLACES = st.one_of(st.integers(0, 400), st.integers(0, 10**6 - 1).map(lambda part: part / 10**6))
CHANGES = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("overwrite"), PLACES, st.binary(min_size=1, max_size=40)),
    st.tuples(
        st.just("overwrite"), PLACES, st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0" * 400])
    ),
    st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("remove"), PLACES, st.integers(1, 300)),
    st.tuples(st.just("cut"), PLACES, st.none()),
)
FLIPS = st.lists(st.tuples(st.just("flip"), PLACES, st.integers(0, 7)), min_size=1, max_size=3)
DAMAGE = st.lists(CHANGES, min_size=1, max_size=4)


def damaged(data: bytes, changes: list[tuple]) -> bytes:
    """The bytes after these changes."""
    for what, place, content in changes:
        at = int(place * len(data)) if isinstance(place, float) else min(place, len(data))
        if what == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << content)]) + data[at + 1 :]
        elif what == "overwrite":
            data = data[:at] + content[: len(data) - at] + data[at + len(content) :]
        elif what == "insert":
            data = data[:at] + content + data[at:]
        elif what == "remove":
            data = data[:at] + data[at + content :]
        elif what == "cut":
            data = data[:at]
    return data


def fuzz(check: Callable[..., str], n: int, **strategies) -> None:
    """check(**drawn), which returns the outcome in a word, on n examples: the same ones in every run.

    Raises where an example takes too long, or all of them too much memory; prints how often each outcome came.
    """
    outcomes: Counter[str] = Counter()

    def limited(**drawn):
        with in_time():
            outcomes[check(**drawn)] += 1

    quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    phases = (Phase.generate, Phase.shrink)
    with in_memory():
        settings(max_examples=n, derandomize=True, phases=phases, **quiet)(given(**strategies)(limited))()
    print(f"{check.__name__}: {sum(outcomes.values())} inputs: {dict(outcomes.most_common())}")


class Hang(BaseException):
    """No Exception, which code under test could catch."""


@contextmanager
def in_time() -> Iterator[None]:
    def give_up(*_):
        raise Hang(f"more than {HANGS} s")

    before, started = signal.signal(signal.SIGALRM, give_up), time.process_time()
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (seconds := time.process_time() - started) < SECONDS, f"{seconds:.1f} s of processor time"


@contextmanager
def in_memory() -> Iterator[None]:
    """Linux forgets the peak of a process on request; elsewhere that of the whole process has to serve."""
    before = _peak(forget=True)
    yield
    assert (grown := _peak() - before) < MEGABYTES, f"{grown:.0f} MB"


def _peak(*, forget: bool = False) -> float:
    """Most memory ever held by this process, in MB."""
    if not sys.platform.startswith("linux"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    if forget:
        Path("/proc/self/clear_refs").write_bytes(b"5")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


@contextmanager
def nothing_written_outside(folder: Path, *allowed: Path) -> Iterator[None]:
    """Nothing beside the allowed folders appears or changes in a folder."""

    def state() -> dict[str, tuple[int, int]]:
        return {
            path: (stat.st_size, stat.st_mtime_ns)
            for parent, _, names in os.walk(folder)
            if not any(Path(parent).is_relative_to(one) for one in allowed)
            for name in names
            if (stat := os.stat(path := os.path.join(parent, name)))
        }

    before = state()
    yield
    assert state() == before


def one_line(error: Exception) -> str:
    """The text of an error, which is one line."""
    text = str(error)
    assert text and "\n" not in text, repr(text)
    return text
