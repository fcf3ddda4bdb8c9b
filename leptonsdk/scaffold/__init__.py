"""``lepton plugins new``: a distribution that works at once, for an author to change into their own."""

from leptonsdk.scaffold.names import KINDS, Kind, Names, check_name
from leptonsdk.scaffold.writing import NewPlugin, new_plugin

__all__ = ["KINDS", "Kind", "Names", "NewPlugin", "check_name", "new_plugin"]
