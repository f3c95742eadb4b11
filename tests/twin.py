"""The simulator's model again, in plain Python, from its description alone: what the kernel must equal.

Written to be read, not to be fast. The kernel and this twin share no code, so they agree to the last bit only
where both do what the model says.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from helpers.experiment import Experiment

SUCCEEDED, FAILED, TIMED_OUT, DEAD_LETTERED = range(4)  # outcomes of items
ANSWERED, ERROR, LATE, LOST = range(4)  # outcomes of attempts: succeeded, failed, late, lost
COLD, BACKOFF, THROTTLED, RESEND = range(4)  # streams of draws
DIRECT = -1  # the worker of a direct attempt

# Kinds of events: at one moment the lower ones come first.
FREE, DONE, END, ANSWER, NEXT, VISIBLE, EXPIRE, BEAT, START, INVOKE, RETRY, POLL = range(12)
POLLED = (DONE, END, NEXT, VISIBLE, RETRY, POLL)  # after these the consumer looks at the queue

GAMMA = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def mix(z: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def uniform(seed: int, item: int, number: int, stream: int) -> float:
    """The draw in (0, 1) of this item, number and stream."""
    h = mix(seed + (16 + stream) * GAMMA)
    h = mix(h + (item + 1) * GAMMA)
    h = mix(h + (number + 1) * GAMMA)
    return ((h >> 12) + 0.5) * 2.0**-52


class Bucket:
    """A token bucket: full at first, never above `burst`, refilled with `rate` tokens a second."""

    def __init__(self, burst: float, rate: float) -> None:
        self.burst, self.rate = burst, rate
        self.level, self.last = burst, 0.0

    def refill(self, now: float) -> None:
        if self.rate == math.inf:
            self.level = self.burst
        else:
            self.level = min(self.burst, self.level + (now - self.last) * self.rate)
        self.last = now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self.refill(now)
        if self.level >= 1.0:
            self.level -= 1.0
            return True
        return False

    def delay(self, now: float, tokens: float) -> float:
        """Take the tokens, there or not, and say in how many seconds they will be there."""
        self.refill(now)
        self.level -= tokens
        return 0.0 if self.level >= 0.0 else -self.level / self.rate


@dataclass
class Message:
    """What is in the queue: one of the messages that its item has sent, each with a task token."""

    number: int
    item: int
    received: int = 0
    returning: bool = False  # hidden until it is visible again, which counts as in flight
    dead: bool = False
    visible_at: float = math.nan


@dataclass
class Slot:
    """A place for one worker with its batch."""

    messages: list[Message] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # which delivery of its item each is
    failing: list[bool] = field(default_factory=list)
    position: int = 0
    row: int = -1  # of the attempt under way
    tries: int = 0  # to answer
    killed: bool = False
    active: bool = False
    generation: int = 0
    began: float = math.nan
    killed_at: float = math.nan


def simulate_twin(experiment: Experiment, quotas: object) -> tuple[dict[str, list], dict[str, list]]:
    """Run the model: (items, rows).

    items: arrival, enqueued, service_start, service_end, returned (s, NaN where it never came), count (of
    attempts), outcome (0 succeeded, 1 failed, 2 timed out, 3 dead-lettered), one entry an item in order.
    rows: item, worker (-1 direct), start, end (s, NaN if lost), outcome (0 succeeded, 1 failed, 2 late,
    3 lost), one entry an attempt, in the order in which they started.
    """
    twin = Twin(experiment, quotas)
    twin.run()
    return twin.items, twin.rows


class Twin:
    def __init__(self, experiment: Experiment, quotas: object) -> None:
        self.e, self.q = experiment, quotas
        self.n = n = experiment.items
        plan = experiment.plan()
        self.limited = (plan["lane"] == "limited").tolist()
        self.service, self.failures = plan["task_seconds"].tolist(), plan["failures"].tolist()
        self.fleet = experiment.consumer == "fleet"
        due = experiment.arrivals()
        self.due = [0.0] * n if due is None else due.tolist()
        self.timeout = float(experiment.task_timeout_seconds)
        self.heartbeat = float(experiment.heartbeat_seconds or 0)
        self.window = float(experiment.batch_window_seconds)
        self.top = min(experiment.worker_concurrency, quotas.mapping_limit)

        self.answers = Bucket(quotas.task_burst, quotas.task_per_second)
        self.beats = Bucket(quotas.task_burst, quotas.task_per_second)
        self.transitions = Bucket(quotas.transitions_burst, quotas.transitions_per_second)
        environments = quotas.environments_burst, quotas.environments_per_second
        self.environments_direct, self.environments_worker = Bucket(*environments), Bucket(*environments)

        self.heap: list[tuple[float, int, int, int]] = []
        self.children, self.next = 0, 0
        self.ready, self.pending = quotas.map_start_seconds, False
        self.functions = 0
        self.idle_direct = self.idle_worker = 0 if experiment.cold_start else 2**62
        self.queue: deque[Message] = deque()
        self.in_flight = self.busy = 0
        self.t0, self.wake = math.nan, math.inf
        self.slots = [Slot() for _ in range(experiment.worker_concurrency)]
        self.free = list(reversed(range(experiment.worker_concurrency)))

        self.messages = [Message(number, item=number) for number in range(n)]
        self.token = list(self.messages)  # the message of each item whose answer is awaited
        self.tokens, self.deliveries = [1] * n, [0] * n  # of all messages of an item
        self.asked, self.beaten = [math.nan] * n, [math.nan] * n
        self.open, self.retries, self.latest_row = [False] * n, [0] * n, [-1] * n
        times = ("arrival", "enqueued", "service_start", "service_end", "returned")
        self.items: dict[str, list] = {name: [math.nan] * n for name in times}
        self.items.update(count=[0] * n, outcome=[-1] * n)
        self.rows: dict[str, list] = {name: [] for name in ("item", "worker", "start", "end", "outcome")}

    def run(self) -> None:
        handlers = {
            FREE: self.on_free,
            DONE: self.on_done,
            END: self.on_end,
            ANSWER: self.answer,
            NEXT: self.on_next,
            VISIBLE: self.on_visible,
            EXPIRE: self.on_expire,
            START: self.on_start,
            INVOKE: self.on_invoke,
            RETRY: self.on_retry,
            POLL: self.on_poll,
        }
        self.admit(0.0)
        while self.heap:
            now, kind, number, generation = heapq.heappop(self.heap)
            if kind == BEAT:
                self.on_beat(number, now, generation)
            else:
                handlers[kind](number, now)
            if kind in POLLED:
                self.poll(now)

    def push(self, time: float, kind: int, number: int, generation: int = 0) -> None:
        heapq.heappush(self.heap, (time, kind, number, generation))

    def u(self, item: int, number: int, stream: int) -> float:
        return uniform(self.e.seed, item, number, stream)

    def is_cold(self, item: int, number: int) -> bool:
        """Whether a start is cold by chance, though an environment is idle."""
        share = self.q.cold_start_share
        return share > 0 and self.u(item, number, COLD) < share

    # The map

    def admit(self, now: float) -> None:
        if not self.pending and self.next < self.n and self.children < self.e.map_limit:
            self.push(max(now, self.ready, self.due[self.next]), START, self.next)
            self.pending = True

    def on_free(self, i: int, now: float) -> None:
        self.children -= 1
        self.admit(now)

    def on_start(self, i: int, now: float) -> None:
        self.pending = False
        self.next += 1
        self.children += 1
        self.items["arrival"][i] = now
        self.open[i] = True
        self.ready = now + 1.0 / self.q.children_per_second
        d = self.transitions.delay(now, 3.0)
        if self.limited[i]:
            self.items["enqueued"][i] = now + d + self.q.send_seconds
            self.push(self.items["enqueued"][i], VISIBLE, i)
            self.start_clocks(i, now)
        else:
            self.items["enqueued"][i] = now
            self.push(now + d + self.q.invoke_seconds, INVOKE, i)
        self.admit(now)

    def close(self, i: int, now: float, at: float, outcome: int) -> None:
        if self.open[i]:
            self.open[i] = False
            self.items["outcome"][i] = outcome
            self.items["returned"][i] = at + self.transitions.delay(now, 1.0)
            self.push(self.items["returned"][i], FREE, i)

    # The clocks of the callback task

    def start_clocks(self, i: int, asked: float) -> None:
        self.asked[i] = self.beaten[i] = asked
        first = min(self.timeout, self.heartbeat) if self.heartbeat > 0 else self.timeout
        self.push(asked + first, EXPIRE, i)

    def awaits(self, message: Message) -> bool:
        """Whether the task that this message is about has not ended."""
        return self.open[message.item] and self.token[message.item] is message

    def on_expire(self, i: int, now: float) -> None:
        if not self.open[i]:
            return
        deadline = self.asked[i] + self.timeout
        if self.heartbeat > 0:
            deadline = min(deadline, self.beaten[i] + self.heartbeat)
        if now < deadline:
            self.push(deadline, EXPIRE, i)
        elif self.tokens[i] < self.e.task_attempts:
            self.resend(i, now)
        else:
            self.close(i, now, now, DEAD_LETTERED if self.token[i].dead else TIMED_OUT)

    def resend(self, i: int, now: float) -> None:
        """The Retry of the task: a message with a new token; the old one may be served all the same."""
        again = self.tokens[i] - 1
        w = self.u(i, again, RESEND) * min(2.0**again, 30.0)
        d = self.transitions.delay(now, 1.0)
        self.tokens[i] += 1
        self.token[i] = Message(len(self.messages), item=i)
        self.messages.append(self.token[i])
        self.start_clocks(i, now + w)
        self.push(self.asked[i] + d + self.q.send_seconds, VISIBLE, self.token[i].number)

    # Attempts

    def start_row(self, i: int, worker: int, start: float) -> int:
        for name, value in zip(self.rows, (i, worker, start, math.nan, LOST), strict=True):
            self.rows[name].append(value)
        self.items["count"][i] += 1
        self.latest_row[i] = len(self.rows["item"]) - 1
        return self.latest_row[i]

    def settle_row(self, row: int, outcome: int, counts: bool) -> None:
        """Give a row that has its end its outcome; where it counts for its item, the item its times."""
        self.rows["outcome"][row] = outcome
        if counts:
            i = self.rows["item"][row]
            self.items["service_start"][i] = self.rows["start"][row]
            self.items["service_end"][i] = self.rows["end"][row]

    # The direct lane

    def on_invoke(self, i: int, now: float) -> None:
        refused = self.functions >= self.q.account_concurrency
        c = 0.0
        if not refused:
            if self.idle_direct > 0 and not self.is_cold(i, self.retries[i]):
                self.idle_direct -= 1
            elif self.environments_direct.take(now):
                c = self.q.cold_start_seconds
            else:
                refused = True
        if refused:
            self.again(i, now)
        else:
            self.functions += 1
            self.start_row(i, DIRECT, now + c)
            self.push((now + c) + self.service[i], DONE, i)

    def again(self, i: int, now: float) -> None:
        if self.retries[i] < 4:
            w = self.u(i, self.retries[i], BACKOFF) * min(2.0 ** self.retries[i], 30.0)
            self.retries[i] += 1
            self.push(now + w, INVOKE, i)
        else:
            self.close(i, now, now + self.q.return_seconds, FAILED)

    def on_done(self, i: int, now: float) -> None:
        self.functions -= 1
        self.idle_direct += 1
        row = self.latest_row[i]
        self.rows["end"][row] = now
        if self.retries[i] + 1 <= self.failures[i]:
            self.settle_row(row, ERROR, counts=self.open[i])
            self.again(i, now)
        else:
            self.settle_row(row, ANSWERED, counts=self.open[i])
            self.close(i, now, now + self.q.return_seconds, SUCCEEDED)

    # The limited lane: the queue

    def on_visible(self, number: int, now: float) -> None:
        message = self.messages[number]
        if message.returning:
            message.returning = False
            self.in_flight -= 1
        if message.received >= self.e.max_receive_count:
            message.dead = True
            return
        self.queue.append(message)
        message.visible_at = now
        if math.isnan(self.t0):
            self.t0 = now

    def come_back(self, message: Message, at: float) -> None:
        message.returning = True
        self.push(at, VISIBLE, message.number)

    # The limited lane: the consumer

    def capacity(self, now: float) -> float:
        """Batches that may be in service at once."""
        if self.fleet:
            return self.e.worker_concurrency
        if self.q.mapping_start == math.inf:
            return self.top
        minutes = (now - self.t0) / 60.0
        if self.q.ramp_stepped:
            grown = math.floor(minutes) * self.q.mapping_per_minute
        else:
            grown = math.floor(minutes * self.q.mapping_per_minute + 1e-9)
        return min(self.top, self.q.mapping_start + grown)

    def grows(self, now: float, c: float) -> float:
        """When the capacity, now c, grows next."""
        if self.q.ramp_stepped:
            return self.t0 + 60.0 * (math.floor((now - self.t0) / 60.0) + 1.0)
        return self.t0 + 60.0 * ((c + 1.0 - self.q.mapping_start) / self.q.mapping_per_minute)

    def wake_at(self, time: float) -> None:
        if time < self.wake:
            self.wake = time
            self.push(time, POLL, 0)

    def on_poll(self, _: int, now: float) -> None:
        if now >= self.wake:
            self.wake = math.inf

    def poll(self, now: float) -> None:
        while self.queue:
            c = self.capacity(now)
            if self.busy >= c:
                if not self.fleet and c < self.top:
                    self.wake_at(max(self.grows(now, c), math.nextafter(now, math.inf)))
                return
            room = self.q.in_flight_limit - self.in_flight
            if room < 1:
                return
            most = min(self.e.batch_size, room)
            size = min(most, len(self.queue))
            full_at = self.queue[0].visible_at + self.window
            if self.window > 0 and size < most and now < full_at:
                self.wake_at(full_at)
                return
            self.receive(int(size), now)

    def receive(self, size: int, now: float) -> None:
        number = self.free.pop()
        slot = self.slots[number]
        slot.messages = [self.queue.popleft() for _ in range(size)]
        slot.numbers = []
        for message in slot.messages:
            message.received += 1
            self.deliveries[message.item] += 1
            slot.numbers.append(self.deliveries[message.item])
        slot.failing = [False] * size
        self.in_flight += size
        self.busy += 1
        slot.began = now
        slot.generation += 1
        slot.position, slot.active = 0, True
        self.invoke(number, now)

    def invoke(self, number: int, now: float) -> None:
        """Start the worker with its batch; a function may be refused, and is then tried again."""
        slot = self.slots[number]
        if self.fleet:
            self.start(number, now, cold=0.0)
            return
        allowed = self.functions < self.q.account_concurrency
        warm = allowed and self.idle_worker > 0 and not self.is_cold(slot.messages[0].item, slot.numbers[0])
        if warm:
            self.idle_worker -= 1
        elif not (allowed and self.environments_worker.take(now)):
            self.push(now + self.q.throttle_retry_seconds, RETRY, number)
            return
        self.functions += 1
        self.start(number, now, cold=0.0 if warm else self.q.cold_start_seconds)

    def on_retry(self, number: int, now: float) -> None:
        slot = self.slots[number]
        if now >= slot.began + self.e.visibility_timeout_seconds:
            for message in slot.messages:
                self.come_back(message, now)
            self.release(number)
            return
        if self.q.throttles_receive:
            for message in slot.messages:
                message.received += 1
        self.invoke(number, now)

    def start(self, number: int, now: float, cold: float) -> None:
        slot = self.slots[number]
        begins = (now + cold) + self.q.receive_seconds
        slot.killed_at = begins + self.e.function_timeout_seconds
        if self.heartbeat > 0:
            self.push(begins + self.heartbeat / 3.0, BEAT, number, slot.generation)
        self.begin(number, begins)

    # The limited lane: a worker with its batch

    def begin(self, number: int, at: float) -> None:
        slot = self.slots[number]
        i = slot.messages[slot.position].item
        slot.row = self.start_row(i, number, at)
        finish = at + self.service[i]
        slot.killed = finish > slot.killed_at
        self.push(max(at, slot.killed_at) if slot.killed else finish, END, number)

    def on_end(self, number: int, now: float) -> None:
        slot = self.slots[number]
        if slot.killed:
            for message, failing in zip(slot.messages, slot.failing, strict=True):
                if not failing:
                    self.come_back(message, max(now, slot.began + self.e.visibility_timeout_seconds))
            self.finish(number, deleted=0)
            return
        self.rows["end"][slot.row] = now
        if slot.numbers[slot.position] <= self.failures[slot.messages[slot.position].item]:
            self.fail(number, now)
        else:
            slot.tries = 0
            self.answer(number, now)

    def fail(self, number: int, now: float) -> None:
        """The current message fails: it is hidden for a while, and the batch goes on."""
        slot = self.slots[number]
        message = slot.messages[slot.position]
        self.settle_row(slot.row, ERROR, counts=self.awaits(message))
        slot.failing[slot.position] = True
        self.come_back(message, now + self.e.redelivery_seconds)
        self.push(now, NEXT, number)

    def answer(self, number: int, now: float) -> None:
        slot = self.slots[number]
        message = slot.messages[slot.position]
        if self.answers.take(now):
            if self.awaits(message):
                self.settle_row(slot.row, ANSWERED, counts=True)
                self.close(message.item, now, now + self.q.answer_seconds, SUCCEEDED)
            else:
                self.settle_row(slot.row, LATE, counts=False)
            self.push(now + self.q.answer_seconds, NEXT, number)
        elif slot.tries < 9:
            w = self.u(message.item, slot.numbers[slot.position] * 16 + slot.tries, THROTTLED)
            w *= min(2.0**slot.tries, 20.0)
            slot.tries += 1
            self.push(now + w, ANSWER, number)
        else:
            self.fail(number, now)

    def on_next(self, number: int, now: float) -> None:
        slot = self.slots[number]
        slot.position += 1
        if slot.position < len(slot.messages):
            self.begin(number, now)
        else:
            self.finish(number, deleted=slot.failing.count(False))

    def finish(self, number: int, deleted: int) -> None:
        self.in_flight -= deleted
        if not self.fleet:
            self.functions -= 1
            self.idle_worker += 1
        self.release(number)

    def release(self, number: int) -> None:
        self.busy -= 1
        self.free.append(number)
        self.slots[number].active = False

    def on_beat(self, number: int, now: float, generation: int) -> None:
        slot = self.slots[number]
        if generation != slot.generation or not slot.active:
            return
        for message in slot.messages[slot.position :]:
            if self.awaits(message) and self.beats.take(now):
                self.beaten[message.item] = now
        self.push(now + self.heartbeat / 3.0, BEAT, number, generation)
