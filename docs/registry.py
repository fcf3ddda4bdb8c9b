"""Write docs/registry.md: what every plugin of this environment answers to the conformance kit.

    python docs/registry.py [NAME ...]

With names of distributions only these are checked, and the others' rows stay. It takes minutes.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "registry.md"
HEAD = """# Plugins and their checks

What the plugins of one environment answer to `lepton plugins check`, on tiny models of eight architectures. Your plugin belongs here as well:
open a pull request with its row, made by `python docs/registry.py YOUR-DISTRIBUTION`. What each check asks stands in
[plugins.md](plugins.md#its-tests) and in `lepton plugins check NAME`.

| distribution | version | provides | checks passed | not passed | nothing to check | leptonsdk | date |
|---|---|---|---|---|---|---|---|
"""


def lepton(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "leptonsdk.cli", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, 1):  # 1: some check failed
        raise SystemExit(f"lepton {' '.join(arguments)} ended with {done.returncode}")
    return json.loads(done.stdout)


def row(record: Mapping[str, Any], core: str, checked: Sequence[Mapping[str, Any]]) -> str:
    """A plugin's line: what it provides, how many checks passed, and which did not."""
    checks = [check for one in checked for check in one["checks"]]
    asked = [check for check in checks if check["state"] != "skipped"]
    cells = [
        record["distribution"],
        record["version"],
        "; ".join(f"{kind} {', '.join(names)}" for kind, names in record["provides"].items()),
        f"{sum(check['state'] == 'passed' for check in asked)} of {len(asked)}",
        "; ".join(filter(None, map(failures, checked))),
        ", ".join(sorted({check["name"] for check in checks if check["state"] == "skipped"})),
        core,
        str(datetime.date.today()),
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def failures(one: Mapping[str, Any]) -> str:
    """Which checks of one class did not pass, and what they say, the same only once."""
    failed = [check for check in one["checks"] if check["state"] not in ("passed", "skipped")]
    if not failed:
        return ""
    said = dict.fromkeys(" ".join(check["message"].split())[:300] for check in failed)
    return f"{one['name']}: {', '.join(check['name'] for check in failed)} ({'; '.join(said)})"


def rows_of(page: str) -> dict[str, str]:
    """The lines of an earlier page by distribution."""
    return {found[1]: found[0] for found in re.finditer(r"^\| (\S+) \| \d.*\|$", page, re.MULTILINE)}


def main() -> None:
    records = [record for record in lepton("plugins", "list") if record["status"] == "active"]
    core = next(record["version"] for record in records if record["name"] == "core")
    wanted = sys.argv[1:] or [record["distribution"] for record in records]
    rows = rows_of(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else {}
    for record in records:
        if record["distribution"] in wanted:
            print(f"checking {record['distribution']}", flush=True)
            rows[record["distribution"]] = row(record, core, lepton("plugins", "check", record["distribution"]))
            PAGE.write_text(HEAD + "\n".join(rows[name] for name in sorted(rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
