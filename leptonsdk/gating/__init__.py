"""The gate's statistics: did a compressed model lose too much? Arrays in, verdict out; neither torch nor transformers."""

from leptonsdk.gating.bootstrap import (
    DEFAULT_RESAMPLES,
    bootstrap,
    median_of_turns,
    paired_bootstrap,
    ratio_of_medians,
)
from leptonsdk.gating.columns import Column, Columns
from leptonsdk.gating.conditions import absolute_condition, check_same_examples, metric_condition, ratio_condition
from leptonsdk.gating.intervals import Interval, exact
from leptonsdk.gating.proportions import paired_proportions, paired_relative_proportions, proportion
from leptonsdk.gating.statistics import Statistic, get_statistic, statistic_from, statistic_names
from leptonsdk.gating.verdict import EXIT_CODES, ConditionResult, Verdict, judge_lower, judge_upper, overall

__all__ = [
    "DEFAULT_RESAMPLES",
    "EXIT_CODES",
    "Column",
    "Columns",
    "ConditionResult",
    "Interval",
    "Statistic",
    "Verdict",
    "absolute_condition",
    "bootstrap",
    "check_same_examples",
    "exact",
    "get_statistic",
    "judge_lower",
    "judge_upper",
    "median_of_turns",
    "metric_condition",
    "overall",
    "paired_bootstrap",
    "paired_proportions",
    "paired_relative_proportions",
    "proportion",
    "ratio_condition",
    "ratio_of_medians",
    "statistic_from",
    "statistic_names",
]
