"""Write the OpenAPI document of the API, docs/openapi.json. It needs no database and no broker.

    PYTHONPATH=. python scripts/export_openapi.py            writes the file
    PYTHONPATH=. python scripts/export_openapi.py --check    says whether it is up to date

Exit codes: 0 done, or up to date; 1 not up to date; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from app.main import create_app

FILE = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"


def document() -> str:
    """The text of the document."""
    return json.dumps(create_app().openapi(), indent=2, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write or compare the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where the file is not up to date"
    )
    text = document()
    if not parser.parse_args(argv).check:
        FILE.write_text(text, encoding="utf-8")
        print(f"written: {FILE.name}")
        return 0
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text:
        print(f"up to date: {FILE.name}")
        return 0
    print(f"error: {FILE.name} is not up to date; scripts/export_openapi.py writes it anew", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
