"""Files for speedscope, by the rules of its published format."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from plait.observe.report import speedscope
from tests.observe._profiles import FUNCTIONS, a_profile

NUMBER = (int, float)


def check(file: Any) -> None:
    """What the format asks for, of files whose profiles are all sampled; what may be left out is checked where it is there."""
    assert file["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert set(file) <= {"$schema", "shared", "profiles", "name", "activeProfileIndex", "exporter"}
    frames = file["shared"]["frames"]
    assert isinstance(frames, list)
    for frame in frames:
        assert isinstance(frame["name"], str)
        assert set(frame) <= {"name", "file", "line", "col"}
        assert isinstance(frame.get("file", ""), str)
        assert isinstance(frame.get("line", 1), NUMBER)
    assert file["profiles"]
    assert 0 <= file["activeProfileIndex"] < len(file["profiles"])
    for profile in file["profiles"]:
        assert profile["type"] == "sampled"
        assert profile["unit"] in {"none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"}
        assert set(profile) == {"type", "name", "unit", "startValue", "endValue", "samples", "weights"}
        assert isinstance(profile["name"], str)
        assert isinstance(profile["startValue"], NUMBER)
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] - profile["startValue"] == pytest.approx(sum(profile["weights"]))
        assert all(isinstance(weight, NUMBER) and weight >= 0 for weight in profile["weights"])
        for stack in profile["samples"]:
            assert all(isinstance(frame, int) and 0 <= frame < len(frames) for frame in stack)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"threads": 0, "tasks": 0},
        {"segments": 1, "threads": 1},
        {"threads": 12, "nasty": True},
        {"threads": 300, "pace": 0.1},
    ],
    ids=["usual", "nothing", "one segment", "nasty names", "300 threads"],
)
def test_files_keep_to_the_format(how: dict[str, Any], tmp_path: Path) -> None:
    profile = a_profile(**how)
    speedscope.write(profile, tmp_path / "out.speedscope.json")
    stored = json.loads((tmp_path / "out.speedscope.json").read_text())
    assert stored == json.loads(json.dumps(speedscope.convert(profile)))
    check(stored)


def test_each_thread_has_the_time_of_its_stacks() -> None:
    profile = a_profile()
    weights: dict[str, float] = defaultdict(float)
    for sample in profile["stacks"]["samples"]:
        thread = profile["threads"][sample["thread"]]
        weights[f"{thread['name']} ({thread['pid']}/{thread['tid']})"] += sample["weight"]
    made = speedscope.convert(profile)["profiles"]
    assert {each["name"]: each["endValue"] for each in made} == pytest.approx(weights)
    assert [each["endValue"] for each in made] == sorted((each["endValue"] for each in made), reverse=True)


def test_stacks_begin_with_the_outermost_function() -> None:
    profile = a_profile()
    file = speedscope.convert(profile)
    names = [each["name"] for each in file["shared"]["frames"]]
    assert names == [function for function, _, _ in FUNCTIONS]
    stacks = {tuple(names[frame] for frame in stack) for each in file["profiles"] for stack in each["samples"]}
    assert ("<module>", "worker_loop", "score_products", "json.loads") in stacks
    assert {stack[0] for stack in stacks} == {"<module>"}


def test_a_profile_without_stacks_makes_a_file_all_the_same() -> None:
    profile = a_profile()
    del profile["stacks"]
    file = speedscope.convert(profile)
    check(file)
    assert [each["name"] for each in file["profiles"]] == ["no stacks"]
