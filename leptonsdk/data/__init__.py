"""Datasets by Hub id, local file or provided name; column mapping, fingerprints, calibration batches.

Nothing heavy is imported here: the planner reads `DataSpec`. The work is in `leptonsdk.data.loading`.
"""

from leptonsdk.data.spec import DataSpec, file_format

__all__ = ["DataSpec", "file_format"]
