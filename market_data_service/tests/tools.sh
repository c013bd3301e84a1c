#!/bin/sh
# Install what only tests need and pip does not have, into .venv/bin: promtool, which tests/test_alerts.py runs.
# Instant when it is there; where it cannot be installed one line says so, and the test names what is missing.
#
#     tests/tools.sh                 (`make setup` calls it)
#
# Debian's package `prometheus` holds promtool; it is unpacked, not installed, so no server is started.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin

say() { echo "setup: $*" >&2; }

if [ -x "$bin/promtool" ] || command -v promtool >/dev/null 2>&1; then exit 0; fi
if ! command -v apt-get >/dev/null 2>&1; then
    say "no promtool; install Prometheus (https://prometheus.io) to have the tests of alerts/ run"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! apt-get download -qq prometheus >apt.log 2>&1; then
    # no lists of packages yet: they are fetched by root
    apt-get -qq update >>apt.log 2>&1 && apt-get download -qq prometheus >>apt.log 2>&1 || {
        say "no promtool, and apt-get could not download it: $(grep -m1 '^E:' apt.log || tail -n1 apt.log)"
        exit 0
    }
fi
dpkg -x prometheus_*.deb unpacked
cp unpacked/usr/bin/promtool "$bin/promtool"
say "promtool $("$bin/promtool" --version 2>&1 | sed -n 's/^promtool, version \([^ ]*\).*/\1/p') in .venv/bin"
