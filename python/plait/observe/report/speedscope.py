"""The stacks of a profile for speedscope (https://www.speedscope.app), one sampled profile for each thread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal, NotRequired, TypedDict

from plait.observe._records import ProfileRecord, Stacks, ThreadRecord
from plait.observe.report._words import plain

SCHEMA: Final = "https://www.speedscope.app/file-format-schema.json"

# `$schema` is no name that a class can have.
File = TypedDict(
    "File",
    {
        "$schema": str,
        "name": str,
        "exporter": str,
        "activeProfileIndex": int,
        "shared": "Shared",
        "profiles": "list[SampledProfile]",
    },
)


class Frame(TypedDict):
    """A function."""

    name: str
    file: NotRequired[str]
    line: NotRequired[int]


class Shared(TypedDict):
    """What all profiles of a file name by number."""

    frames: list[Frame]


class SampledProfile(TypedDict):
    """One thread: stacks, outermost frame first, and the seconds that each stands for."""

    type: Literal["sampled"]
    name: str
    unit: Literal["seconds"]
    startValue: float
    endValue: float
    samples: list[list[int]]
    weights: list[float]


def convert(profile: ProfileRecord) -> File:
    """Make the contents of a file of speedscope's format.

    Args:
        profile: A profile, as `load_profile` gives it.

    Returns:
        The file as a plain dict; threads without stacks are left out, and those with the most time come first.
    """
    functions = profile["functions"]
    frames: list[Frame] = []
    for function in functions:
        frame: Frame = {"name": plain(function["function"])}
        if function["file"]:
            frame["file"] = plain(function["file"])
        if function["line"] > 0:
            frame["line"] = function["line"]
        frames.append(frame)
    stacks = profile.get("stacks", Stacks(frames=[], samples=[]))
    chains = _Chains(stacks)
    made: dict[int, SampledProfile] = {}
    for sample in sorted(stacks["samples"], key=lambda sample: sample["at"]):
        if sample["frame"] < 0 or sample["weight"] <= 0:
            continue
        index = sample["thread"]
        if index not in made:
            made[index] = _empty(_title(profile["threads"][index]))
        made[index]["samples"].append(chains.of(sample["frame"]))
        made[index]["weights"].append(sample["weight"])
    for each in made.values():
        each["endValue"] = sum(each["weights"])
    program = plain(profile["processes"][0]["name"]) if profile["processes"] else "profile"
    return {
        "$schema": SCHEMA,
        "name": program,
        "exporter": f"plait {profile['plait']}",
        "activeProfileIndex": 0,
        "shared": {"frames": frames},
        # Its viewer wants one to begin with.
        "profiles": sorted(made.values(), key=lambda each: -each["endValue"]) or [_empty("no stacks")],
    }


def write(profile: ProfileRecord, path: str | Path) -> None:
    """Write a file of speedscope's format, `.speedscope.json` by custom."""
    Path(path).write_text(json.dumps(convert(profile), separators=(",", ":")), encoding="utf-8")


def _title(thread: ThreadRecord) -> str:
    return f"{plain(thread['name'])} ({thread['pid']}/{thread['tid']})"


def _empty(name: str) -> SampledProfile:
    return {
        "type": "sampled",
        "name": name,
        "unit": "seconds",
        "startValue": 0,
        "endValue": 0,
        "samples": [],
        "weights": [],
    }


class _Chains:
    """The functions of each stack, outermost first, each made once."""

    def __init__(self, stacks: Stacks) -> None:
        self.frames = stacks["frames"]
        self.known: dict[int, list[int]] = {}

    def of(self, frame: int) -> list[int]:
        if frame not in self.known:
            chain: list[int] = []
            at = frame
            while at >= 0:
                chain.append(self.frames[at]["function"])
                at = self.frames[at]["caller"]
            self.known[frame] = chain[::-1]
        return self.known[frame]
