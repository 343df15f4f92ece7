"""What all reports say alike: numbers with units, what states and verdicts mean, and names that are safe to show."""

from __future__ import annotations

import re

from plait._words import seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from plait.observe._records import AskerRecord, LockRecord, Method, ProfileRecord, WaitRecord
    from plait.observe._states import StateName

NOT_KNOWN: Final = "not known"

TITLES: Final[dict[StateName, str]] = {
    "on_cpu_gil": "Running Python",
    "on_cpu_released": "Running without the GIL",
    "ready": "Ready, no core",
    "gil_wait": "Waiting for the GIL",
    "gil_held_off_cpu": "Sleeping with the GIL",
    "io_wait": "Waiting for I/O",
    "lock_wait": "Waiting for a lock",
    "idle": "Idle",
}

MEANINGS: Final[dict[StateName, str]] = {
    "on_cpu_gil": "Has a core and the GIL: Python code, or C code that keeps the GIL.",
    "on_cpu_released": "Has a core and no GIL: C code that let others run Python meanwhile.",
    "ready": "Could run, but every core is busy.",
    "gil_wait": "Could run Python, but another thread holds the GIL.",
    "gil_held_off_cpu": "Holds the GIL and sleeps all the same: nobody else can run Python.",
    "io_wait": "Waits for a file, the network, a child process or a timer.",
    "lock_wait": "Waits for a lock or a result that another thread has.",
    "idle": "Waits for work: nothing is in its queue.",
}

STOPPED: Final = "stop_the_world"
"""The name of the part of `lock_wait` in which a thread stood still, and its title and meaning."""
STOPPED_WORDS: Final = (
    "Standing still",
    "Another thread has stopped all others for a moment: to collect garbage, most often.",
)

WITHOUT_GIL: Final[dict[StateName, tuple[str, str]]] = {
    "on_cpu_released": ("Running", "Has a core: there is no GIL here."),
}
"""Titles and meanings where there is no GIL."""

VERDICTS: Final[dict[str, str]] = {
    "cpu-bound": "CPU-bound",
    "gil-bound": "GIL-bound",
    "io-bound": "I/O-bound",
    "lock-bound": "Lock-bound",
    "ready-bound": "Too few cores",
    "pickling-bound": "Pickling-bound",
    "loop-blocked": "Event loop blocked",
    "idle": "Mostly idle",
}

FIGURES: Final[dict[str, str]] = {
    "gil_busy": "GIL busy",
    "gil_wait_share": "waiting for the GIL",
    "ready_share": "ready, no core",
    "lock_share": "waiting for locks",
    "active_share": "active",
    "stopped_share": "standing still",
    "io_share": "waiting for I/O",
    "asleep_share": "asleep with the GIL",
    "gil_wall_share": "GIL contended",
    "ready_wall_share": "cores contended",
    "lock_wall_share": "locks contended",
    "pickling_share": "pickling",
    "blocked_share": "loop blocked",
    "children_cores": "cores used by unseen children",
}
"""What figures of the evidence are called, where that is not their name."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def plain(text: str) -> str:
    """The text on one line, without what would steer a terminal or turn the direction of what follows."""
    return _CONTROLS.sub(lambda found: " " if found[0] in "\t\n\r" else "\ufffd", text)


def percent(part: float) -> str:
    """A share in at most five characters."""
    if 0 < part < 0.001:
        return "<0.1%"
    return f"{part:.1%}" if abs(part) < 0.0995 else f"{part:.0%}"


def figure(name: str, value: float) -> tuple[str, str]:
    """A number of the evidence, as label and value: shares and times are told by their names."""
    label = FIGURES.get(name, name.replace("_", " "))
    if name == "busy_threads" and value == 1:
        label = "busy thread"
    if name == "wall" or name.endswith("_s"):
        return label.removesuffix(" s"), seconds(value)
    if name == "gil_busy" or name.endswith("_share"):
        return label, percent(value)
    return label, f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def about(name: str, sentence: str) -> str:
    """What a sentence says of what it names first, without the name."""
    return sentence.removeprefix(name).lstrip() if name else sentence


def without_gil(profile: ProfileRecord) -> bool:
    """Whether all processes of a profile ran without a GIL."""
    told = [each for each in profile["methods"] if each["what"] == "gil"]
    return bool(told) and all(each["how"] == "none" and each["exact"] for each in told)


def asked_by(asker: AskerRecord) -> str:
    """Who asked for pauses, and what for."""
    why = "collects garbage" if asker["collects"] else ""
    who = asker["name"] or (str(asker["tid"]) if asker["tid"] else NOT_KNOWN)
    return f"{who} {why}".rstrip()


def short(path: str) -> str:
    """The end of a path that still says which file it is."""
    return "/".join(path.rsplit("/", 2)[-2:])


def how_much(method: Method) -> str:
    """Say how much of it was seen; nothing where it was not looked at."""
    if method["exact"]:
        return "every event"
    return "" if method["how"] == "none" else "sampled"


def how_exactly(method: Method) -> str:
    """Say how something was observed, and how much of it was seen."""
    much = how_much(method)
    return f"{method['how']}, {much}" if much not in {"", method["how"]} else method["how"]


def limits_beside_methods(profile: ProfileRecord) -> list[str]:
    """Return the limits that are not said beside the methods already."""
    said = tuple(f"{each['what']}: {each['how']}, since " for each in profile["methods"])
    return [each for each in profile["limits"] if not each.startswith(said)]


def lock_name(lock: str) -> str:
    """Return what a lock is called: the line that wants it rather than an address."""
    return re.sub(r"^(?:[\w.]+ \()?0x[0-9a-f]+\)?, wanted by ", "lock at ", lock)


def waited_for(wait: WaitRecord) -> tuple[str, str]:
    """Return the call of a wait and what it was for, as they are shown: of a lock the line rather than an address."""
    call, target = wait["call"] or wait["kind"] or NOT_KNOWN, wait["target"]
    if re.fullmatch(r"0x[0-9a-f]+", target):
        where = wait.get("where")
        return ("lock", f"at {where}") if where else (call, "")
    named = lock_name(target)
    return (call, target) if named == target else ("lock", named.removeprefix("lock "))


def holder_of(lock: LockRecord) -> str:
    """Return who had it."""
    return lock["holder_name"] or (str(lock["holder"]) if lock["holder"] else NOT_KNOWN)
