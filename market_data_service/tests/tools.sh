#!/bin/sh
# Install what only tests need and pip does not have: promtool into .venv/bin, for tests/test_alerts.py, and newman (see
# newman/install.sh). Instant when it is there; where it cannot be had one line says so, and the test names what is missing.
#
#     tests/tools.sh                 (`make setup` calls it)
#
# Debian's package `prometheus` holds promtool; it is unpacked, not installed, so no server is started.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin

say() { echo "setup: $*" >&2; }

download() { # the package `prometheus`, into the current folder; the second time after a look for newer lists, as root can
    apt-get download -qq prometheus || { apt-get -qq update && apt-get download -qq prometheus; }
}

install_promtool() {
    if [ -x "$bin/promtool" ] || command -v promtool >/dev/null 2>&1; then return; fi
    if ! command -v apt-get >/dev/null 2>&1; then
        say "no promtool; install Prometheus to have the tests of alerts/ run"
        return
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    if (cd "$work" && download && dpkg -x prometheus_*.deb unpacked) >"$work/log" 2>&1; then
        cp "$work/unpacked/usr/bin/promtool" "$bin/promtool"
        say "promtool in .venv/bin"
    else
        say "no promtool, apt-get could not download it: $(grep -m1 '^E:' "$work/log" || tail -n1 "$work/log")"
    fi
}

install_promtool
tests/newman/install.sh
