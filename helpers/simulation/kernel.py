"""The event loop of the simulation, compiled: what happens to each item, in virtual time.

What the events are and what each does stands in `helpers/simulation/model.py`. Simultaneous events are
handled in the order of their kinds, and of one kind in the order of their items, messages or slots.

Most events are due in the order in which they are made, as what follows after a fixed time. So each kind has
a line, first in, first out; the heap holds only what would have to jump it.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, disable-error-code="no-any-return"
# (numba carries no annotations)

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from helpers.experiment import BEATS_A_PERIOD, DIRECT_ATTEMPTS

FREE, DONE, END, ANSWER, NEXT, VISIBLE, EXPIRE, BEAT, START, INVOKE, RETRY, POLL = range(12)
"""Kinds of events, in their order at one moment."""
KINDS = POLL + 1
SUCCEEDED, FAILED, TIMED_OUT, DEAD_LETTERED = range(4)
LATE, LOST = 2, 3
"""Outcomes, by their places in `trace.OUTCOMES` and `trace.ATTEMPT_OUTCOMES`."""
ARRIVAL, ENQUEUED, SERVICE_START, SERVICE_END, RETURNED = range(5)
"""Times, by their places in `trace.ITEM_TIMES`."""
COLD, BACKOFF, THROTTLED, RESEND = range(16, 20)
"""Streams of draws; those below 16 are the experiment's own."""
TRANSITIONS, ANSWERS, BEATS, DIRECT_ENVIRONMENTS, WORKER_ENVIRONMENTS = range(5)

RETRIES = DIRECT_ATTEMPTS - 1
"""Of the direct lane's Retry; 1 s, doubled each time, at most 30 s, with full jitter (infra/combined)."""
LONGEST_RETRY = 30.0
TRIES = 9
"""Of an answer that is throttled, after the first; 1 s, doubled, at most 20 s (botocore's standard mode)."""
LONGEST_TRY = 20.0
ROUNDING = 1e-9
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_GENERATIONS = (1 << 26) - 1
_POLLED = sum(1 << kind for kind in (DONE, END, NEXT, VISIBLE, RETRY, POLL))
"""After these the consumer may have something new to take."""

# No array is made in the loop, so that nobody needs to count references: this makes it ten times as fast.
_options: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}
compiled = numba.njit(**_options)
# A call that is not inlined would have to pass the whole world on.
inlined = numba.njit(**_options, forceinline=True)


class World(NamedTuple):
    """All that a run knows, as record arrays of the types in `helpers/simulation/model.py`."""

    settings: Any
    state: Any
    buckets: Any
    heap: Any
    lines: Any
    ends: Any
    queue: Any
    due: Any
    limited: Any
    items: Any
    times: Any
    clocks: Any
    attempts: Any
    slots: Any
    batches: Any


@compiled
def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def uniform(seed: Any, item: int, number: int, stream: int) -> float:
    """A draw from (0, 1) that nothing but these four decides: no order of events can change it."""
    h = _mix(np.uint64(seed) + np.uint64(stream) * _GAMMA)
    h = _mix(h + np.uint64(item + 1) * _GAMMA)
    h = _mix(h + np.uint64(number + 1) * _GAMMA)
    return (np.float64(h >> np.uint64(12)) + 0.5) * 2.0**-52


@compiled
def _backoff(seed: Any, item: int, number: int, stream: int, tries: int, longest: float) -> float:
    """A wait with full jitter, of at most 1 s, doubled with each try."""
    return uniform(seed, item, number, stream) * min(2.0**tries, longest)


@compiled
def _jump(h: Any, s: Any, time: float, key: int) -> None:
    """Put an event into the heap."""
    if s.heap == len(h):
        s.full = True
        return
    at = s.heap
    s.heap = at + 1
    while at > 0:
        up = (at - 1) >> 2
        if h[up].time < time or (h[up].time == time and h[up].key <= key):
            break
        h[at].time, h[at].key = h[up].time, h[up].key
        at = up
    h[at].time, h[at].key = time, key


@compiled
def _pop(h: Any, s: Any) -> None:
    """Take the first event out of the heap."""
    size = s.heap - 1
    s.heap = size
    time, key = h[size].time, h[size].key
    at = 0
    while True:
        first = 4 * at + 1
        if first >= size:
            break
        least = first
        for child in range(first + 1, min(first + 4, size)):
            if h[child].time < h[least].time or (
                h[child].time == h[least].time and h[child].key < h[least].key
            ):
                least = child
        if time < h[least].time or (time == h[least].time and key <= h[least].key):
            break
        h[at].time, h[at].key = h[least].time, h[least].key
        at = least
    h[at].time, h[at].key = time, key


@inlined
def _key(kind: int, number: int, generation: int) -> int:
    return (kind << 58) | (number << 26) | (generation & _GENERATIONS)


@inlined
def _push(w: Any, time: float, kind: int, number: int, generation: int = 0) -> None:
    """Put an event into the line of its kind or, where it would have to jump it, into the heap."""
    s, line = w.state[0], w.lines[kind]
    key = _key(kind, number, generation)
    size = w.ends[kind].length
    if size == 0:
        w.ends[kind].front = time
    else:
        last = line[(w.ends[kind].head + size - 1) & (len(line) - 1)]
        if size == len(line) or time < last.time or (time == last.time and key < last.key):
            _jump(w.heap, s, time, key)
            return
    place = (w.ends[kind].head + size) & (len(line) - 1)
    line[place].time, line[place].key = time, key
    w.ends[kind].length = size + 1


@inlined
def _refill(bucket: Any, now: float) -> None:
    if math.isinf(bucket.rate):
        bucket.level = bucket.burst
    else:
        bucket.level = min(bucket.burst, bucket.level + (now - bucket.last) * bucket.rate)
    bucket.last = now


@inlined
def _take(bucket: Any, now: float) -> bool:
    _refill(bucket, now)
    if bucket.level >= 1.0:
        bucket.level -= 1.0
        return True
    return False


@inlined
def _delay(bucket: Any, now: float, tokens: float) -> float:
    _refill(bucket, now)
    bucket.level -= tokens
    return 0.0 if bucket.level >= 0.0 else -bucket.level / bucket.rate


@inlined
def _admit(w: Any, now: float) -> None:
    s, p = w.state[0], w.settings[0]
    if math.isinf(w.ends[START].front) and s.started < p.items and s.children < p.map_limit:
        at = max(now, s.ready)
        if p.open:
            at = max(at, w.due[s.started])
        w.ends[START].front = at


@inlined
def _close(w: Any, i: int, now: float, at: float, how: int) -> None:
    """The child of item i ends: its place in the map is free when it has returned."""
    v = w.items[i]
    if v.open:
        v.open = False
        v.outcome = how
        returned = at + _delay(w.buckets[TRANSITIONS], now, 1.0)
        w.times[RETURNED, i] = returned
        _push(w, returned, FREE, i)


@inlined
def _retry(w: Any, i: int, now: float) -> None:
    """The direct lane's Retry, or its end."""
    v, p = w.items[i], w.settings[0]
    if v.tries < RETRIES:
        wait = _backoff(p.seed, i, v.tries, BACKOFF, v.tries, LONGEST_RETRY)
        v.tries += 1
        _push(w, now + wait, INVOKE, i)
    else:
        _close(w, i, now, now + p.return_seconds, FAILED)


@inlined
def _attempt(w: Any, i: int, worker: int, start: float) -> int:
    """A new attempt of item i; lost until it ends."""
    s, v = w.state[0], w.items[i]
    row = s.rows
    if row == len(w.attempts):
        s.full = True
        return 0
    s.rows = row + 1
    v.count += 1
    r = w.attempts[row]
    r.start, r.end, r.item, r.number, r.worker, r.outcome = start, np.nan, i, v.count, worker, LOST
    return row


@inlined
def _end(w: Any, row: int, counts: bool, how: int) -> None:
    """The attempt in this row, which has its end, has this outcome, and counts for its item or does not."""
    r = w.attempts[row]
    r.outcome = how
    if counts:
        w.times[SERVICE_START, r.item] = r.start
        w.times[SERVICE_END, r.item] = r.end


@inlined
def _awaited(w: Any, message: int) -> bool:
    """Whether the task that this message has the token of is open."""
    v = w.items[w.items[message].item]
    return v.open and v.latest == message


@inlined
def _back(w: Any, message: int, at: float) -> None:
    w.items[message].returning = True
    _push(w, at, VISIBLE, message)


@inlined
def _begin(w: Any, slot: int, at: float) -> None:
    """The next message of the batch in this slot; killed with its function if that runs out of time."""
    b = w.slots[slot]
    i = w.items[w.batches[slot, b.position].message].item
    b.row = _attempt(w, i, slot, at)
    finish = at + w.items[i].service
    b.killed = finish > b.kill_at
    _push(w, max(at, b.kill_at) if b.killed else finish, END, slot)


@inlined
def _release(w: Any, slot: int) -> None:
    """The slot has no batch any more."""
    s = w.state[0]
    s.busy -= 1
    w.slots[slot].active = False
    w.slots[s.slots].free = slot
    s.slots += 1


@inlined
def _finish(w: Any, slot: int, deleted: int) -> None:
    w.state[0].in_flight -= deleted
    if not w.settings[0].fleet:
        _idle(w, WORKER_ENVIRONMENTS)
    _release(w, slot)


@inlined
def _fail(w: Any, slot: int, now: float) -> None:
    """The message in service comes back after a while, and the batch goes on."""
    b = w.slots[slot]
    m = w.batches[slot, b.position]
    m.failing = True
    _end(w, b.row, _awaited(w, m.message), FAILED)
    _back(w, m.message, now + w.settings[0].redelivery)
    _push(w, now, NEXT, slot)


@inlined
def _answer(w: Any, slot: int, now: float) -> None:
    """SendTaskSuccess for the message in service: accepted, late, throttled, or given up."""
    p, b = w.settings[0], w.slots[slot]
    m = w.batches[slot, b.position]
    i = w.items[m.message].item
    if _take(w.buckets[ANSWERS], now):
        awaited = _awaited(w, m.message)
        _end(w, b.row, awaited, SUCCEEDED if awaited else LATE)
        if awaited:
            _close(w, i, now, now + p.answer_seconds, SUCCEEDED)
        _push(w, now + p.answer_seconds, NEXT, slot)
    elif b.tries < TRIES:
        wait = _backoff(p.seed, i, m.number * 16 + b.tries, THROTTLED, b.tries, LONGEST_TRY)
        b.tries += 1
        _push(w, now + wait, ANSWER, slot)
    else:
        _fail(w, slot, now)


@inlined
def _environment(w: Any, function: int, item: int, number: int, now: float) -> float:
    """Take a place in the account and an environment of this function: its cold start, or NaN if refused."""
    s, p, environments = w.state[0], w.settings[0], w.buckets[function]
    if s.functions >= p.account_concurrency:
        return np.nan
    cold = 0.0
    if environments.idle > 0 and not (
        p.cold_start_share > 0 and uniform(p.seed, item, number, COLD) < p.cold_start_share
    ):
        environments.idle -= 1
    elif _take(environments, now):
        cold = p.cold_start_seconds
    else:
        return np.nan
    s.functions += 1
    return cold


@inlined
def _idle(w: Any, function: int) -> None:
    """A function has ended, and leaves its environment."""
    w.state[0].functions -= 1
    w.buckets[function].idle += 1


@inlined
def _invoke(w: Any, slot: int, now: float) -> None:
    """Start the batch in this slot, or try again later where Lambda refuses."""
    p, b = w.settings[0], w.slots[slot]
    cold = 0.0
    if not p.fleet:
        m = w.batches[slot, 0]
        cold = _environment(w, WORKER_ENVIRONMENTS, w.items[m.message].item, m.number, now)
        if math.isnan(cold):
            _push(w, now + p.throttle_retry_seconds, RETRY, slot)
            return
    begins = (now + cold) + p.receive_seconds
    b.kill_at = begins + p.function_timeout
    if p.heartbeat > 0:
        _push(w, begins + p.heartbeat / BEATS_A_PERIOD, BEAT, slot, b.generation)
    _begin(w, slot, begins)


@inlined
def _try_again(w: Any, slot: int, now: float) -> None:
    """An invocation that was refused: its messages return once their visibility timeout is over."""
    p, b = w.settings[0], w.slots[slot]
    if now >= b.began + p.visibility:
        for at in range(b.length):
            _back(w, w.batches[slot, at].message, now)
        _release(w, slot)
        return
    if p.throttles_receive:
        for at in range(b.length):
            w.items[w.batches[slot, at].message].received += 1
    _invoke(w, slot, now)


@compiled
def _capacity(s: Any, p: Any, now: float) -> float:
    """Batches that the mapping may have under way."""
    minutes = (now - s.first) / 60.0
    if p.ramp_stepped:
        grown = math.floor(minutes) * p.mapping_per_minute
    else:
        grown = math.floor(minutes * p.mapping_per_minute + ROUNDING)
    return min(p.top, p.mapping_start + grown)


@compiled
def _grows(s: Any, p: Any, now: float) -> float:
    """When the mapping may have more under way."""
    if p.ramp_stepped:
        at = s.first + 60.0 * (math.floor((now - s.first) / 60.0) + 1.0)
    else:
        at = s.first + 60.0 * ((s.capacity + 1.0 - p.mapping_start) / p.mapping_per_minute)
    return max(at, np.nextafter(now, np.inf))


@inlined
def _poll(w: Any, now: float) -> None:
    """The consumer takes batches while it may. What time alone allows, a POLL looks for then."""
    s, p, queue = w.state[0], w.settings[0], w.queue
    while s.waiting > 0:
        if s.busy >= s.capacity:
            if s.capacity < p.top:
                s.capacity = _capacity(s, p, now)
            if s.busy >= s.capacity:
                if s.capacity < p.top:
                    w.ends[POLL].front = min(w.ends[POLL].front, _grows(s, p, now))
                break
        room = p.in_flight_limit - s.in_flight
        if room < 1:
            break
        most = min(float(p.batch_size), room)
        size = int(min(most, float(s.waiting)))
        full_at = queue[s.first_waiting].time + p.window
        if p.window > 0 and size < most and now < full_at:
            w.ends[POLL].front = min(w.ends[POLL].front, full_at)
            break
        s.slots -= 1
        slot = w.slots[s.slots].free
        b = w.slots[slot]
        for at in range(size):
            message = queue[s.first_waiting].key
            s.first_waiting = (s.first_waiting + 1) & (len(queue) - 1)
            v = w.items[message]
            v.received += 1
            i = v.item
            w.items[i].deliveries += 1
            m = w.batches[slot, at]
            m.message, m.number, m.failing = message, w.items[i].deliveries, False
        s.waiting -= size
        s.in_flight += size
        s.busy += 1
        b.active, b.length, b.position, b.began = True, size, 0, now
        b.generation += 1
        _invoke(w, slot, now)


@inlined
def _expire(w: Any, i: int, now: float) -> None:
    """The clocks of item i's task may have run out: a new token then, or the end."""
    s, p, v = w.state[0], w.settings[0], w.items[i]
    if not v.open:
        return
    deadline = (w.clocks[i].asked if p.clocks else w.times[ARRIVAL, i]) + p.timeout
    if p.heartbeat > 0:
        deadline = min(deadline, w.clocks[i].beaten + p.heartbeat)
    if now < deadline:
        _jump(w.heap, s, deadline, _key(EXPIRE, i, 0))
    elif v.tries < p.task_attempts:
        message = s.messages
        if message == len(w.items):
            s.full = True
            return
        asked = now + _backoff(p.seed, i, v.tries - 1, RESEND, v.tries - 1, LONGEST_RETRY)
        w.clocks[i].asked = w.clocks[i].beaten = asked
        v.tries += 1
        v.latest = message
        w.items[message].item = i
        s.messages += 1
        _push(w, asked + _delay(w.buckets[TRANSITIONS], now, 1.0) + p.send_seconds, VISIBLE, message)
        _jump(w.heap, s, asked + p.first_deadline, _key(EXPIRE, i, 0))
    else:
        _close(w, i, now, now, DEAD_LETTERED if w.items[v.latest].dead else TIMED_OUT)


@inlined
def _start(w: Any, i: int, now: float) -> None:
    s, p, v = w.state[0], w.settings[0], w.items[i]
    w.ends[START].front = np.inf
    s.started += 1
    s.children += 1
    w.times[ARRIVAL, i] = now
    w.times[SERVICE_START, i] = w.times[SERVICE_END, i] = np.nan
    v.open = True
    s.ready = now + p.start_gap
    delay = _delay(w.buckets[TRANSITIONS], now, 3.0)
    if w.limited[i]:
        enqueued = now + delay + p.send_seconds
        w.times[ENQUEUED, i] = enqueued
        v.item = v.latest = i
        v.tries = 1
        if p.clocks:
            w.clocks[i].asked = w.clocks[i].beaten = now
        if math.isinf(w.ends[EXPIRE].front):
            w.ends[EXPIRE].front = now + p.first_deadline
            s.expiry = i
        _push(w, enqueued, VISIBLE, i)
    else:
        w.times[ENQUEUED, i] = now
        _push(w, now + delay + p.invoke_seconds, INVOKE, i)
    _admit(w, now)


@inlined
def _call(w: Any, i: int, now: float) -> None:
    """The direct lane's invocation of item i's function."""
    v = w.items[i]
    cold = _environment(w, DIRECT_ENVIRONMENTS, i, v.tries, now)
    if math.isnan(cold):
        _retry(w, i, now)
    else:
        v.latest = _attempt(w, i, -1, now + cold)
        _push(w, (now + cold) + v.service, DONE, i)


@inlined
def _done(w: Any, i: int, now: float) -> None:
    """The direct lane's function returns."""
    v = w.items[i]
    _idle(w, DIRECT_ENVIRONMENTS)
    w.attempts[v.latest].end = now
    if v.tries + 1 <= v.failures:
        _end(w, v.latest, True, FAILED)
        _retry(w, i, now)
    else:
        _end(w, v.latest, True, SUCCEEDED)
        _close(w, i, now, now + w.settings[0].return_seconds, SUCCEEDED)


@inlined
def _served(w: Any, slot: int, now: float) -> None:
    """The message in service has been served, or its function is killed."""
    b = w.slots[slot]
    if b.killed:
        for at in range(b.length):
            m = w.batches[slot, at]
            if not m.failing:
                _back(w, m.message, max(now, b.began + w.settings[0].visibility))
        _finish(w, slot, 0)
        return
    w.attempts[b.row].end = now
    m = w.batches[slot, b.position]
    if m.number <= w.items[w.items[m.message].item].failures:
        _fail(w, slot, now)
    else:
        b.tries = 0
        _answer(w, slot, now)


@inlined
def _next(w: Any, slot: int, now: float) -> None:
    """The batch goes on to its next message, or ends."""
    b = w.slots[slot]
    b.position += 1
    if b.position < b.length:
        _begin(w, slot, now)
    else:
        deleted = 0
        for at in range(b.length):
            deleted += not w.batches[slot, at].failing
        _finish(w, slot, deleted)


@inlined
def _visible(w: Any, message: int, now: float) -> None:
    s, v = w.state[0], w.items[message]
    if v.returning:
        v.returning = False
        s.in_flight -= 1
    if v.received >= w.settings[0].max_receive:
        v.dead = True
        return
    if s.waiting == len(w.queue):
        s.full = True
        return
    last = w.queue[(s.first_waiting + s.waiting) & (len(w.queue) - 1)]
    last.time, last.key = now, message
    s.waiting += 1
    if math.isnan(s.first):
        s.first = now


@inlined
def _beat(w: Any, slot: int, generation: int, now: float) -> None:
    """The worker beats for every message of its batch that somebody still waits for."""
    b = w.slots[slot]
    if b.active and (b.generation & _GENERATIONS) == generation:
        for at in range(b.position, b.length):
            message = w.batches[slot, at].message
            if _awaited(w, message) and _take(w.buckets[BEATS], now):
                w.clocks[w.items[message].item].beaten = now
        _push(w, now + w.settings[0].heartbeat / BEATS_A_PERIOD, BEAT, slot, b.generation)


@inlined
def _look(w: Any) -> None:
    """The next first clock to run out: they do in the order in which they started, and need no heap."""
    s = w.state[0]
    s.expiry += 1
    while s.expiry < s.started and not (w.limited[s.expiry] and w.items[s.expiry].open):
        s.expiry += 1
    if s.expiry < s.started:
        w.ends[EXPIRE].front = w.times[ARRIVAL, s.expiry] + w.settings[0].first_deadline
    else:
        w.ends[EXPIRE].front = np.inf


@compiled
def loop(w: World) -> bool:
    """Run to the end; False when a table is full, and all has to be run again with more room."""
    s, heap = w.state[0], w.heap
    _admit(w, 0.0)
    while not s.full:
        now, kind = np.inf, -1
        for one in range(KINDS):
            if w.ends[one].front < now:
                now, kind = w.ends[one].front, one
        key = 0
        if kind == START:
            key = _key(START, s.started, 0)
        elif kind == EXPIRE:
            key = _key(EXPIRE, s.expiry, 0)
        elif kind == POLL:
            key = _key(POLL, 0, 0)
        elif kind >= 0:
            key = w.lines[kind, w.ends[kind].head].key
        if s.heap > 0 and (heap[0].time < now or (heap[0].time == now and heap[0].key < key)):
            now, key = heap[0].time, heap[0].key
            _pop(heap, s)
            kind = key >> 58
        elif kind < 0:
            return True
        elif kind == EXPIRE:
            _look(w)
        elif kind != START and kind != POLL:
            line = w.lines[kind]
            w.ends[kind].head = (w.ends[kind].head + 1) & (len(line) - 1)
            w.ends[kind].length -= 1
            w.ends[kind].front = line[w.ends[kind].head].time if w.ends[kind].length > 0 else np.inf
        number = (key >> 26) & 0xFFFFFFFF

        if kind == FREE:
            s.children -= 1
            _admit(w, now)
        elif kind == START:
            _start(w, number, now)
        elif kind == INVOKE:
            _call(w, number, now)
        elif kind == DONE:
            _done(w, number, now)
        elif kind == END:
            _served(w, number, now)
        elif kind == NEXT:
            _next(w, number, now)
        elif kind == VISIBLE:
            _visible(w, number, now)
        elif kind == ANSWER:
            _answer(w, number, now)
        elif kind == EXPIRE:
            _expire(w, number, now)
        elif kind == BEAT:
            _beat(w, number, key & _GENERATIONS, now)
        elif kind == RETRY:
            _try_again(w, number, now)
        else:
            w.ends[POLL].front = np.inf
        if (_POLLED >> kind) & 1:
            _poll(w, now)
    return False


@compiled
def columns(attempts: Any, numbers: Any, times: Any, worker: Any, outcome: Any) -> None:
    """The attempts' records as columns: items and numbers, starts and ends, workers (0: direct), outcomes."""
    for row in range(len(attempts)):
        r = attempts[row]
        numbers[0, row], numbers[1, row] = r.item, r.number
        times[0, row], times[1, row] = r.start, r.end
        worker[row], outcome[row] = r.worker + 1, r.outcome
