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

| distribution | version | provides | checks | failures that are known, and not asked | leptonsdk | checked |
|---|---|---|---|---|---|---|
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
    results = [(one["name"], check) for one in checked for check in one["checks"]]
    counts = {state: sum(check["state"] == state for _, check in results) for state in ("passed", "skipped")}
    others = [
        f"{name}: `{check['name']}` ({check['state']}: {' '.join(check['message'].split())})"
        for name, check in results
        if check["state"] not in counts
    ]
    skipped = sorted({check["name"] for _, check in results if check["state"] == "skipped"})
    notes = [*others, *([f"not asked: {', '.join(skipped)}"] if skipped else [])]
    provides = "; ".join(f"{kind} {', '.join(names)}" for kind, names in record["provides"].items())
    asked = len(results) - counts["skipped"]
    cells = [
        record["distribution"],
        record["version"],
        provides,
        f"{counts['passed']} of {asked} passed",
        "; ".join(notes).replace("|", "\\|"),
        core,
        str(datetime.date.today()),
    ]
    return f"| {' | '.join(cells)} |"


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
