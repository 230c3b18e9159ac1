#include "tokens.h"
#include "verify.h"

namespace kv::verification {

Result<void> check_tokens(Storage& storage, const Vault& vault, Findings& findings, const Progress& progress) {
    TokenRange range;
    while (true) {
        auto rows = storage.scan_tokens(range);
        if (rows == Errc::integrity) {
            Finding finding;
            finding.message = "a token's row cannot be read: its columns are malformed; those behind it were not looked at";
            findings.add(kind::token_row, std::move(finding));
            return {};
        }
        if (!rows) return std::move(rows).error();
        for (const TokenRow& row : *rows) {
            ++findings.report.tokens;
            if (vault.is_intact(row) && show_token(row)) continue;
            Finding finding;
            finding.message = "token " + row.id.to_string() + ": its MAC is wrong: it was made or changed outside the store, and counts as none";
            findings.add(kind::token_row, std::move(finding));
        }
        KV_CHECK(progress.tell("tokens", findings.report.tokens));
        if (rows->size() < range.limit) return {};
        range.after = rows->back().id;
    }
}

}  // namespace kv::verification
