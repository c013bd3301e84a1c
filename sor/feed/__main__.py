"""Databento CSV files, plain or .gz, into Parquet files, which are read wherever a CSV file is.

    python -m sor.feed --to-parquet day.csv.gz                         day.parquet beside it
    python -m sor.feed --to-parquet monday.csv tuesday.csv --out days

A converted file gives the same rows, checks and line numbers as its CSV: the columns of MBP-1 and MBP-10 with a type each, the
other columns left out. A row with a cell that its column's type cannot hold exactly (a number that is not one, a fraction of a
share) is kept as its line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sor import cli, log
from sor.errors import FeedError, UsageError
from sor.feed.files import is_parquet


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sor.feed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to-parquet", nargs="+", required=True, metavar="FILE", help="CSV files, plain or .gz")
    parser.add_argument("--out", metavar="FOLDER", help="where the Parquet files go (default: beside each CSV file)")
    return parser


def _targets(args: argparse.Namespace) -> dict[Path, Path]:
    """{CSV file: Parquet file}; UsageError if one would overwrite another."""
    targets: dict[Path, Path] = {}
    for source in map(Path, args.to_parquet):
        name = source.name.removesuffix(".gz").removesuffix(".csv") + ".parquet"
        target = Path(args.out or source.parent, name)
        if target in targets.values():
            raise UsageError(f"{source}: {target} is also made of another file; every name must be given once")
        targets[source] = target
    return targets


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}; it must be a folder that can be written") from None


def _convert(source: Path, target: Path) -> None:
    from sor.feed.convert import to_parquet  # loads pyarrow

    if is_parquet(source):
        raise FeedError(f"{source}: is called Parquet or is it; it must be a CSV file, plain or .gz")
    rows, kept = to_parquet(source, target)
    sizes = " -> ".join(f"{path} ({path.stat().st_size:,} bytes)" for path in (source, target))
    log.say(f"{sizes}, {rows:,} rows" + f", {kept:,} of them kept as lines" * bool(kept))


def _convert_all(args: argparse.Namespace) -> int:
    targets = _targets(args)
    if args.out:
        _make_folder(Path(args.out))
    for source, target in targets.items():
        _convert(source, target)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Convert files; returns the exit code."""
    args = _parser().parse_args(argv)
    return cli.run(lambda: _convert_all(args))


if __name__ == "__main__":
    sys.exit(main())
