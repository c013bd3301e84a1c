"""Speed and memory of the service: ours, a reference beside it in the same run, the ratio, and whether the bar is met.

    python scripts/bench.py                       make bench does the same, after make setup; about six minutes
    python scripts/bench.py --quick               one round of less
    python scripts/bench.py --only consumer       one of the benchmarks; may be given more than once
    python scripts/bench.py --json figures.json   all rounds, too

It starts a PostgreSQL and a Kafka of its own. Every answer that is timed is checked. Figures are medians of three rounds
in which the sides take turns; a ratio is the median of the rounds' ratios. The load of other programs changes figures more
than ratios. docs/benchmarks.md says how each is measured. HTTP load comes from wrk (Debian's package of that name).
Exit codes: 0 all bars met, 1 a bar missed, a wrong answer, or a benchmark that could not run, 2 wrong usage, 130 and 143
interrupted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import local  # noqa: F401 -- makes the repository's packages importable
from benchmarks import run

if __name__ == "__main__":
    sys.exit(run.main(__doc__))
