"""Probes, and their measurement: each isolated, with a deadline, and never the end of the others."""

from __future__ import annotations

import importlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import ClientError

from tests.conformance.site import Absent, Site, clients

AREAS = (
    "sqs",
    "functions",
    "mapping",
    "executions",
    "callbacks",
    "inline_map",
    "distributed_map",
    "histories",
    "limits",
    "dynamodb",
    "eventbridge",
    "cloudformation",
)
LIGHT, HEAVY = 16, 8
"""Probes at once: those that only wait, and those whose functions start processes on this machine."""
CLEAN_UP_SECONDS = 60
UNKNOWN_ACTION = {
    "InvalidAction",
    "NotImplemented",
    "UnknownOperationException",
    "UnrecognizedClientException",
}


@dataclass(frozen=True)
class Probe:
    """One behaviour: what AWS says (with the page), and how to see whether an endpoint does it."""

    name: str
    aws: str
    page: str
    expects: Any
    """What a place that behaves like AWS shows."""
    needs: str
    """"lambda" when functions must run, else ""."""
    lesson: bool
    """Whether a notebook or a workflow relies on it."""
    seconds: float
    """The deadline."""
    look: Callable[[Site], Any]


@dataclass(frozen=True)
class Result:
    """`state` is yes, no, or absent (the API or feature is not there); `seen` says what was seen."""

    state: str
    seen: str
    seconds: float = 0.0


registry: dict[str, Probe] = {}


def probe(
    page: str, expects: Any, *, needs: str = "", lesson: bool = False, seconds: float = 180
) -> Callable[[Callable[[Site], Any]], Callable[[Site], Any]]:
    """Register a function as the probe of a behaviour, named after its module and itself."""

    def register(look: Callable[[Site], Any]) -> Callable[[Site], Any]:
        name = f"{look.__module__.rpartition('.')[2]}.{look.__name__}"
        words = " ".join((look.__doc__ or "").split())
        registry[name] = Probe(name, words, page, expects, needs, lesson, seconds, look)
        return look

    return register


def all_probes() -> list[Probe]:
    """Every probe, area by area."""
    for area in AREAS:
        importlib.import_module(f"tests.conformance.{area}")
    return sorted(registry.values(), key=lambda p: AREAS.index(p.name.partition(".")[0]))


def plain(text: Any) -> str:
    """Text without what changes at each run: names of ours, ids, ARNs, lengths of time."""
    text = re.sub(r"arn:aws:[^\s\"')]+", "ARN", str(text))
    text = re.sub(r"https?://[^\s\"')]+", "URL", text)
    text = re.sub(r"conformance-[0-9a-f]+(-[\w-]+)?", "NAME", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27,}", "ID", text)
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def judge(wanted: Probe, look: Callable[[], Any]) -> Result:
    """What a probe's call amounts to, whatever it returns or raises."""
    try:
        seen = look()
    except Absent as error:
        return Result("absent", plain(error))
    except ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"].get("HTTPStatusCode")
        absent = code in UNKNOWN_ACTION or status == 501 or "NotImplementedError" in str(error)
        words = f"HTTP {status}" if "<html" in str(error) else plain(error)
        return Result("absent" if absent else "no", words)
    except BaseException as error:  # even SystemExit is one probe's result and no more
        return Result("no", plain(f"{type(error).__name__}: {error}"))
    return Result("yes" if seen == wanted.expects else "no", plain(seen))


def within(seconds: float, work: Callable[[], Any]) -> list[Any]:
    """[what the work returned], or [] when it has not ended by then: it is left behind."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    return done


def run(wanted: Probe, site: Site) -> Result:
    """One probe at its own site, which is cleared after it."""
    late = Result("no", f"no result within {wanted.seconds:g} s")
    start = time.monotonic()
    try:
        (result,) = within(wanted.seconds, lambda: judge(wanted, lambda: wanted.look(site))) or [late]
    finally:
        within(CLEAN_UP_SECONDS, site.clear)
    return replace(result, seconds=time.monotonic() - start)


def functions_run(site: Site) -> str:
    """Whether functions run here at all."""
    return "yes" if site.call(site.function(), do="return")["call"] == 1 else "no"


def measure(probes: Iterable[Probe], endpoint_url: str | None = None) -> Iterator[tuple[Probe, Result]]:
    """Run the probes at an endpoint (None: AWS itself, default credentials), each result as it comes."""
    shared = clients(endpoint_url)
    home = Site(shared)
    role = home.role()
    lanes: dict[str, queue.SimpleQueue[Probe]] = {"": queue.SimpleQueue(), "lambda": queue.SimpleQueue()}
    results: queue.SimpleQueue[tuple[Probe, Result]] = queue.SimpleQueue()
    check = Probe("functions", "", "", "yes", "", False, 90, functions_run)
    wanted = list(probes)
    ready = run(check, Site(shared, role)) if any(p.needs for p in wanted) else Result("yes", "")

    def work(lane: queue.SimpleQueue[Probe]) -> None:
        while True:
            try:
                mine = lane.get_nowait()
            except queue.Empty:
                return
            if mine.needs and ready.state != "yes":
                results.put((mine, Result("absent", "no function runs here")))
            else:
                results.put((mine, run(mine, Site(shared, role))))

    for mine in reversed(wanted):  # those of mappings, the longest, before those of functions
        lanes[mine.needs].put(mine)
    for needs, width in (("lambda", HEAVY), ("", LIGHT)):
        for _ in range(width):
            threading.Thread(target=work, args=(lanes[needs],), daemon=True).start()
    try:
        for _ in wanted:
            yield results.get()
    finally:
        home.clear()
