"""Every benchmark in one run: python -m benchmarks [allocator feed replay stream pipeline placement against days]"""

from __future__ import annotations

import importlib
import sys

from benchmarks.table import show

MODULES = ("allocator", "feed", "replay", "stream", "pipeline", "placement", "against", "days")


def main(argv: list[str]) -> int:
    """Run the named benchmarks, or all; 1 if a bar is missed, 2 for a name that is not there."""
    if unknown := sorted(set(argv) - set(MODULES)):
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are {', '.join(MODULES)}\n")
        return 2
    rows = []
    for name in argv or MODULES:
        sys.stderr.write(f"benchmarking {name}\n")
        rows += importlib.import_module(f"benchmarks.bench_{name}").rows()
    return show(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
