"""The event loop of the simulation, compiled: what happens to each item, in virtual time.

What the events are and what each does stands in `helpers/simulation/model.py`. Simultaneous events are
handled in the order of their kinds, and of one kind in the order of their items, or of their batches' slots.
"""

# mypy: allow-untyped-calls, disable-error-code="no-any-return"
# (numba carries no annotations)

import math
from typing import Any

import numba
import numpy as np

from helpers.experiment import DIRECT_ATTEMPTS

FREE, DONE, END, ANSWER, NEXT, VISIBLE, EXPIRE, BEAT, START, INVOKE, POLL = range(11)
"""Kinds of events, in their order at one moment."""
SUCCEEDED, FAILED, TIMED_OUT, DEAD_LETTERED = range(4)
LATE, LOST = 2, 3
"""Outcomes, by their places in `trace.OUTCOMES` and `trace.ATTEMPT_OUTCOMES`."""
COLD, BACKOFF, THROTTLED = range(16, 19)
"""Streams of draws; those below 16 are the experiment's own."""

# Places in the state: whole numbers, and then times and levels.
CHILDREN, STARTED, PENDING, FUNCTIONS, IDLE_DIRECT, IDLE_WORKER = range(6)
IN_FLIGHT, BUSY, HEAP, ROWS, HEAD, QUEUED, SLOTS, EXPIRY = range(6, 14)
READY, FIRST, WAKE, BUCKETS = range(4)
TRANSITIONS, ANSWERS, BEATS, DIRECT_ENVIRONMENTS, WORKER_ENVIRONMENTS = range(5)

ENDLESS = 2**62
RETRIES = DIRECT_ATTEMPTS - 1
"""Of the direct lane's Retry; 1 s, doubled each time, at most 30 s, with full jitter (infra/combined)."""
TRIES = 9
"""Of an answer that is throttled, after the first; 1 s, doubled, at most 20 s (botocore's standard mode)."""
ROUNDING = 1e-9
_GAMMA = np.uint64(0x9E3779B97F4A7C15)

compiled = numba.njit(cache=True, nogil=True)


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
def _push(h: Any, s: Any, time: float, kind: int, number: int, generation: int = 0) -> None:
    key = (kind << 58) | (number << 26) | (generation & 0x3FFFFFF)
    at = s[HEAP]
    s[HEAP] = at + 1
    while at > 0:
        up = (at - 1) >> 1
        if h[up].time < time or (h[up].time == time and h[up].key <= key):
            break
        h[at].time, h[at].key = h[up].time, h[up].key
        at = up
    h[at].time, h[at].key = time, key


@compiled
def _pop(h: Any, s: Any) -> Any:
    time, key = h[0].time, h[0].key
    size = s[HEAP] - 1
    s[HEAP] = size
    last_time, last_key = h[size].time, h[size].key
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        right = down + 1
        if right < size and (
            h[right].time < h[down].time or (h[right].time == h[down].time and h[right].key < h[down].key)
        ):
            down = right
        if last_time < h[down].time or (last_time == h[down].time and last_key <= h[down].key):
            break
        h[at].time, h[at].key = h[down].time, h[down].key
        at = down
    h[at].time, h[at].key = last_time, last_key
    return time, key


@compiled
def _refill(x: Any, bucket: int, now: float) -> Any:
    level = BUCKETS + 4 * bucket
    burst, rate = x[level + 2], x[level + 3]
    x[level] = burst if math.isinf(rate) else min(burst, x[level] + (now - x[level + 1]) * rate)
    x[level + 1] = now
    return level


@compiled
def _take(x: Any, bucket: int, now: float) -> bool:
    level = _refill(x, bucket, now)
    if x[level] >= 1.0:
        x[level] -= 1.0
        return True
    return False


@compiled
def _delay(x: Any, bucket: int, now: float, tokens: float) -> float:
    level = _refill(x, bucket, now)
    x[level] -= tokens
    return 0.0 if x[level] >= 0.0 else -x[level] / x[level + 3]


@compiled
def _admit(h: Any, s: Any, x: Any, p: Any, now: float) -> None:
    if s[PENDING] == 0 and s[STARTED] < p.items and s[CHILDREN] < p.map_limit:
        _push(h, s, max(now, x[READY]), START, s[STARTED])
        s[PENDING] = 1


@compiled
def _close(h: Any, s: Any, x: Any, v: Any, i: int, now: float, at: float, how: int) -> None:
    """The child of item i ends: its place in the map is free when it has returned."""
    if v[i].open:
        v[i].open = False
        v[i].outcome = how
        v[i].returned = at + _delay(x, TRANSITIONS, now, 1.0)
        _push(h, s, v[i].returned, FREE, i)


@compiled
def _again(h: Any, s: Any, x: Any, p: Any, v: Any, i: int, now: float) -> None:
    """The direct lane's Retry, or its end."""
    if v[i].retries < RETRIES:
        wait = uniform(p.seed, i, v[i].retries, BACKOFF) * min(2.0 ** v[i].retries, 30.0)
        v[i].retries += 1
        _push(h, s, now + wait, INVOKE, i)
    else:
        _close(h, s, x, v, i, now, now + p.return_seconds, FAILED)


@compiled
def _row(s: Any, v: Any, r: Any, i: int, worker: int, start: float) -> int:
    """A new attempt of item i; lost until it ends."""
    row = s[ROWS]
    s[ROWS] = row + 1
    r[row].item, r[row].worker, r[row].start, r[row].end, r[row].outcome = i, worker, start, np.nan, LOST
    v[i].row = row
    v[i].count += 1
    return row


@compiled
def _end(v: Any, r: Any, i: int, row: int, how: int) -> None:
    """The attempt in this row, which has its end, counts for item i while its task is open."""
    r[row].outcome = how
    if v[i].open and how != LATE:
        v[i].service_start, v[i].service_end = r[row].start, r[row].end


@compiled
def _back(h: Any, s: Any, v: Any, i: int, at: float) -> None:
    v[i].returning = True
    _push(h, s, at, VISIBLE, i)


@compiled
def _begin(h: Any, s: Any, v: Any, r: Any, b: Any, m: Any, slot: int, at: float) -> None:
    """The next message of the batch in this slot; killed with its function if that runs out of time."""
    i = m[slot, b[slot].position].item
    b[slot].row = _row(s, v, r, i, slot, at)
    finish = at + v[i].service
    b[slot].killed = finish > b[slot].kill_at
    _push(h, s, max(at, b[slot].kill_at) if b[slot].killed else finish, END, slot)


@compiled
def _finish(s: Any, p: Any, b: Any, slot: int, deleted: int) -> None:
    s[IN_FLIGHT] -= deleted
    s[BUSY] -= 1
    if not p.fleet:
        s[FUNCTIONS] -= 1
        s[IDLE_WORKER] += 1
    b[slot].active = False
    b[s[SLOTS]].free = slot
    s[SLOTS] += 1


@compiled
def _answer(h: Any, s: Any, x: Any, p: Any, v: Any, r: Any, b: Any, m: Any, slot: int, now: float) -> None:
    """SendTaskSuccess for the message in service: accepted, late, throttled, or given up."""
    at = b[slot].position
    i, row = m[slot, at].item, b[slot].row
    if _take(x, ANSWERS, now):
        if v[i].open:
            _end(v, r, i, row, SUCCEEDED)
            _close(h, s, x, v, i, now, now + p.answer_seconds, SUCCEEDED)
        else:
            r[row].outcome = LATE
        _push(h, s, now + p.answer_seconds, NEXT, slot)
    elif b[slot].tries < TRIES:
        tries = b[slot].tries
        wait = uniform(p.seed, i, m[slot, at].number * 16 + tries, THROTTLED) * min(2.0**tries, 20.0)
        b[slot].tries = tries + 1
        _push(h, s, now + wait, ANSWER, slot)
    else:
        _fail(h, s, p, v, r, b, m, slot, now)


@compiled
def _fail(h: Any, s: Any, p: Any, v: Any, r: Any, b: Any, m: Any, slot: int, now: float) -> None:
    """The message in service comes back after a while, and the batch goes on."""
    at = b[slot].position
    i = m[slot, at].item
    _end(v, r, i, b[slot].row, FAILED)
    m[slot, at].failing = True
    _back(h, s, v, i, now + p.redelivery)
    _push(h, s, now, NEXT, slot)


@compiled
def _capacity(x: Any, p: Any, now: float) -> float:
    """Batches that the consumer may have under way."""
    top = min(p.workers, p.mapping_limit)
    if p.fleet:
        return float(p.workers)
    if p.mapping_start >= top:
        return float(top)
    minutes = (now - x[FIRST]) / 60.0
    if p.ramp_stepped:
        grown = math.floor(minutes) * p.mapping_per_minute
    else:
        grown = math.floor(minutes * p.mapping_per_minute + ROUNDING)
    return float(min(top, p.mapping_start + grown))


@compiled
def _grows(x: Any, p: Any, now: float, capacity: float) -> float:
    """When the consumer may have more under way."""
    if p.ramp_stepped:
        at = x[FIRST] + 60.0 * (math.floor((now - x[FIRST]) / 60.0) + 1.0)
    else:
        at = x[FIRST] + 60.0 * ((capacity + 1.0 - p.mapping_start) / p.mapping_per_minute)
    return max(at, np.nextafter(now, np.inf))


@compiled
def _wake(h: Any, s: Any, x: Any, at: float) -> None:
    if at < x[WAKE]:
        x[WAKE] = at
        _push(h, s, at, POLL, 0)


@compiled
def _poll(h: Any, s: Any, x: Any, p: Any, v: Any, r: Any, b: Any, m: Any, now: float) -> bool:
    """The consumer takes batches while it may; False when the heap or the rows are full."""
    while s[QUEUED] > 0:
        if s[HEAP] + 8 > len(h) or s[ROWS] + 8 > len(r):
            return False
        capacity = _capacity(x, p, now)
        if s[BUSY] >= capacity:
            if not p.fleet and capacity < min(p.workers, p.mapping_limit):
                _wake(h, s, x, _grows(x, p, now, capacity))
            break
        if not p.fleet and s[FUNCTIONS] >= p.account_concurrency:
            break
        room = p.in_flight_limit - s[IN_FLIGHT]
        if room < 1:
            break
        most = min(float(p.batch_size), room)
        size = int(min(most, float(s[QUEUED])))
        head = v[s[HEAD]].queue
        if p.window > 0 and size < most and now < v[head].visible_at + p.window:
            _wake(h, s, x, v[head].visible_at + p.window)
            break
        cold = 0.0
        if not p.fleet:
            chance = p.cold_start_share > 0
            if s[IDLE_WORKER] > 0 and not (
                chance and uniform(p.seed, head, v[head].received, COLD) < p.cold_start_share
            ):
                s[IDLE_WORKER] -= 1
            elif _take(x, WORKER_ENVIRONMENTS, now):
                cold = p.cold_start_seconds
            else:
                missing = 1.0 - x[BUCKETS + 4 * WORKER_ENVIRONMENTS]
                _wake(h, s, x, max(now + missing / p.environments_per_second, np.nextafter(now, np.inf)))
                break
            s[FUNCTIONS] += 1
        s[SLOTS] -= 1
        slot = b[s[SLOTS]].free
        for at in range(size):
            i = v[s[HEAD]].queue
            s[HEAD] = s[HEAD] + 1 if s[HEAD] + 1 < len(v) else 0
            v[i].received += 1
            m[slot, at].item, m[slot, at].number, m[slot, at].failing = i, v[i].received, False
        s[QUEUED] -= size
        s[IN_FLIGHT] += size
        s[BUSY] += 1
        begins = (now + cold) + p.receive_seconds
        b[slot].active, b[slot].length, b[slot].position = True, size, 0
        b[slot].began, b[slot].kill_at = now, begins + p.function_timeout
        b[slot].generation += 1
        if p.heartbeat > 0:
            _push(h, s, begins + p.heartbeat / 3.0, BEAT, slot, b[slot].generation)
        _begin(h, s, v, r, b, m, slot, begins)
    return True


@compiled
def loop(h: Any, s: Any, x: Any, p: Any, v: Any, r: Any, b: Any, m: Any) -> bool:
    """Run to the end; False when the heap or the attempts are full, and need more room.

    h: the heap of events. s, x: the state, in counts and in times. p: the settings. v: the items. r: the
    attempts. b: the slots of batches under way. m: the messages in each slot.
    """
    first = min(p.timeout, p.heartbeat) if p.heartbeat > 0 else p.timeout
    _admit(h, s, x, p, 0.0)
    while True:
        # Clocks run out in the order in which they started, so that they need no place in the heap.
        while s[EXPIRY] < s[STARTED] and not (v[s[EXPIRY]].limited and v[s[EXPIRY]].open):
            s[EXPIRY] += 1
        if s[HEAP] + 8 + p.batch_size > len(h) or s[ROWS] + 8 > len(r):
            return False
        expires = np.inf
        if s[EXPIRY] < s[STARTED]:
            expires = v[s[EXPIRY]].arrival + first
        if s[HEAP] > 0 and (
            h[0].time < expires or (h[0].time == expires and h[0].key < ((EXPIRE << 58) | (s[EXPIRY] << 26)))
        ):
            now, key = _pop(h, s)
            kind, number = key >> 58, (key >> 26) & 0xFFFFFFFF
        elif s[EXPIRY] < s[STARTED]:
            now, kind, number, key = expires, EXPIRE, s[EXPIRY], 0
            s[EXPIRY] += 1
        else:
            return True

        if kind == FREE:
            s[CHILDREN] -= 1
            _admit(h, s, x, p, now)
        elif kind == DONE:
            s[FUNCTIONS] -= 1
            s[IDLE_DIRECT] += 1
            row = v[number].row
            r[row].end = now
            if v[number].retries + 1 <= v[number].failures:
                _end(v, r, number, row, FAILED)
                _again(h, s, x, p, v, number, now)
            else:
                _end(v, r, number, row, SUCCEEDED)
                _close(h, s, x, v, number, now, now + p.return_seconds, SUCCEEDED)
        elif kind == END:
            slot = number
            if b[slot].killed:
                back = 0
                for at in range(b[slot].length):
                    if not m[slot, at].failing:
                        back = m[slot, at].item
                        _back(h, s, v, back, max(now, b[slot].began + p.visibility))
                _finish(s, p, b, slot, 0)
            else:
                r[b[slot].row].end = now
                at = b[slot].position
                if m[slot, at].number <= v[m[slot, at].item].failures:
                    _fail(h, s, p, v, r, b, m, slot, now)
                else:
                    b[slot].tries = 0
                    _answer(h, s, x, p, v, r, b, m, slot, now)
        elif kind == ANSWER:
            _answer(h, s, x, p, v, r, b, m, number, now)
        elif kind == NEXT:
            b[number].position += 1
            if b[number].position < b[number].length:
                _begin(h, s, v, r, b, m, number, now)
            else:
                failing = 0
                for at in range(b[number].length):
                    failing += m[number, at].failing
                _finish(s, p, b, number, b[number].length - failing)
        elif kind == VISIBLE:
            if v[number].returning:
                v[number].returning = False
                s[IN_FLIGHT] -= 1
            if v[number].received >= p.max_receive:
                v[number].dead = True
            else:
                tail = s[HEAD] + s[QUEUED]
                v[tail if tail < len(v) else tail - len(v)].queue = number
                s[QUEUED] += 1
                v[number].visible_at = now
                if math.isnan(x[FIRST]):
                    x[FIRST] = now
        elif kind == EXPIRE:
            if v[number].open:
                deadline = v[number].arrival + p.timeout
                if p.heartbeat > 0:
                    deadline = min(deadline, v[number].beaten + p.heartbeat)
                if now >= deadline:
                    how = DEAD_LETTERED if v[number].dead else TIMED_OUT
                    _close(h, s, x, v, number, now, now, how)
                else:
                    _push(h, s, deadline, EXPIRE, number)
        elif kind == BEAT:
            if b[number].active and (b[number].generation & 0x3FFFFFF) == (key & 0x3FFFFFF):
                for at in range(b[number].position, b[number].length):
                    i = m[number, at].item
                    if v[i].open and _take(x, BEATS, now):
                        v[i].beaten = now
                _push(h, s, now + p.heartbeat / 3.0, BEAT, number, b[number].generation)
        elif kind == START:
            s[PENDING] = 0
            s[STARTED] += 1
            s[CHILDREN] += 1
            v[number].arrival = now
            v[number].open = True
            x[READY] = now + 1.0 / p.children_per_second
            delay = _delay(x, TRANSITIONS, now, 3.0)
            if v[number].limited:
                v[number].enqueued = now + delay + p.send_seconds
                v[number].beaten = now
                _push(h, s, v[number].enqueued, VISIBLE, number)
            else:
                v[number].enqueued = now
                _push(h, s, now + delay + p.invoke_seconds, INVOKE, number)
            _admit(h, s, x, p, now)
        elif kind == INVOKE:
            retries = v[number].retries
            cold, refused = 0.0, s[FUNCTIONS] >= p.account_concurrency
            if not refused:
                if s[IDLE_DIRECT] > 0 and not (
                    p.cold_start_share > 0 and uniform(p.seed, number, retries, COLD) < p.cold_start_share
                ):
                    s[IDLE_DIRECT] -= 1
                elif _take(x, DIRECT_ENVIRONMENTS, now):
                    cold = p.cold_start_seconds
                else:
                    refused = True
            if refused:
                _again(h, s, x, p, v, number, now)
            else:
                s[FUNCTIONS] += 1
                _row(s, v, r, number, -1, now + cold)
                _push(h, s, (now + cold) + v[number].service, DONE, number)
        elif now >= x[WAKE]:
            x[WAKE] = np.inf
        # A clock that runs out leaves the consumer nothing new to do: what time alone brings, a POLL is for.
        if kind != EXPIRE and s[QUEUED] > 0 and not _poll(h, s, x, p, v, r, b, m, now):
            return False
