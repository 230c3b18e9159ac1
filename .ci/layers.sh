#!/usr/bin/env bash
# Who may include whom, and what stands where. Prints FILE:LINE: RULE for every breach and fails if there is one.
#
#   .ci/layers.sh [ROOT]    ROOT: the tree to look at, by default the one this script is in
set -euo pipefail
export LC_ALL=C

cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
breaches=$(mktemp)
trap 'rm -f "$breaches"' EXIT

# ---- who may include whom ----

# Every include of ours, as FILE:LINE:<header> or FILE:LINE:"header".
includes=$(grep -rnE --include='*.h' --include='*.h.in' --include='*.cpp' '^[[:space:]]*#[[:space:]]*include' \
    libkv kvd examples | sed -E 's/^([^:]*:[0-9]+:)[[:space:]]*#[[:space:]]*include[[:space:]]*([<"][^>"]*[>"]).*/\1\2/')

# What `allow` and `only_in` compare with: extended regular expressions for a whole path or a whole header name.
std='<[a-z_0-9]+>'
posix='<(([a-z_0-9]+|sys/[a-z_0-9]+|netinet/[a-z_0-9]+|arpa/[a-z_0-9]+|linux/[a-z_0-9]+)\.h)>'
public='[<"]kv/[a-z_0-9]+\.h[>"]'

# Files like $1 include nothing but headers like $2.
allow() {
    grep -E "^($1):[0-9]+:" <<<"$includes" | grep -vE "^[^:]*:[0-9]+:($2)\$" |
        sed -E "s|^([^:]*:[0-9]+):(.*)|\1: may not include \2: $3|" >>"$breaches" || true
}
# Headers like $1 are included in files like $2 alone.
only_in() {
    grep -E "^[^:]*:[0-9]+:($1)\$" <<<"$includes" | grep -vE "^($2):[0-9]+:" |
        sed -E "s|^([^:]*:[0-9]+):(.*)|\1: may not include \2: $3|" >>"$breaches" || true
}

allow 'libkv/include/kv/[^/]*' "$std|\"kv/[a-z_0-9]+\.h\"" \
    'a public header knows the standard library and other public headers'

only_in '<sodium(\.h|/.*)>|<openssl/.*>' 'libkv/src/crypto/.*|kvd/.*' \
    'in libkv only src/crypto knows libsodium and OpenSSL'
only_in '<sodium(\.h|/.*)>' 'libkv/src/crypto/.*' 'kvd leaves libsodium to libkv'
only_in '<soci/.*>|<sqlite3\.h>' 'libkv/src/storage/.*' 'only src/storage knows SOCI and the drivers'
only_in '[<"]rapidjson/.*' 'libkv/src/json/.*' 'only src/json knows RapidJSON'
only_in '<amqp[a-z_]*\.h>' 'kvd/amqp_connection\.cpp' 'only the connection knows the library for RabbitMQ'
only_in '<(boost|spdlog|fmt|prometheus|CLI)/.*>' 'kvd/.*' 'only the daemon knows its libraries'
only_in '<curl/curl\.h>' 'kvd/auth/fetcher\.cpp' 'only the fetcher knows libcurl'
only_in '<cjose/cjose\.h>' 'kvd/auth/jwks\.cpp' 'only the keys of JWTs know libcjose'

rules='operation|plan|plan_[a-z_]+|overlay|authorize|value|validate|text|bytes|grants_json|tokens'
allow "libkv/src/(operation\.|plan|authorize|overlay)[^/]*" \
    "$std|\"kv/(types|request|storage|result|clock|options|secret|export)\.h\"|\"($rules)\.h\"|\"json/json\.h\"" \
    'the rules are pure: no queue, no keys, no store'
allow 'libkv/src/crypto/.*' "$std|$posix|<openssl/.*>|<sodium/.*>|$public|\"crypto/[a-z_]+\.h\"|\"(bytes|text)\.h\"" \
    'src/crypto knows its libraries and the public headers'
allow 'libkv/src/storage/.*' "$std|$posix|<soci/.*>|$public|\"storage/[a-z_0-9]+\.h\"|\"(bytes|out_of_memory)\.h\"" \
    'a backend keeps rows and knows no rule'
allow 'libkv/src/json/.*' "$std|<rapidjson/.*>|\"kv/(result|secret)\.h\"|\"(json/json|text)\.h\"" \
    'src/json stands alone, for kvd uses it too'
only_in '"storage/.*"' 'libkv/src/storage/.*' 'a backend is reached through its public header'
only_in '"(store|handle|maintenance)(_[a-z_]+)?\.h"' 'libkv/src/(store|handle|maintenance)[^/]*' \
    "nobody includes the store's insides"
only_in '"(commit|read)_queue(_[a-z_]+)?\.h"' 'libkv/src/((commit|read)_queue|lanes|reader|operation_item|store|maintenance|steps|rekey|rewrap|epoch|audit_retention)[^/]*' \
    'operations reach a queue through the store'
only_in '"kvd/.*"' 'kvd/.*' 'libkv never hears of the daemon'

allow 'kvd/.*' \
    "$std|$posix|$public|\"(json/json|text|grants_json)\.h\"|\"kvd/[a-z_0-9/]+\.h\"|<(boost|spdlog|fmt|prometheus|CLI|openssl|curl|cjose)/.*>" \
    'kvd sees libkv as any host does (and shares its JSON guard, and grants and other texts)'
allow 'examples/.*' "$std|<kv/[a-z_0-9]+\.h>" 'an example shows what a host can do'

# ---- what stands where ----

for header in libkv/include/kv/*.h; do
    lines=$(wc -l <"$header")
    [[ $lines -le 400 ]] || echo "$header:$lines: a public header has at most 400 lines" >>"$breaches"
done

if [[ -e .git ]]; then
    entries=$(git ls-files --cached --others --exclude-standard | cut -d/ -f1 | sort -u)
else
    entries=$(find . -mindepth 1 -maxdepth 1 ! -name build -printf '%f\n' | sort)
fi
expected='CMakeLists.txt CMakePresets.json LICENSE README.md bindings cmake examples kvd libkv tests'
while read -r entry; do
    [[ $entry == .* || " $expected " == *" $entry "* ]] ||
        echo "$entry:1: does not belong in the top directory" >>"$breaches"
done <<<"$entries"
for entry in $expected .ci; do
    [[ -e $entry ]] || echo "$entry:1: is missing" >>"$breaches"
done

if [[ -s $breaches ]]; then
    sort -u "$breaches" >&2
    exit 1
fi
