#!/bin/sh
# Make .venv with a Python 3.10 to 3.13 and the packages of requirements.txt; instant when that is done already.
#
#     ./setup.sh                     (`make run` and `make test` call it)
#     PYTHON=/path/to/python3.12 ./setup.sh
#     ./setup.sh market_data_service requirements-dev.txt     .venv of another folder, from the file of it that is named
#
# No fitting Python, or one that cannot make a venv: installed through apt, dnf, yum or brew where root or password-less
# sudo allows; otherwise one line says what to install. Exit codes: 0 done, 1 not possible, 2 PYTHON does not fit.
set -eu
cd "${1:-$(dirname "$0")}"
requirements=${2:-requirements.txt}
venv=.venv
stamp=$venv/.setup-stamp-$requirements

say() { echo "setup: $*" >&2; }
die() { code=$1; shift; say "$*"; exit "$code"; }

fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
fits() { "$1" -c "$fits" >/dev/null 2>&1; }                 # a pyenv shim of a version that is not chosen fails here
can_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; } # Debian keeps these in python3-venv
version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true; }

# What the environment depends on; equal to the stamp when there is nothing to do.
wanted() { echo "$(cat requirements*.txt | cksum) $(version_of $venv/bin/python) ${PYTHON:-}"; }

find_python() {
    for name in python3.13 python3.12 python3.11 python3.10 python3 python \
        /opt/homebrew/bin/python3.12 /usr/local/bin/python3.12 /usr/bin/python3; do
        if fits "$name" && { [ "$1" = any ] || can_venv "$name"; }; then
            command -v "$name"
            return
        fi
    done
    return 1
}

manager() {
    for name in apt-get dnf yum brew; do
        if command -v $name >/dev/null 2>&1; then echo $name; return; fi
    done
}

may_install() { # sets $sudo
    sudo=
    if [ "$1" = brew ]; then [ "$(id -u)" != 0 ]; return; fi # brew refuses root
    [ "$(id -u)" = 0 ] && return
    sudo='sudo -n'
    command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null
}

packages() { # of package manager $1; $2: the Python that only lacks venv, if there is one
    case $1 in
        apt-get) if [ -n "$2" ]; then version=$(version_of "$2"); echo "python${version%.*}-venv"; else echo "python3 python3-venv"; fi ;;
        dnf | yum) echo python3.11 ;;
        brew) echo python@3.12 ;;
    esac
}

install_packages() { # $1: package manager; the rest: packages
    tool=$1; shift
    case $tool in
        apt-get)
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" ;;
        brew) brew install --quiet "$@" ;;
        *) $sudo "$tool" install -y -q "$@" ;;
    esac
}

provide_python() {
    without_venv=$(find_python any || true)
    tool=$(manager)
    names=$(packages "$tool" "$without_venv")
    lack="no Python 3.10 to 3.13 found"
    [ -z "$without_venv" ] || lack="$without_venv cannot make a venv"
    [ -n "$tool" ] || die 1 "$lack; install Python 3.10 to 3.13 with venv (or set PYTHON to one)"
    may_install "$tool" || die 1 "$lack; install with: ${sudo:+sudo }$tool install $names (or set PYTHON to one)"
    say "$lack: installing $names with $tool"
    # shellcheck disable=SC2086 # several packages
    install_packages "$tool" $names >&2 </dev/null || die 1 "$tool could not install $names; install Python 3.10 to 3.13 with venv"
}

choose_python() { # sets $python
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || die 2 "PYTHON is $PYTHON (version: $(version_of "$PYTHON")); it must be a Python 3.10 to 3.13"
        can_venv "$PYTHON" || die 2 "PYTHON is $PYTHON, which lacks the modules venv or ensurepip"
        python=$PYTHON
        return
    fi
    python=$(find_python with-venv) && return
    provide_python
    python=$(find_python with-venv) || die 1 "still no Python 3.10 to 3.13 with venv; set PYTHON to one"
}

venv_is_good() { # a working interpreter in range, and the one of PYTHON if that is set
    fits $venv/bin/python && $venv/bin/python -c 'import pip' 2>/dev/null || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of $venv/bin/python)" = "$(version_of "$PYTHON")" ]
}

if [ -f $stamp ] && [ "$(cat $stamp)" = "$(wanted)" ]; then exit 0; fi
if ! venv_is_good; then
    choose_python
    say "making $venv with Python $(version_of "$python")"
    "$python" -m venv --clear $venv || die 1 "$python could not make $venv"
fi
say "installing $requirements into $venv"
$venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
    die 1 "pip could not install $requirements"
wanted >$stamp
