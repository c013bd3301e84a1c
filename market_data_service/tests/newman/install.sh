#!/bin/sh
# Install newman, which runs the Postman collection in tests/test_contract.py, into .venv/newman (60 MB, 10 s). Instant when
# it is there; where it cannot be installed one line says so, and the test names what is missing.
#
#     tests/newman/install.sh        (`make setup` calls it; needs Node.js with npm)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
home=$here/../../.venv/newman

say() { echo "setup: $*" >&2; }

if cmp -s "$here/package-lock.json" "$home/package-lock.json" && [ -x "$home/node_modules/.bin/newman" ]; then exit 0; fi
if ! command -v npm >/dev/null 2>&1; then
    say "no npm; install Node.js 18 or later to have the test of the Postman collection run"
    exit 0
fi
mkdir -p "$home"
cp "$here/package.json" "$here/package-lock.json" "$home/"
if npm ci --prefix "$home" --no-audit --no-fund --ignore-scripts --loglevel=error >"$home/npm.log" 2>&1; then
    say "newman $("$home/node_modules/.bin/newman" --version) in .venv/newman"
else
    rm -f "$home/package-lock.json"
    say "no newman, npm could not install it: $(grep -m1 -i error "$home/npm.log" || tail -n1 "$home/npm.log")"
fi
