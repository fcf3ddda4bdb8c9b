"""The plain calls: load, quantize, prune, distill, save, compress, export, evaluate, gate, push, verify.

Each takes what a caller has (a name, a path, an object) and does one thing; a recipe (`compress`) does all of it with
everything written down.
"""

from leptonsdk.api.common import installed_plugins
from leptonsdk.api.exporting import export
from leptonsdk.api.hub import Reproduced, Verified, push_to_hub, reproduce, verify
from leptonsdk.api.judging import GateResult, evaluate, gate
from leptonsdk.api.models import as_checkpoint, as_subject, load_model, save_model
from leptonsdk.api.quantizing import quantize_model
from leptonsdk.api.recipes import compress, plan
from leptonsdk.api.training import distill_model, prune_model

__all__ = [
    "GateResult",
    "Reproduced",
    "Verified",
    "as_checkpoint",
    "as_subject",
    "compress",
    "distill_model",
    "evaluate",
    "export",
    "gate",
    "installed_plugins",
    "load_model",
    "plan",
    "prune_model",
    "push_to_hub",
    "quantize_model",
    "reproduce",
    "save_model",
    "verify",
]
