#!/usr/bin/env bash
# .ci/layers.sh finds what it is there to find: each breach, planted in a copy of the tree, is named with its place.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
copy=$work/tree
mkdir "$copy"
(cd "$root" && cp -r .ci CMakeLists.txt CMakePresets.json LICENSE README.md bindings cmake examples kvd libkv tests "$copy")
failed=0

"$root/.ci/layers.sh" "$copy" || { echo "the tree itself is in breach" >&2; exit 1; }

# planted FILE TEXT: with TEXT at the end of FILE the check fails and names the line.
planted() {
    local file=$1 text=$2 line found
    cp "$copy/$file" "$work/saved"
    printf '%s\n' "$text" >>"$copy/$file"
    line=$(wc -l <"$copy/$file")
    if found=$("$root/.ci/layers.sh" "$copy" 2>&1) || ! grep -q "^$file:$line: " <<<"$found"; then
        echo "not found: $text in $file" >&2
        failed=1
    fi
    mv "$work/saved" "$copy/$file"
}

planted libkv/include/kv/types.h '#include <boost/asio.hpp>'
planted libkv/include/kv/types.h '#include "text.h"'
planted libkv/include/kv/types.h "$(yes '//' | head -n 400)"
planted libkv/src/text.cpp '#include <openssl/evp.h>'
planted libkv/src/store.cpp '  #  include <sodium.h>'
planted libkv/src/store.cpp '#include <soci/soci.h>'
planted libkv/src/store.cpp '#include "storage/sqlite_schema.h"'
planted libkv/src/value.cpp '#include <rapidjson/reader.h>'
planted libkv/src/value.cpp '#include "commit_queue.h"'
planted libkv/src/plan_entry.cpp '#include "crypto/keyring.h"'
planted libkv/src/plan_entry.cpp '#include "kv/store.h"'
planted libkv/src/authorize.cpp '#include "seal.h"'
planted libkv/src/storage/sqlite.cpp '#include "plan.h"'
planted libkv/src/crypto/keyring.cpp '#include "seal.h"'
planted libkv/src/seal.cpp '#include "kvd/status.h"'
planted libkv/src/audit.cpp '#include "store_impl.h"'
planted kvd/routes.cpp '#include "validate.h"'
planted kvd/routes.cpp '#include <rapidjson/reader.h>'
planted kvd/main.cpp '#include <sqlite3.h>'

touch "$copy/notes.txt"
if found=$("$root/.ci/layers.sh" "$copy" 2>&1) || ! grep -q '^notes.txt:1: ' <<<"$found"; then
    echo "not found: a stray file in the top directory" >&2
    failed=1
fi

exit "$failed"
