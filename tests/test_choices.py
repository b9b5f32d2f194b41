"""Names that can be chosen on a command line are those that something is behind."""

from __future__ import annotations

from calib8 import choices
from calib8.export import FORMATS
from calib8.graph import Phase
from calib8.measure.thresholds import METHODS
from calib8.repair import PASSES, RepairOptions
from calib8.workflow import SEARCHES, JudgeOptions


def test_every_name_has_something_behind_it_and_nothing_else_has():
    assert list(choices.METHOD_SUMMARIES) == list(METHODS)
    assert list(choices.EXPORT_FORMATS) == list(FORMATS)
    assert list(choices.PHASES) == [phase.name.lower() for phase in Phase]


def test_rooms_take_the_names_from_there():
    assert {*choices.MOVING_PASSES, *choices.THOROUGH_PASSES} <= set(PASSES)
    assert choices.REPAIR_PASSES is PASSES and choices.SEARCHES is SEARCHES
    assert all(RepairOptions(level=level) for level in choices.REPAIR_LEVELS)
    assert JudgeOptions().usual_samples == choices.USUAL_SAMPLES["sensitivity"]


def test_every_name_says_what_it_is():
    assert all(choices.METHOD_SUMMARIES.values()) and all(choices.REPAIR_PASSES.values())
