"""Predicts: what given work would take under another concurrency model, with more workers, or on more cores.

`simulate` answers; `Workload`, `Item`, `Burst`, `Parcel` and `Resource` say what the work is, and `Costs` what the machine
takes for itself (`calibrate` measures that). The simulator is the crate `plait-sim`; docs/design/simulator.md tells what
it knows and what not.
"""

from plait.model._calibrate import calibrate as calibrate
from plait.model._costs import Cost as Cost, Costs as Costs
from plait.model._record import record as record
from plait.model._simulate import Model as Model, Prediction as Prediction, simulate as simulate, what_if as what_if
from plait.model._speed import measure_speed as measure_speed
from plait.model._workload import (
    Burst as Burst,
    Item as Item,
    Parcel as Parcel,
    Resource as Resource,
    Workload as Workload,
)

__all__ = [
    "Burst",
    "Cost",
    "Costs",
    "Item",
    "Model",
    "Parcel",
    "Prediction",
    "Resource",
    "Workload",
    "calibrate",
    "measure_speed",
    "record",
    "simulate",
    "what_if",
]
