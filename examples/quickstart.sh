#!/usr/bin/env bash
# Builds kvd, starts it on a fresh database with a fresh master key, and takes a tour of its API with curl. Then leaves
# it running until Ctrl-C.
#
#   examples/quickstart.sh               everything in a temporary directory, removed at the end
#   examples/quickstart.sh --exit        ends after the tour
#   examples/quickstart.sh --data DIR    keeps database and master key in DIR
#
# KVD: a kvd that is built already.
set -euo pipefail

leave=no data=
while [[ $# -gt 0 ]]; do
    case $1 in
        --exit) leave=yes ;;
        --data)
            [[ $# -ge 2 ]] || { echo "quickstart: --data needs a directory" >&2; exit 2; }
            data=$2
            shift
            ;;
        -h | --help)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        *)
            echo "quickstart: unknown option $1 (see --help)" >&2
            exit 2
            ;;
    esac
    shift
done

fail() {
    printf '\nquickstart: %s\n' "$*" >&2
    exit 1
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -n $data ]]; then
    mkdir -p "$data"
    data=$(cd "$data" && pwd)
    [[ ! -e $data/kv.db && ! -e $data/master.key ]] || fail "$data already holds a database; README.md says how to start kvd on it"
fi

# ---- build ----

kvd=${KVD:-}
if [[ -z $kvd ]]; then
    "$root/cmake/install-deps.sh"
    cd "$root"
    options=()
    # A tree that is configured already keeps its tests.
    [[ -e build/release/CMakeCache.txt ]] || options=(-DKV_BUILD_TESTS=OFF -DKV_BUILD_EXAMPLES=OFF)
    cmake --preset release "${options[@]}"
    cmake --build --preset release --target kvd
    kvd=$root/build/release/bin/kvd
fi
[[ -x $kvd ]] || fail "there is no $kvd"

# ---- start ----

umask 077
work=$(mktemp -d)
kvd_pid=
tidy() {
    if [[ -n $kvd_pid ]]; then
        kill "$kvd_pid" 2>/dev/null || true
        wait "$kvd_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap tidy EXIT
trap 'exit 130' INT TERM
[[ -n $data ]] || data=$work

key=$("$kvd" keygen 2>"$work/log") || { cat "$work/log" >&2; fail "kvd keygen failed"; }
token=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
[[ $data == "$work" ]] || printf '%s\n' "$key" >"$data/master.key"

# Key and token are in the environment of kvd alone, and kvd removes them there once it has read them.
(
    unset "${!KV@}" # nobody's settings but ours
    export KV_MASTER_KEY=$key KVD_ROOT_TOKEN=$token
    exec "$kvd" serve --listen 127.0.0.1:0 --admin-listen off --storage "sqlite:$data/kv.db"
) >"$work/log" 2>&1 &
kvd_pid=$!
unset key

base=
for _ in $(seq 100); do
    base=$(sed -n 's|^kvd: listening on \(http://[^ ]*\).*|\1|p' "$work/log" | head -n 1)
    [[ -z $base ]] || break
    kill -0 "$kvd_pid" 2>/dev/null || break
    sleep 0.1
done
[[ -n $base ]] || { cat "$work/log" >&2; fail "kvd did not start"; }
api=$base/api/v1/kv

# ---- tour ----

# The credential goes to curl through a file: a command line can be read by every user of the machine.
printf 'header = "Authorization: Bearer %s"\n' "$token" >"$work/credential"
number=0
answer=

# step STATUS METHOD PATH [BODY]: shows the call and its answer, which must have this status.
step() {
    local wanted=$1 method=$2 path=$3 body=${4:-} status
    local command=(curl --silent --show-error --max-time 30 --request "$method")
    local shown="curl -H \"Authorization: Bearer \$TOKEN\""
    [[ $method == GET ]] || shown+=" -X $method"
    shown+=" '$api$path'"
    if [[ -n $body ]]; then
        command+=(--header 'Content-Type: application/json' --data "$body")
        shown+=" -H 'Content-Type: application/json' -d '$body'"
    fi
    printf '$ %s\n' "$shown"
    status=$("${command[@]}" --config "$work/credential" --output "$work/answer" --write-out '%{http_code}' "$api$path") ||
        fail "no answer"
    answer=$(cat "$work/answer")
    python3 -c 'import json, sys
text = sys.argv[1]
try:
    text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
except ValueError:
    pass
print(text)' "$answer"
    [[ $status == "$wanted" ]] || fail "status $status instead of $wanted"
}

# check CONDITION: a Python expression about the answer, `a`, must hold.
check() {
    python3 -c 'import json, sys
a = json.loads(sys.argv[2])
sys.exit(0 if eval(sys.argv[1]) else 1)' "$1" "$answer" || fail "not so: $1"
}

say() {
    number=$((number + 1))
    printf '\n%d. %s\n' "$number" "$*"
}

say "Create a secret namespace: what it holds is encrypted."
step 201 POST /namespaces '{"name": "production", "applicationId": "app-123", "isSecretNamespace": true}'
check 'a["isSecretNamespace"] is True'
ns=$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["id"])' "$answer")

say "Put a secret. The answer does not repeat the value."
step 201 PUT "/$ns/entries/database/password" '{"value": "first-password"}'
check 'a["version"] == 1 and "value" not in a'

say "Get it."
step 200 GET "/$ns/entries/database/password"
check 'a["value"] == "first-password" and a["valueType"] == "STRING"'

say "Rotate it: the old value goes to the history."
step 200 POST "/$ns/entries/database/password/rotate" '{"value": "second-password", "comment": "quarterly"}'
check 'a["version"] == 2'

say "Look at its versions, newest first."
step 200 GET "/$ns/entries/database/password/versions"
check '[(v["version"], v["reason"]) for v in a["items"]] == [(2, "ROTATION"), (1, "CREATE")]'

say "Roll back: the first value becomes version 3."
step 200 POST "/$ns/entries/database/password/rollback?includeValue=true" '{"version": 1}'
check 'a["version"] == 3 and a["value"] == "first-password"'

say "A writer that still believes in version 1 is refused."
step 409 PUT "/$ns/entries/database/password" '{"value": "stale", "expectedVersion": 1}'
check 'a["code"] == "version-conflict" and a["currentVersion"] == 3'

say "Set several entries at once, all or none. A name can stand for the namespace's id."
step 200 POST "/app-123~production/bulk/set" '{"entries": [
    {"keyPath": "config/database/host", "value": "localhost"},
    {"keyPath": "config/database/port", "value": 5432},
    {"keyPath": "config/api/limits", "value": {"timeout": 30000}}]}'
check 'len(a["results"]) == 3 and all(r["status"] == "created" for r in a["results"])'

say "List by prefix."
step 200 GET "/$ns/entries?prefix=config/"
check '[e["keyPath"] for e in a["items"]] == ["config/api/limits", "config/database/host", "config/database/port"]'

say "Export a folder as environment variables."
step 200 GET "/$ns/export?prefix=config/database/&format=dotenv"
[[ $answer == *HOST=*localhost* && $answer == *PORT=*5432* ]] || fail "the export lacks a variable"

say "Read the audit log: every request above is in it."
step 200 GET "/audit?namespaceId=$ns&limit=4"
check 'len(a["items"]) == 4 and a["items"][0]["operation"] == "entry.export" and a["nextCursor"]'

say "A request without a credential gets nothing."
printf '$ %s\n' "curl '$api/$ns/entries/database/password'"
status=$(curl --silent --show-error --max-time 30 --output "$work/answer" --write-out '%{http_code}' \
    "$api/$ns/entries/database/password")
answer=$(cat "$work/answer")
printf '%s\n' "$answer"
[[ $status == 401 ]] || fail "status $status instead of 401"
check 'a["code"] == "unauthenticated"'

[[ $(curl --silent --max-time 30 --location --output /dev/null --write-out '%{http_code}' "$api/swagger-ui") == 200 ]] ||
    fail "the API page does not answer"
printf '\nAll %d steps worked. The API document to click through: %s/swagger-ui\n' "$number" "$api"

[[ $leave == no ]] || exit 0
printf 'The token to authorize with, until kvd ends:\n\n    TOKEN=%s\n\nCtrl-C ends kvd' "$token"
if [[ $data == "$work" ]]; then
    printf ' and removes its data.\n'
else
    printf '; database and master key stay in %s. To start kvd on them again:\n\n' "$data"
    printf "    KV_MASTER_KEY_FILE=%q KVD_ROOT_TOKEN=\$TOKEN %q serve --storage %q\n" "$data/master.key" "$kvd" "sqlite:$data/kv.db"
fi
wait "$kvd_pid" || { cat "$work/log" >&2; fail "kvd ended by itself"; }
