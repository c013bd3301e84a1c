#!/bin/sh
# Set up the project on a new server: paste as EC2 "user data" (cloud-init runs it as root at the first boot), or run with
# sudo. Amazon Linux 2023, Ubuntu 24.04, Debian 12. Running it again brings everything up to date and harms nothing.
#
# What it does, each step logged to LOG: swap where memory is below 1.5 GiB; git, make, Java, Maven and Python; the user
# sor; a clone of REPOSITORY in /opt/sor with its .venv, Kafka's jars and compiled kernels; the systemd units; one run.
# No port is opened to the network. Results: /var/lib/sor/results.
set -eu

REPOSITORY="${REPOSITORY:-https://github.com/OWNER/REPOSITORY.git}" # yours
BRANCH="${BRANCH:-main}"
BROKER_MODE="${BROKER_MODE:-kraft}" # or zookeeper
FIRST_RUN="${FIRST_RUN:-yes}"       # no: set up only
SWAP_MIB="${SWAP_MIB:-1024}"
LOG="${LOG:-/var/log/sor-setup.log}"

APP=/opt/sor
STATE=/var/lib/sor
ACCOUNT=sor
SWAP_BELOW_KIB=$((1536 * 1024))

say() { echo "$(date -u +%H:%M:%S) sor: $*"; }
die() { say "FAILED: $*"; exit 1; }
as_account() { (cd "$APP" && runuser -u "$ACCOUNT" -- env HOME="$STATE" TMPDIR=/var/tmp "$@" </dev/null); }

add_swap() {
    memory_kib=$(awk '/^MemTotal:/ {print $2}' /proc/meminfo)
    swap_kib=$(awk '/^SwapTotal:/ {print $2}' /proc/meminfo)
    if [ "$memory_kib" -ge "$SWAP_BELOW_KIB" ] || [ "$swap_kib" -gt 0 ]; then
        say "memory $((memory_kib / 1024)) MiB, swap $((swap_kib / 1024)) MiB: no swap added"
        return
    fi
    say "memory $((memory_kib / 1024)) MiB: adding $SWAP_MIB MiB of swap in /swapfile"
    if [ ! -f /swapfile ]; then
        # written to the end, not fallocate: XFS of Amazon Linux would leave holes, which swapon refuses
        (umask 077 && dd if=/dev/zero of=/swapfile.new bs=1M count="$SWAP_MIB" status=none)
        mkswap /swapfile.new
        mv /swapfile.new /swapfile
    fi
    swapon /swapfile
    grep -q '^/swapfile ' /etc/fstab || echo '/swapfile none swap sw 0 0' >>/etc/fstab
}

install_packages() {
    if command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
        # at the first boot another apt may hold the lock
        apt-get -qq -o DPkg::Lock::Timeout=600 update
        apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends \
            ca-certificates git make python3 python3-venv default-jre-headless maven >/dev/null # its own log: /var/log/apt
    elif command -v dnf >/dev/null; then
        # the system's own python3 is 3.9, which is too old
        dnf install -y -q git make python3.11 java-17-amazon-corretto-headless maven
    else
        die "neither apt-get nor dnf found"
    fi
}

make_account() {
    id "$ACCOUNT" >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir "$STATE" --shell /usr/sbin/nologin "$ACCOUNT"
    install -d -o "$ACCOUNT" -g "$ACCOUNT" -m 0750 "$STATE"
    install -d -o "$ACCOUNT" -g "$ACCOUNT" -m 0755 "$APP"
}

fetch_project() {
    if [ -d "$APP/.git" ]; then
        as_account git pull --quiet --ff-only
    else
        as_account git clone --quiet --branch "$BRANCH" "$REPOSITORY" "$APP"
    fi
}

set_up_project() {
    as_account make --no-print-directory setup
    as_account .venv/bin/python -m broker.local jars
    as_account make --no-print-directory .venv/.kernels-compiled
}

write_settings() { # yours stay as they are
    [ -e /etc/sor.env ] && return
    (umask 027 && cat >/etc/sor.env) <<END
# Settings of the units, KEY=VALUE: see the table in $APP/README.md. Readable by root and the group $ACCOUNT only.
SOR_BROKER_MODE=$BROKER_MODE
KAFKA_HEAP_OPTS=-Xmx256M -Xms128M
SOR_SPEED=400
END
    chgrp "$ACCOUNT" /etc/sor.env
}

start_units() {
    install -m 0644 "$APP"/deploy/sor-*.service /etc/systemd/system/
    if [ ! -d /run/systemd/system ]; then
        say "systemd does not run here: units installed, not started"
        return
    fi
    systemctl daemon-reload
    systemctl enable --now sor-kafka.service
    [ "$FIRST_RUN" = yes ] || return 0
    systemctl start sor-backtest.service || die "no report: journalctl -u sor-backtest -u sor-producer -u sor-kafka"
    say "report: $STATE/results/output.json"
}

main() {
    cd /
    for step in add_swap install_packages make_account fetch_project set_up_project write_settings start_units; do
        say "$step"
        $step
    done
    say "done"
}

# How it ended goes to the terminal as well.
tell() {
    code=$?
    if [ "$code" = 0 ]; then tail -n 1 "$LOG" >&3; else tail -n 8 "$LOG" >&3; fi
    exit "$code"
}

[ "$(id -u)" = 0 ] || die "must be run as root: sudo sh deploy/user-data.sh"
case $REPOSITORY in */OWNER/*) die "REPOSITORY is $REPOSITORY; it must be the address of your repository" ;; esac
umask 022
touch "$LOG"
chmod 0640 "$LOG"
exec 3>&1 >>"$LOG" 2>&1
trap tell EXIT
main
