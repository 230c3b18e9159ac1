#!/usr/bin/env bash
# The files for systemd, looked at by its own tools; 77 where they are not installed. $1: kvd
set -euo pipefail
kvd=$1
cd "$(dirname "$0")/../kvd/packaging"
command -v systemd-analyze systemd-sysusers systemd-tmpfiles >/dev/null || exit 77

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Verified as it would stand once installed: with a program that is there.
sed "s|/usr/bin/kvd|$kvd|" kvd.service >"$folder/kvd.service"
said=$(systemd-analyze verify "$folder/kvd.service" 2>&1) || { echo "$said"; exit 1; }
# Warnings do not fail it. Those about units of this machine are not ours.
if grep kvd.service <<<"$said"; then exit 1; fi
echo "verify: nothing to say"

# 1.2 where it was written. The scale ends at 10, and the threshold counts tenths.
systemd-analyze security --offline=true --threshold=20 --no-pager "$folder/kvd.service" | tail -n 1
# It can fail.
printf '[Service]\nExecStart=%s\n' "$kvd" >"$folder/bare.service"
if systemd-analyze security --offline=true --threshold=20 --no-pager "$folder/bare.service" >/dev/null; then
    echo "a bare service passes as well"
    exit 1
fi

[[ $(id -u) -eq 0 ]] || { echo "not root: users and folders are not made"; exit 0; }
mkdir -p "$folder/image/etc"
systemd-sysusers --root="$folder/image" "$PWD/kvd.sysusers"
grep '^kvd:' "$folder/image/etc/passwd"
systemd-tmpfiles --root="$folder/image" --create "$PWD/kvd.tmpfiles"
[[ $(stat -c %a "$folder/image/var/lib/kvd") == 700 ]]
[[ $(stat -c %a "$folder/image/etc/kvd") == 750 ]]
echo "users and folders: made"
