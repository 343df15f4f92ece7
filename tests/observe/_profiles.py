"""Profiles for the tests of reports: of a program that is played through, so that all of their figures agree.

Threads take turns at a GIL with a switch interval, compute without it, read, take locks and wait for work; tasks take turns at
their loop. What comes out is what a profile of such a program would hold.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from plait.observe._states import STATES

if TYPE_CHECKING:
    from plait.observe._records import Bursts, Lane, ProfileRecord, ThreadRecord

INTERVAL = 0.005
GIL, RELEASED, READY, WANTED, HELD_OFF, IO, LOCK, IDLE = range(8)

NASTY = (
    "</script><script>document.title='broken'</script>",
    "\"quotes\" 'single' `ticks` ${code} \\backslash",
    "שלום עולם \u202eright to left",
    "🧵 emoji 👩‍👩‍👧‍👦 family",
    "nul\x00 bell\x07 escape\x1b[31m red",
    "数据处理线程名称很长很长很长很长很长很长很长很长很长很长",
    "very_long_" + "name_" * 200,
    "<!-- comment --> &amp; &lt;b&gt; ]]>",
    "line\nfeed\ttab\u2028separator",
    "\ud800 half a pair",
)

FUNCTIONS = (
    ("handle_request", "/srv/shop/app.py", 41),
    ("render_page", "/srv/shop/views.py", 112),
    ("parse_order", "/srv/shop/orders.py", 28),
    ("json.loads", "/usr/lib/python3.12/json/__init__.py", 299),
    ("score_products", "/srv/shop/ranking.py", 77),
    ("resize", "/srv/shop/images.py", 19),
    ("query", "/srv/shop/db.py", 64),
    ("read_config", "/srv/shop/config.py", 12),
    ("worker_loop", "/srv/shop/workers.py", 8),
    ("<module>", "/srv/shop/main.py", 1),
    ("compress", "/srv/shop/images.py", 58),
    ("Session.refresh", "/srv/shop/session.py", 133),
)
# Innermost last: what a thread of each kind runs.
STACKS = {
    "cpu": ((9, 8, 4), (9, 8, 4, 3), (9, 8, 1), (9, 8, 1, 2)),
    "io": ((9, 0, 6), (9, 0, 11, 6), (9, 0, 2)),
    "native": ((9, 8, 5), (9, 8, 5, 10)),
    "idle": ((9, 8),),
}
WAITS = (("read", "recv", "10.0.0.7:5432"), ("read", "read", "/srv/shop/orders.csv"), ("poll", "epoll_wait", ""))


@dataclass
class Player:
    """One thread, or one task, and what it has done."""

    name: str
    kind: str
    start: float
    left: float = 0.0
    segments: list[tuple[float, float, int, int]] = field(default_factory=list)  # start, length, state, note

    def does(self, start: float, end: float, state: int, note: int = -1) -> None:
        if end > start:
            if self.segments and self.segments[-1][2:] == (state, note):
                first, length = self.segments[-1][:2]
                self.segments[-1] = (first, length + end - start, state, note)
            else:
                self.segments.append((start, end - start, state, note))

    def total(self, state: int) -> float:
        return sum(length for _, length, kind, _ in self.segments if kind == state)


def play(players: list[Player], segments: int, dice: random.Random, grain: float) -> list[tuple[float, float, int]]:
    """Has the threads take turns until there are so many segments; gives who held the GIL."""
    held: list[tuple[float, float, int]] = []
    wants = [(each.start, index) for index, each in enumerate(players)]
    heapq.heapify(wants)
    free = 0.0
    made = 0
    while wants and made < segments:
        want, index = heapq.heappop(wants)
        player = players[index]
        begin = max(want, free)
        if player.left <= 0:
            player.left = dice.expovariate(
                1 / {"cpu": 0.03, "io": 0.0015, "native": 0.001, "idle": 0.0004}[player.kind]
            )
            player.left *= grain
        end = begin + player.left
        if wants and wants[0][0] + INTERVAL * grain < end:
            end = max(begin + INTERVAL * grain, wants[0][0] + INTERVAL * grain)
        end = min(end, begin + player.left)
        player.does(want, begin, WANTED)
        if player.kind == "io" and dice.random() < 0.05:
            player.does(begin, begin + (end - begin) / 2, HELD_OFF)
            player.does(begin + (end - begin) / 2, end, GIL)
        else:
            player.does(begin, end, GIL)
        held.append((begin, end - begin, index))
        player.left -= end - begin
        free = at = end
        if player.left <= 1e-9:
            player.left = 0.0
            pause = dice.expovariate(1 / (0.02 * grain))
            if player.kind == "native":
                player.does(at, at + pause / 2, RELEASED)
                at += pause / 2
            if player.kind != "cpu" or dice.random() < 0.1:
                state = IDLE if player.kind == "idle" else LOCK if dice.random() < 0.15 else IO
                note = dice.randrange(len(WAITS)) if state == IO else 3 if state == LOCK else -1
                player.does(at, at + pause, state, note)
                player.does(at + pause, at + pause * 1.04, READY)
                at += pause * 1.04
        heapq.heappush(wants, (at, index))
        made += 3
    return held


def play_tasks(players: list[Player], until: float, dice: random.Random) -> None:
    """Has tasks take turns at their loop."""
    wants = [(each.start, index) for index, each in enumerate(players)]
    heapq.heapify(wants)
    free = 0.0
    while wants:
        want, index = heapq.heappop(wants)
        begin = max(want, free)
        if begin > until:
            continue
        players[index].does(want, begin, READY)
        free = begin + dice.expovariate(1 / 0.0006)
        players[index].does(begin, free, GIL)
        back = free + dice.expovariate(1 / (0.02 + until / 20))
        players[index].does(free, min(back, until), IO, 4)
        if dice.random() < 0.93:
            heapq.heappush(wants, (back, index))


def bursts(lengths: list[float]) -> Bursts:
    buckets = [0] * 28
    for each in lengths:
        buckets[min(27, max(0, int(each * 1e6).bit_length() - 1))] += 1
    lengths = sorted(lengths) or [0.0]
    at = [lengths[min(len(lengths) - 1, int(len(lengths) * part))] for part in (0.5, 0.9, 0.99)]
    count = sum(buckets)
    return {"count": count, "p50": at[0], "p90": at[1], "p99": at[2], "max": lengths[-1], "buckets": buckets}


def cpu_lengths(player: Player) -> list[float]:
    found, current = [], 0.0
    for _, length, state, _ in player.segments:
        if state in (GIL, RELEASED):
            current += length
        elif state != READY and current:
            found.append(current)
            current = 0.0
    return [*found, current] if current else found


def thread(player: Player, pid: int, tid: int, held: list[float]) -> ThreadRecord:
    states: dict[str, float] = {name: player.total(number) for number, name in enumerate(STATES)}
    waits: dict[int, list[float]] = defaultdict(list)
    for _, length, state, note in player.segments:
        if state == IO:
            waits[note].append(length)
    record: dict[str, Any] = {
        "pid": pid,
        "tid": tid,
        "name": player.name,
        "start": player.start,
        "wall": sum(states.values()),
        **states,
        "switches_voluntary": sum(state in (IO, LOCK, IDLE) for _, _, state, _ in player.segments),
        "switches_forced": sum(state == WANTED for _, _, state, _ in player.segments) // 3,
        "gil_takes": len(held),
        "longest_gil_hold": max(held, default=0.0),
        "longest_gil_hold_at": {"function": "json.loads", "file": FUNCTIONS[3][1], "line": 346} if held else None,
        "cpu_bursts": bursts(cpu_lengths(player)),
        "io_bursts": bursts([length for _, length, state, _ in player.segments if state == IO]),
        "waits": sorted(
            (
                {"kind": k, "call": c, "target": t, "count": len(waits[n]), "time": sum(waits[n])}
                for n, (k, c, t) in enumerate(WAITS)
                if waits[n]
            ),
            key=lambda wait: -float(str(wait["time"])),
        ),
        "locks": [],
    }
    if states["lock_wait"]:
        record["locks"] = [
            {
                "lock": "RLock of /srv/shop/session.py:20",
                "holder": 4242,
                "holder_name": "worker-0",
                "where": "/srv/shop/session.py:133",
                "count": 12,
                "time": states["lock_wait"],
            }
        ]
    return cast("ThreadRecord", record)


def lane(kind: str, index: int, player: Player) -> Lane:
    start, length, state, note = (
        (list(column) for column in zip(*player.segments, strict=True)) if player.segments else ([],) * 4
    )
    return cast("Lane", {"kind": kind, "index": index, "start": start, "length": length, "state": state, "note": note})


def a_profile(
    segments: int = 6000,
    threads: int = 7,
    tasks: int = 12,
    nasty: bool = False,
    seed: int = 1,
    grain: float = 1.0,
    pace: float = 0.01,
) -> ProfileRecord:
    """A profile of about so many segments, threads and tasks, in up to two processes."""
    dice = random.Random(seed)
    kinds = ["cpu", "cpu", "io", "native", "io", "cpu", "idle"]
    names = ["MainThread", "worker-0", "worker-1", "resizer-0", "fetcher-0", "scorer-0", "idler-0"]

    def name(index: int, usual: str) -> str:
        return NASTY[index % len(NASTY)] if nasty else usual

    profile: dict[str, Any] = {"processes": [], "threads": [], "tasks": [], "lanes": [], "gil": []}
    samples: list[dict[str, Any]] = []
    frames: list[dict[str, int]] = []
    numbers: dict[tuple[int, ...], int] = {}
    sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def frame(stack: tuple[int, ...]) -> int:
        if not stack:
            return -1
        if stack not in numbers:
            caller = frame(stack[:-1])
            numbers[stack] = len(frames)
            frames.append({"function": stack[-1], "line": FUNCTIONS[stack[-1]][2] + len(stack), "caller": caller})
        return numbers[stack]

    groups = [threads] if threads < 5 else [threads - 2, 2]
    all_players: list[Player] = []
    for number, count in enumerate(groups if threads else []):
        pid = 4242 + number * 7
        players = []
        for index in range(count):
            kind = index % len(kinds) if number == 0 else 0
            usual = names[kind] if index < len(names) else f"{names[kind]}-{index}"
            players.append(
                Player(name(index, usual), kinds[kind], 0.1 * number + dice.random() * 0.02 * index / max(1, count))
            )
        held = play(players, segments * count // threads, dice, grain)
        base = len(profile["threads"])
        holds: dict[int, list[float]] = defaultdict(list)
        for _, length, index in held:
            holds[index].append(length)
        for index, player in enumerate(players):
            profile["threads"].append(thread(player, pid, pid + index, holds[index]))
            profile["lanes"].append(lane("thread", base + index, player))
            next_sample = player.start
            for at, length, state, _ in player.segments:
                sums_state = STATES[state]
                while next_sample < at + length:
                    stack = dice.choice(STACKS[player.kind])
                    samples.append(
                        {
                            "thread": base + index,
                            "at": next_sample,
                            "frame": frame(stack),
                            "weight": pace,
                            "why": "tick",
                        }
                    )
                    next_sample += pace
                    sums[stack[-1]][sums_state] += pace
                    if state in (GIL, RELEASED):
                        for each in set(stack):
                            sums[each]["total_cpu"] += pace
        starts, lengths, owners = zip(*held, strict=True) if held else ((), (), ())
        profile["gil"].append(
            {"pid": pid, "start": list(starts), "length": list(lengths), "thread": [base + each for each in owners]}
        )
        end = max((s + length for p in players for s, length, *_ in p.segments), default=0.0)
        cpu = sum(p.total(GIL) + p.total(RELEASED) for p in players)
        profile["processes"].append(
            {
                "pid": pid,
                "parent": 4000 if number == 0 else 4242,
                "name": name(number, "python main.py --serve" if number == 0 else "spawn_main"),
                "python": "3.12.1",
                "start": 0.1 * number,
                "wall": end - 0.1 * number,
                "stopped": 0.0,
                "exit": 0 if number == 0 else None,
                "cpu": cpu,
                "faults_minor": 2_000,
                "faults_major": 3,
                "states": {
                    "new": 0.002,
                    "ready": 0.01 * end,
                    "running": min(end, cpu),
                    "waiting": max(0, end - cpu),
                    "terminated": 0.001,
                },
            }
        )
        all_players += players
    wall = max((start + length for p in all_players for start, length, *_ in p.segments), default=0.25)
    workers = [Player(name(n, f"Task-{n + 1}"), "task", dice.random() * wall / 4) for n in range(tasks)]
    play_tasks(workers, wall * 0.9, dice)
    for index, player in enumerate(workers):
        steps = [length for _, length, state, _ in player.segments if state == GIL]
        profile["tasks"].append(
            {
                "pid": 4242,
                "id": index + 1,
                "name": player.name,
                "function": name(index + 3, ("fetch_price", "serve_client", "refresh_cache")[index % 3]),
                "start": player.start,
                "wall": sum(length for _, length, *_ in player.segments),
                "running": player.total(GIL),
                "ready": player.total(READY),
                "awaiting": player.total(IO),
                "steps": len(steps),
                "longest_step": max(steps, default=0.0),
                "awaits": [
                    {
                        "what": "StreamReader.read",
                        "place": "/srv/shop/client.py:88",
                        "count": len(steps),
                        "time": player.total(IO),
                    }
                ],
            }
        )
        profile["lanes"].append(lane("task", index, player))
    functions = []
    for index, (function, file, line) in enumerate(FUNCTIONS):
        mine = sums[index]
        functions.append(
            {
                "function": name(index, function),
                "file": file,
                "line": line,
                "pid": None,
                **{str(state): mine[state] for state in STATES},
                "self_cpu": mine["on_cpu_gil"] + mine["on_cpu_released"],
                "total_cpu": mine["total_cpu"],
                "caused_gil_wait": mine["on_cpu_gil"] * 1.7,
                "longest_gil_hold": 0.031 if function == "json.loads" else min(0.005, mine["on_cpu_gil"]),
                "samples": round(sum(mine[state] for state in STATES) / pace),
                "verdict": "gil-bound"
                if mine["gil_wait"] > mine["on_cpu_gil"]
                else "cpu-bound"
                if mine["on_cpu_gil"]
                else "idle",
            }
        )
    total = sum(t["wall"] for t in profile["threads"]) or 1.0
    wanted = sum(t["gil_wait"] for t in profile["threads"]) / total
    return cast(
        "ProfileRecord",
        {
            "schema": 1,
            "plait": "0.1.0",
            "started": 1764102098.5,
            "wall": wall,
            "verdict": "gil-bound" if threads else "idle",
            "evidence": {
                "sentence": f"Threads spent {wanted:.0%} of their time waiting for the GIL: one at a time can run Python."
                if threads
                else "Nothing ran long enough to be seen.",
                "try": [
                    "Move score_products to a ProcessPool: it computes in Python and shares little.",
                    "Use an asyncio loop for the threads that only read from the network.",
                ]
                if threads
                else [],
                "figures": {
                    "wall": wall,
                    "cores_used": 1.42,
                    "gil_busy": 0.97,
                    "gil_wait_share": wanted,
                    "busy_threads": 5.3,
                }
                if threads
                else {},
                "functions": [
                    {
                        "name": name(4, "score_products"),
                        "verdict": "cpu-bound",
                        "sentence": f"{name(4, 'score_products')} held the GIL while others waited for it, 3.6 s in all.",
                    }
                ]
                if threads
                else [],
            },
            "overhead": {
                "fraction": 0.0124,
                "observer_cpu": 0.031,
                "hooks_cpu": 0.012,
                "lost_records": 0,
                "lost_names": 0,
                "trace_bytes": 482_113,
            },
            "methods": [
                {"what": "gil", "how": "condition variables of the interpreter", "exact": True, "why": ""},
                {
                    "what": "switches",
                    "how": "schedstat and state letters",
                    "exact": False,
                    "why": "perf_event_paranoid is 3",
                },
                {"what": "stacks", "how": "read from memory, 100 a second", "exact": False, "why": ""},
            ],
            "switch_interval": INTERVAL,
            "cores": 2,
            "limits": ["Threads that lived for less than 10 ms have no stacks."],
            **profile,
            "functions": functions if threads else [],
            "blocked": [
                {
                    "pid": 4242,
                    "tid": 4242,
                    "loop": "plait.EventLoop",
                    "callback": name(0, "Task-3 step of serve_client()"),
                    "function": "render_page",
                    "file": "/srv/shop/views.py",
                    "line": 131,
                    "start": wall * 0.4,
                    "time": 0.2,
                }
            ]
            if tasks
            else [],
            "pools": [
                {
                    "pool": "ProcessPool-1",
                    "function": name(5, "resize"),
                    "count": 400,
                    "queue": 3.2,
                    "run": 9.1,
                    "pickling": 0.7,
                    "transfer": 0.2,
                }
            ]
            if threads
            else [],
            "deadlocks": [
                {
                    "pid": 4242,
                    "at": wall * 0.9,
                    "parties": [
                        {
                            "tid": 100 + one,
                            "name": name(one, f"worker-{one}"),
                            "lock": f"threading.Lock (0x{one}0)",
                            "where": "transfer (bank.py:12)",
                            "holder": 101 - one,
                            "holder_name": f"worker-{1 - one}",
                        }
                        for one in (0, 1)
                    ],
                }
            ]
            if threads
            else [],
            "stacks": {"frames": frames, "samples": samples},
            "notes": [
                *(f"{call} {target}".strip() for _, call, target in WAITS),
                "RLock of /srv/shop/session.py:20, held by worker-0",
                name(6, "StreamReader.read at client.py:88"),
            ],
        },
    )


def in_json(profile: ProfileRecord) -> ProfileRecord:
    """As it comes back from a file of JSON."""
    return cast("ProfileRecord", json.loads(json.dumps(profile)))


def without_gil(profile: ProfileRecord) -> ProfileRecord:
    """The same program without a GIL: who waited for it, or slept with it, stood still or waited for a lock."""
    record: Any = in_json(profile)
    record["methods"][0] = {"what": "gil", "how": "none", "exact": True, "why": "a free-threaded build has none"}
    record["notes"].append("stop-the-world")
    stood = 0.0
    for each in record["threads"]:
        each["on_cpu_released"] += each["on_cpu_gil"]
        each["stop_the_world"] = each["gil_wait"]
        each["lock_wait"] += each["gil_wait"] + each["gil_held_off_cpu"]
        each["stops"], each["longest_stop"] = 3, each["gil_wait"] / 2
        each |= {"on_cpu_gil": 0.0, "gil_wait": 0.0, "gil_held_off_cpu": 0.0, "longest_gil_hold": 0.0, "gil_takes": 0}
        stood += each["stop_the_world"]
    for each in record["lanes"]:
        if each["kind"] == "thread":
            for at, state in enumerate(each["state"]):
                if state == WANTED:
                    each["state"][at], each["note"][at] = LOCK, len(record["notes"]) - 1
                elif state in {GIL, HELD_OFF}:
                    each["state"][at] = RELEASED if state == GIL else LOCK
    record["gil"] = []
    place = {"function": "query", "file": "/srv/shop/db.py", "line": 70}
    asker = {"pid": 4242, "tid": 4242, "name": "MainThread", "collects": True, "at": place}
    figures = {"count": 3, "time": stood / 2, "longest": stood / 4, "stood": stood}
    lengths = {"count": 3, "p50": stood / 8, "p90": stood / 4, "p99": stood / 4, "max": stood / 4, "buckets": [0, 3]}
    unknown = {"pid": 4242, "tid": 0, "name": "", "collects": False, "at": None, **dict.fromkeys(figures, 0)}
    record["stop_the_world"] = {**figures, "lengths": lengths, "askers": [{**asker, **figures}, unknown]}
    return cast("ProfileRecord", record)
