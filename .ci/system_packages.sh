#!/bin/sh
# Installs Debian or Ubuntu packages that are missing, as root or by passwordless sudo. Where neither is
# there it prints the one line that does it and exits 1. On other systems it does nothing.
#
#   system_packages.sh --window      what Qt and OpenGL need to open a window
#   system_packages.sh --tests       the same, a virtual display, and what judges DICOM files
#   system_packages.sh --update      only the package lists
#   system_packages.sh NAME...       these packages
set -u

WINDOW="libegl1 libgl1 libgl1-mesa-dri libglx-mesa0 libglib2.0-0 libxkbcommon0 libxkbcommon-x11-0 libdbus-1-3
libfontconfig1 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0
libxcb-shape0 libxcb-xinerama0 libxcb-xkb1"
# xvfb only recommends xauth, but xvfb-run does not start without it.
DISPLAY_SERVER="xvfb xauth"
# Its dciodvfy judges the DICOM files that the tests write; without it those tests are skipped.
JUDGE="dicom3tools"

command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 || exit 0

case "${1:-}" in
--window) wanted=$WINDOW ;;
--tests) wanted="$WINDOW $DISPLAY_SERVER $JUDGE" ;;
--update) wanted="" ;;
"" | --*)
    sed -n '5,8s/^# *//p' "$0" >&2
    exit 2
    ;;
*) wanted=$* ;;
esac

installed() {
    # Since Debian 13 and Ubuntu 24.04 some libraries carry the suffix t64.
    dpkg-query -W -f='${db:Status-Abbrev}\n' "$1" "$1t64" 2>/dev/null | grep -q '^.i'
}

missing=""
for package in $wanted; do
    installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || [ "${1:-}" = --update ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root="env"
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n env"
else
    echo "System packages are missing and installing them needs root; run this line, then the same command again:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi

[ -z "$missing" ] || echo "Installing system packages:$missing"
$as_root DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null || exit 1
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086  # $missing is a list
$as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null
