#!/usr/bin/env bash
# Three kvd on one PostgreSQL with a synchronous standby, and HAProxy before them: all on loopback, in a temporary
# directory that is removed at the end. Says how to use it and how to try a failover, and runs until Ctrl-C.
#
#   examples/cluster/run.sh          until Ctrl-C
#   examples/cluster/run.sh --exit   tries it: writes, loses a kvd and the primary, promotes the standby, reads; then ends
#
# KVD: a kvd that is built already. Without it everything that is missing is installed and built.
set -euo pipefail

leave=no
for argument in "$@"; do
    case $argument in
        --exit) leave=yes ;;
        -h | --help)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        *)
            echo "run.sh: unknown option $argument (see --help)" >&2
            exit 2
            ;;
    esac
done

fail() {
    printf '\nrun.sh: %s\n' "$*" >&2
    exit 1
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# ---- what it takes ----

kvd=${KVD:-}
if [[ -z $kvd ]]; then
    "$root/cmake/install-deps.sh" --cluster
    cd "$root"
    options=()
    # A tree that is configured already keeps its tests.
    [[ -e build/release/CMakeCache.txt ]] || options=(-DKV_BUILD_TESTS=OFF -DKV_BUILD_EXAMPLES=OFF)
    cmake --preset release "${options[@]}"
    cmake --build --preset release --target kvd
    kvd=$root/build/release/bin/kvd
fi
[[ -x $kvd ]] || fail "there is no $kvd"
haproxy=$(PATH=$PATH:/usr/sbin command -v haproxy) || fail "there is no haproxy"
programs=$(find /usr/lib/postgresql -path '*/bin/postgres' 2>/dev/null | sort -V | tail -n 1)
[[ -n $programs ]] || fail "there is no PostgreSQL below /usr/lib/postgresql"
programs=${programs%/postgres}

# PostgreSQL refuses to run as root.
drop=()
if [[ $(id -u) -eq 0 ]]; then drop=(setpriv --reuid=postgres --regid=postgres --clear-groups); fi
as_postgres() { (cd "$work" && "${drop[@]}" "$@"); }

# ---- start ----

umask 077
work=$(mktemp -d)
database_pids=() server_pids=()
# stop SIGNAL PID...: those of them that still run.
stop() {
    local number=$1 pid
    shift
    for pid in "$@"; do kill -"$number" "$pid" 2>/dev/null || true; done
    for pid in "$@"; do wait "$pid" 2>/dev/null || true; done
}
tidy() {
    stop TERM ${server_pids[@]+"${server_pids[@]}"}
    stop INT ${database_pids[@]+"${database_pids[@]}"} # cuts what connections are left
    rm -rf "$work"
}
trap tidy EXIT
trap 'exit 130' INT TERM

random_text() { head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '='; }

# await WHAT COMMAND...: until the command succeeds.
await() {
    local what=$1
    shift
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    tail -n 5 "$work"/*.log >&2
    fail "not within 30 s: $what"
}

# Below the ports that the kernel hands out by itself.
read -r primary_port standby_port proxy_port < <(python3 -c 'import random, socket
found = []
for port in random.sample(range(15000, 32000), 100):
    with socket.socket() as probe:
        if len(found) < 3 and probe.connect_ex(("127.0.0.1", port)) != 0:
            found.append(port)
print(*found)')

password=$(random_text)
printf '*:*:*:*:%s\n' "$password" >"$work/passfile"
printf '%s\n' "$password" >"$work/password"
unset password
if [[ ${#drop[@]} -gt 0 ]]; then chown postgres: "$work" "$work/passfile" "$work/password"; fi

# start_postgres NAME PORT: on the data directory of that name.
start_postgres() {
    (
        cd "$work"
        exec "${drop[@]}" "$programs/postgres" -D "$work/$1" -c port="$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
            -c wal_keep_size=256MB -c wal_receiver_status_interval=1s -c wal_retrieve_retry_interval=500ms
    ) >"$work/$1.log" 2>&1 &
    database_pids+=($!)
    await "PostgreSQL ($1) answers" "$programs/pg_isready" -h 127.0.0.1 -p "$2"
}

# sql PORT STATEMENT
sql() { psql -X -q -At "postgresql://postgres@127.0.0.1:$1/postgres?passfile=$work/passfile" -c "$2"; }

echo "PostgreSQL: the primary"
as_postgres "$programs/initdb" -D "$work/primary" -U postgres --pwfile "$work/password" -A scram-sha-256 -E UTF8 --locale C >"$work/initdb.log" ||
    { cat "$work/initdb.log" >&2; fail "initdb failed"; }
rm "$work/password"
start_postgres primary "$primary_port"
primary_pid=${database_pids[-1]}
sql "$primary_port" "create database kv template template0 encoding 'UTF8' locale 'C'"

echo "PostgreSQL: a standby, which confirms every commit"
as_postgres "$programs/pg_basebackup" -D "$work/standby" -d "host=127.0.0.1 port=$primary_port user=postgres passfile=$work/passfile" -X stream -c fast -R
start_postgres standby "$standby_port"
sql "$primary_port" "alter system set synchronous_standby_names = '*'"
sql "$primary_port" "select pg_reload_conf()" >/dev/null
confirms() { [[ $(sql "$primary_port" "select count(*) from pg_stat_replication where sync_state = 'sync'") == 1 ]]; }
await "the standby confirms" confirms

# kvd looks for the one of the two that takes writes.
storage="postgresql://postgres@127.0.0.1:$primary_port,127.0.0.1:$standby_port/kv?passfile=$work/passfile&target_session_attrs=read-write"
key=$("$kvd" keygen 2>"$work/keygen.log") || { cat "$work/keygen.log" >&2; fail "kvd keygen failed"; }
token=$(random_text)
printf 'header = "Authorization: Bearer %s"\n' "$token" >"$work/credential"

kvd_pids=() servers=
for number in 1 2 3; do
    echo "kvd $number"
    log=$work/kvd$number.log
    # Key and token are in the environment of kvd alone, and kvd removes them there once it has read them.
    (
        unset "${!KV@}" "${!PG@}" # nobody's settings but ours
        export KV_MASTER_KEY=$key KVD_ROOT_TOKEN=$token
        exec "$kvd" serve --listen 127.0.0.1:0 --admin-listen off --storage "$storage"
    ) >"$log" 2>&1 &
    server_pids+=($!) kvd_pids+=($!)
    speaks() { grep -q '^kvd: listening on' "$log" || ! kill -0 "${kvd_pids[-1]}"; }
    await "kvd $number listens" speaks
    kill -0 "${kvd_pids[-1]}" || { cat "$log" >&2; fail "kvd $number did not start"; }
    port=$(sed -n 's|^kvd: listening on http://127.0.0.1:\([0-9]*\).*|\1|p' "$log" | head -n 1)
    servers+="    server kvd$number 127.0.0.1:$port check"$'\n'
done
unset key

echo "HAProxy"
# A kvd that cannot reach the database, or is about to stop, says so at /readyz and gets no requests.
cat >"$work/haproxy.cfg" <<END
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout check 1s
    option redispatch
    retries 2
frontend kv
    bind 127.0.0.1:$proxy_port
    default_backend kvd
backend kvd
    balance leastconn
    option httpchk GET /readyz
    http-check expect status 200
    default-server inter 500ms fall 2 rise 1
${servers%$'\n'}
END
"$haproxy" -db -f "$work/haproxy.cfg" >"$work/haproxy.log" 2>&1 &
server_pids+=($!)
api=http://127.0.0.1:$proxy_port/api/v1/kv
await "kvd answers through HAProxy" curl --silent --fail --max-time 5 --config "$work/credential" "$api/namespaces"

# ---- how to use it ----

cat <<END

Three kvd answer at    $api

    TOKEN=$token
    API=$api
    curl -H "Authorization: Bearer \$TOKEN" -X POST \$API/namespaces -H 'Content-Type: application/json' -d '{"name": "try", "isSecretNamespace": true}'
    curl -H "Authorization: Bearer \$TOKEN" -X PUT \$API/default~try/entries/a -H 'Content-Type: application/json' -d '{"value": "one"}'
    curl -H "Authorization: Bearer \$TOKEN" \$API/default~try/entries/a

To try a failover, in another terminal:

    kill -KILL ${kvd_pids[0]}        # a kvd is lost: the two others go on
    kill -QUIT $primary_pid        # the primary is lost: nothing is served until
    psql 'postgresql://postgres@127.0.0.1:$standby_port/postgres?passfile=$work/passfile' -c 'select pg_promote()'

The standby then takes writes, kvd finds it by itself, and everything that was acknowledged is there. Logs: $work

END
if [[ $leave == no ]]; then
    echo "Ctrl-C ends everything and removes its data."
    wait "${server_pids[-1]}" || fail "HAProxy ended by itself"
    exit 0
fi

# ---- it tries itself ----

# step STATUS METHOD PATH [BODY]: asks until the answer has this status.
step() {
    local wanted=$1 method=$2 path=$3 body=${4:-}
    local command=(curl --silent --max-time 10 --request "$method" --config "$work/credential" --output "$work/answer" --write-out '%{http_code}')
    [[ -z $body ]] || command+=(--header 'Content-Type: application/json' --data "$body")
    answers() { [[ " $wanted " == *" $("${command[@]}" "$api$path") "* ]]; }
    await "$method $path answers $wanted" answers
    printf '%s %s: %s\n' "$method" "$path" "$(cat "$work/answer")"
}

# value WANTED: the last answer shows it.
value() {
    python3 -c 'import json, sys
sys.exit(json.load(open(sys.argv[1]))["value"] != sys.argv[2])' "$work/answer" "$1" || fail "the value is not $1"
}

echo "== a value is written and read"
step 201 POST /namespaces '{"name": "try", "isSecretNamespace": true}'
step 201 PUT /default~try/entries/a '{"value": "one"}'
step 200 GET /default~try/entries/a
value one

echo "== a kvd is lost"
kill -KILL "${kvd_pids[0]}"
step 200 PUT /default~try/entries/a '{"value": "two"}'

echo "== the primary is lost, the standby takes over"
kill -QUIT "$primary_pid"
wait "$primary_pid" || true
sql "$standby_port" "select pg_promote()" >/dev/null
step 200 GET /default~try/entries/a
value two
step 200 PUT /default~try/entries/a '{"value": "three"}'
step 200 GET /default~try/entries/a
value three
printf '\nEverything worked.\n'
