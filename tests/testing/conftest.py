"""The tiny plugins and their mutants stand in modules of their own, which import nothing heavy."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
