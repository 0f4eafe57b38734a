#!/bin/sh
# Prints a Python from 3.11 to 3.14 that can make virtual environments. On Debian and Ubuntu it installs
# one where it may; otherwise it says in one line what to do and exits 1.
here=$(cd "$(dirname "$0")" && pwd)

usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
    # A name on PATH may be a version manager's shim that only reports an error, so each one is tried.
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        command -v "$name" >/dev/null 2>&1 && usable "$name" && command -v "$name" && return 0
    done
    return 1
}

find_python && exit 0

if command -v apt-cache >/dev/null 2>&1; then
    [ -n "$(apt-cache show python3 2>/dev/null)" ] || "$here/system_packages.sh" --update >&2 || true
    for version in 3.14 3.13 3.12 3.11; do
        [ -n "$(apt-cache show "python$version-venv" 2>/dev/null)" ] || continue
        "$here/system_packages.sh" "python$version" "python$version-venv" >&2 || exit 1
        find_python
        exit
    done
fi
echo "No Python from 3.11 to 3.14 with the venv module on PATH; install one, for example 3.13, and run this again." >&2
exit 1
