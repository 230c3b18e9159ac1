#!/usr/bin/env bash
# Installs what building libkv and kvd needs on Debian 12, from Debian's packages only. Does nothing where nothing is
# missing.
#
#   cmake/install-deps.sh            what the build and the examples need
#   cmake/install-deps.sh --tests    and what tests/run.sh needs
#   cmake/install-deps.sh --bench    and what tests/bench/run.sh needs
#   cmake/install-deps.sh --cluster  and what examples/cluster/run.sh needs
set -euo pipefail

packages=(
    g++ cmake ninja-build pkg-config ccache git ca-certificates curl python3
    libboost1.81-dev libcjose-dev libcli11-dev libcurl4-openssl-dev libpq-dev librabbitmq-dev libsoci-dev libsodium-dev libspdlog-dev libsqlite3-dev libssl-dev
    prometheus-cpp-dev rapidjson-dev
)
# npm fetches the viewer of the API document. Any npm will do.
command -v npm >/dev/null || packages+=(npm)

for argument in "$@"; do
    case $argument in
        --tests)
            packages+=(clang-14 libclang-rt-14-dev llvm-14 doctest-dev faketime haproxy make postgresql python3-pika python3-yaml rabbitmq-server strace util-linux)
            # A browser looks at the page of the API document. Any will do that has its driver beside it.
            command -v chromium >/dev/null || packages+=(chromium)
            command -v chromedriver >/dev/null || packages+=(chromium-driver)
            ;;
        --bench) packages+=(wrk postgresql rabbitmq-server python3-pika) ;;
        --cluster) packages+=(haproxy postgresql) ;;
        *)
            echo "usage: $0 [--tests] [--bench] [--cluster]" >&2
            exit 2
            ;;
    esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps: this is not Debian. The build needs what Debian 12 calls: ${packages[*]}" >&2
    exit 1
fi

installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
    grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${ID:-} ${VERSION_ID:-}")
if [[ $release != "debian 12" ]]; then
    echo "install-deps: this is \"$release\", the packages are those of Debian 12; trying all the same" >&2
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps: neither root nor sudo. As root, run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 "$@"; }

echo "install-deps: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# An index that cannot be refreshed may still be good enough to install from.
apt update >"$log" 2>&1 || true
if ! apt install --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "install-deps: apt-get could not install: ${missing[*]}" >&2
    exit 1
fi

# Debian starts what it installs. The tests run servers of their own, so a RabbitMQ that came with this (and Erlang's
# register of nodes) is stopped again; one that was here before is left alone.
if [[ " ${missing[*]} " == *" rabbitmq-server "* ]]; then
    if [[ -d /run/systemd/system ]]; then
        "${as_root[@]}" systemctl --quiet disable --now rabbitmq-server.service epmd.socket epmd.service || true
    else
        "${as_root[@]}" service rabbitmq-server stop >/dev/null 2>&1 || true
    fi
fi
