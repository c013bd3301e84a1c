"""Ask an advisory service about every installed package (`make check` runs it), and never call unasked packages audited.

    .venv/bin/python tests/audit_packages.py                     the package index's own advisories
    .venv/bin/python tests/audit_packages.py --osv-url URL       those of a service that speaks OSV's protocol
    .venv/bin/python tests/audit_packages.py --strict            a package the service does not know is a failure too

pip-audit does the asking; it lives in `.venv/audit`, apart from what the programs need. A finding fails unless it has no
fix and `tests/audit_ignored.txt` names it with a reason. Exit codes: 0 nothing found (the line says in how many of
how many packages), 1 a finding, or with --strict a package not audited, 2 pip-audit is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / ".venv" / "audit"
IGNORED = Path(__file__).with_name("audit_ignored.txt")


def main(argv: Sequence[str] | None = None) -> int:
    """Audit, say what was found and what was not asked; the exit code."""
    flags = _parser().parse_args(argv)
    if not (TOOL / "pip_audit").is_dir():
        print(f"audit: pip-audit is not in {TOOL}: run `make check`", file=sys.stderr)
        return 2
    names = ["-s", "osv", "--osv-url", flags.osv_url] if flags.osv_url else []
    packages, failure = ask(flags.path, names)
    if failure:
        packages = [{"name": each.name, "skip_reason": failure} for each in distributions(path=[flags.path])]
    lines, code = verdict(packages, ignored(IGNORED.read_text(encoding="utf-8")), failure, strict=flags.strict)
    print("\n".join(f"audit: {line}" for line in lines), file=sys.stderr)
    return code


def ask(path: str, words: Sequence[str]) -> tuple[list[Mapping], str]:
    """What pip-audit says of each package in `path`; nothing, and the reason, if it could not ask at all."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        options = ["--path", path, "--progress-spinner", "off", "--desc", "off", "-f", "json", "-o", str(answer)]
        command = [sys.executable, "-m", "pip_audit", *options, *words]
        environment = {**os.environ, "PYTHONPATH": str(TOOL)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not answer.exists():
            return [], (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        return json.loads(answer.read_text(encoding="utf-8"))["dependencies"], ""


def ignored(text: str) -> dict[str, str]:
    """{advisory id: reason} of lines `ID reason`; # opens a comment, and an ID without a reason counts for nothing."""
    words = [line.split(None, 1) for line in text.splitlines() if not line.startswith("#")]
    return {pair[0]: pair[1] for pair in words if len(pair) == 2}


def verdict(
    packages: Sequence[Mapping], known: Mapping[str, str], failure: str = "", *, strict: bool = False
) -> tuple[list[str], int]:
    """Lines to show, and the exit code."""
    lines, found = [], 0
    for package in packages:
        for advisory in package.get("vulns", []):
            fixes = ", ".join(advisory["fix_versions"])
            tolerated = not fixes and {advisory["id"], *advisory.get("aliases", [])} & set(known)
            found += not tolerated
            what = "ignored" if tolerated else "FOUND"
            fix = f"fixed in {fixes}" if fixes else "no fix yet"
            lines.append(f"{what}: {package['name']} {package['version']}: {advisory['id']}, {fix}")
    audited = sum("skip_reason" not in package for package in packages)
    lines.append(f"{audited} of {len(packages)} installed packages audited, {found} findings")
    missed = len(packages) - audited
    if missed:
        why = f"could not be asked ({failure})" if failure else "has no answer for them"
        lines.append(f"NOT AUDITED: {missed} of {len(packages)} packages; the advisory service {why}")
    return lines, int(found > 0 or (strict and missed > 0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osv-url", help="query address of an OSV service; default: the package index")
    parser.add_argument("--path", default=sysconfig.get_path("purelib"), help="folder of the packages")
    parser.add_argument("--strict", action="store_true", help="fail where a package was not audited")
    return parser


if __name__ == "__main__":
    sys.exit(main())
