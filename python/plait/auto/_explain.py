"""What was decided for a function, in figures and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait._words import seconds
from plait.auto._choice import MODELS

if TYPE_CHECKING:
    from plait.auto._function import Function


class Explanation(dict[str, Any]):
    """The decision that most of the work was done by as a dict, whose text says the same in words.

    Keys: `function`; `model` (None while it is learnt), `workers`, `slice` (calls that go together); `why`; `figures` of a call
    (`calls` so far, `wall`, `cpu`, `held`, `released`, `blocked` in seconds, `size` in bytes, `pickling` in seconds); `made`,
    calls by who has made them: while processes start, threads do; `predicted`, seconds for all calls that were made so far, by
    model, as far as is known by now; `calls`, how many these are; `seen`, how many times as long as predicted plans took that
    were tried; `refused`, the models that it cannot be run in and why; `decided`, how often.
    """

    def __str__(self) -> str:
        if self["model"] is None:
            return f"{self['function']}: not known yet"
        workers = "" if self["model"] in ("serial", "asyncio") else f" ({self['workers']})"
        together = "a call" if self["slice"] == 1 else f"{self['slice']} calls"
        lines = [f"{self['function']}: {self['model']}{workers}, {together} at a time", f"  {self['why']}"]
        lines += [
            f"  {model:<10} {seconds(self['predicted'][model])} for {self['calls']} calls"
            for model in MODELS
            if model in self["predicted"]
        ]
        if self["made"] and [who.partition(" ")[0] for who in self["made"]] != [self["model"]]:
            lines.append("  made: " + ", ".join(f"{calls} by {plan}" for plan, calls in self["made"].items()))
        if self["seen"]:
            lines.append("  seen: " + ", ".join(f"{plan} takes {factor:.2g}x" for plan, factor in self["seen"].items()))
        lines += [f"  {model:<10} {why}" for model, why in self["refused"].items()]
        return "\n".join(lines)


def explain(state: Function) -> Explanation:
    """What is known and decided of a function."""
    state.check(wanted=False)
    figures, decision = state.known_now(), state.explained()
    shown: dict[str, Any] = {
        "calls": state.figures.calls,
        "wall": figures.wall,
        "cpu": figures.cpu,
        "held": min(figures.held, figures.wall),
        "released": figures.released,
        "blocked": figures.blocked,
        "size": figures.size,
        "pickling": figures.pickling,
    }
    return Explanation(
        function=state.name,
        model=None if decision is None else decision.plan.model,
        workers=None if decision is None else decision.plan.workers,
        slice=None if decision is None else decision.slice,
        why=None if decision is None else decision.why,
        figures=shown,
        predicted={} if decision is None else dict(decision.others),
        calls=None if decision is None else decision.calls,
        made=dict(state.done),
        seen=state.paces.shown(),
        refused=dict(state.refused),
        decided=state.decided,
    )
