"""The figures of a run as a table: in a terminal, and at the top of README.md."""

from __future__ import annotations

from typing import Any

from examples.demo.ways import FETCHING

MARKERS = ("<!-- demo -->", "<!-- /demo -->")
STAGES = {
    "fetch": "waits for a server",
    "index": "computes in Python",
    "pack": "computes in C, without the GIL",
    "store": "waits for the disk, one at a time",
}
PICKED = {
    "fetch": f"ThreadPoolExecutor({FETCHING})",
    "index": "ProcessPoolExecutor({cores})",
    "pack": "ThreadPoolExecutor({cores})",
    "store": "a loop",
}


def chosen(explained: dict[str, Any]) -> str:
    model, workers = explained["model"], explained["workers"]
    return model if model in ("serial", "asyncio") else "not known yet" if model is None else f"{model} ({workers})"


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A row for each stage, and one for all: what it does; seconds and how, of each way."""
    ways = result["ways"]
    found = []
    for stage, what in STAGES.items():
        alone, by_hand, pool = (ways[name]["stages"][stage] for name in ways)
        how = chosen(ways["plait.Pool"]["explained"][stage])
        picked = PICKED[stage].format(cores=result["cores"])
        found.append([stage, what, f"{alone:.2f}", f"{by_hand:.2f}", picked, f"{pool:.2f}", how])
    alone, by_hand, pool = (ways[name]["total"] for name in ways)
    found.append(
        [
            "in all",
            "",
            f"{alone:.2f}",
            f"{by_hand:.2f}",
            f"{alone / by_hand:.1f} x",
            f"{pool:.2f}",
            f"{alone / pool:.1f} x",
        ]
    )
    return found


def heading(result: dict[str, Any]) -> str:
    nearest, farthest = (f"{1000 * seconds:.0f}" for seconds in result["delay"])
    return (
        f"{result['documents']} documents, {result['bytes'] / 1e6:.1f} MB, from a server that takes {nearest} to {farthest} ms"
        f" for each; seconds on {result['cores']} cores"
    )


def table(result: dict[str, Any]) -> list[str]:
    """Lines for a terminal."""
    lines = [heading(result), f"{'':<7}{'serially':>9}{'by hand':>10}{'':<26}{'plait.Pool':>11}"]
    lines += [
        f"{stage:<7}{alone:>9}{by_hand:>10}  {picked:<24}{pool:>11}  {how}".rstrip()
        for stage, _, alone, by_hand, picked, pool, how in rows(result)
    ]
    return lines


def page_with(page: str, result: dict[str, Any]) -> str:
    """The page with this result between its markers.

    Raises:
        ValueError: It has no markers.
    """
    before, begin, rest = page.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise ValueError(f"no markers {' and '.join(MARKERS)}")
    lines = ["| stage | | serially | by hand | | `plait.Pool` | its last choice |", "|---|---|---:|---:|---|---:|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(result)]
    caption = f"{heading(result)}, Python {result['python']}, plait {result['plait']}, {result['date']}; one run."
    return "\n".join([before + begin, *lines, "", caption, end + after])
