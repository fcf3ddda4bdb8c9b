"""``python -m leptonsdk.cli``."""

from leptonsdk.cli import main

main()
