#include "verify.h"

#include "crypto/wrap.h"

namespace kv {
namespace verification {
namespace {

constexpr int attempts_max = 5;

// One verification. The order is what makes it right while the storage is served: rows are read after what the log says of
// them, and what does not fit waits until the log was read to its end once more.
class Verification {
public:
    Verification(Storage& storage, const VerifyOptions& options)
        : storage_(storage), options_(options), progress_(options.progress), findings_(options.findings_max) {}

    Result<VerifyReport> run_with(const std::vector<SecretBytes>& master_keys);
    Result<VerifyReport> run_with_audit_key(const SecretBytes& audit_key);

private:
    Result<void> check_rows(const SecretBytes& audit_key, const Vault* vault);
    Result<void> read_log(const SecretBytes& audit_key);
    Result<void> check_audit_key(const SecretBytes& audit_key);

    Storage& storage_;
    const VerifyOptions& options_;
    const Progress progress_;
    Findings findings_;
    Ledger ledger_;
    std::optional<AuditLog> log_;
};

Result<VerifyReport> Verification::run_with(const std::vector<SecretBytes>& master_keys) {
    KV_TRY(Keys keys, check_keys(storage_, master_keys, findings_, progress_));
    std::optional<Vault> vault;
    if (keys.keyring) vault.emplace(*keys.keyring);
    if (!keys.audit_key) {
        findings_.note("Only the keys could be checked: without the audit key there is nothing to hold the rows against.");
        return std::move(findings_.report);
    }
    if (!vault) findings_.note("Values were not opened and namespaces' MACs not checked: the store's own keys do not all open.");
    KV_CHECK(check_rows(*keys.audit_key, vault ? &*vault : nullptr));
    return std::move(findings_.report);
}

Result<VerifyReport> Verification::run_with_audit_key(const SecretBytes& audit_key) {
    KV_CHECK(check_audit_key(audit_key));
    findings_.note("With the audit key alone no value was opened, and neither stored keys nor namespaces' MACs were checked.");
    KV_CHECK(check_rows(audit_key, nullptr));
    return std::move(findings_.report);
}

// The key's own row vouches for it, unless that was edited: then rows that it proves do.
Result<void> Verification::check_audit_key(const SecretBytes& audit_key) {
    if (audit_key.size() != crypto::key_bytes) return Error{Errc::invalid_request, "An audit key has 32 bytes."};
    KV_TRY(const std::vector<KeyRow> rows, storage_.internal_keys());
    for (const KeyRow& row : rows) {
        if (row.purpose == KeyPurpose::audit && crypto::equal(row.commitment, crypto::commitment_of(audit_key))) return {};
    }
    Findings scratch(0);
    Ledger ledger;
    AuditLog log(storage_, audit_key, {}, ledger, scratch, progress_);
    KV_TRY([[maybe_unused]] const bool is_more, log.read_on());
    if (log.nothing_fits()) return Error{Errc::wrong_key, "The audit key is not the one of this store."};
    Finding finding;
    finding.message = "the stored audit key was changed or damaged: it is not the one that made the audit log";
    findings_.add(kind::key_row, std::move(finding));
    return {};
}

// Retention takes the oldest rows, which are read first. Where it took some that were not read yet, what was collected is
// worthless: once more from the beginning.
Result<void> Verification::read_log(const SecretBytes& audit_key) {
    const Findings before = findings_;
    for (int attempt = 1; attempt <= attempts_max; ++attempt) {
        findings_ = before;
        ledger_ = {};
        log_.emplace(storage_, audit_key, options_.anchors, ledger_, findings_, progress_);
        KV_CHECK(log_->advance());
        if (!log_->was_overtaken()) return {};
    }
    return Error{Errc::unavailable, "The oldest audit rows are removed faster than they can be read; try again later."};
}

Result<void> Verification::check_rows(const SecretBytes& audit_key, const Vault* vault) {
    KV_CHECK(read_log(audit_key));
    RowCheck rows(storage_, vault, ledger_, *log_, findings_, progress_);
    KV_CHECK(rows.check_namespaces());
    KV_CHECK(rows.check_entries());
    KV_CHECK(rows.check_versions());
    if (vault != nullptr) KV_CHECK(check_tokens(storage_, *vault, findings_, progress_));
    KV_CHECK(log_->advance());
    KV_CHECK(rows.look_for_missing());
    KV_CHECK(log_->read_heads());
    KV_CHECK(log_->advance());
    rows.settle();
    KV_CHECK(log_->settle());
    findings_.report.streams = log_->streams();
    return {};
}

}  // namespace
}  // namespace verification

const std::vector<std::string_view>& finding_kinds() {
    namespace kind = verification::kind;
    static const std::vector<std::string_view> kinds = {
        kind::key_row,        kind::audit_row,          kind::audit_gap,         kind::namespace_row,     kind::namespace_set_back,
        kind::namespace_unaudited, kind::namespace_missing, kind::entry_row,     kind::entry_set_back,    kind::entry_unaudited,
        kind::entry_missing,  kind::sealed_value,       kind::unsealed_value,    kind::version_row,       kind::revision,           kind::token_row,
        kind::audit_stream,   kind::audit_head,         kind::anchor};
    return kinds;
}

Result<VerifyReport> verify(Storage& storage, KeyProvider& keys, const VerifyOptions& options) {
    std::vector<SecretBytes> master_keys;
    KV_TRY(master_keys.emplace_back(), keys.master_key());
    if (options.previous_keys) {
        KV_TRY(SecretBytes previous, options.previous_keys->master_key());
        master_keys.push_back(std::move(previous));
    }
    for (const SecretBytes& key : master_keys) {
        if (key.size() != master_key_bytes) return Error{Errc::invalid_request, "A master key has 32 bytes."};
    }
    return verification::Verification(storage, options).run_with(master_keys);
}

Result<VerifyReport> verify_audit(Storage& storage, const SecretBytes& audit_key, const VerifyOptions& options) {
    return verification::Verification(storage, options).run_with_audit_key(audit_key);
}

Result<SecretBytes> export_audit_key(Storage& storage, KeyProvider& keys) {
    KV_TRY(const SecretBytes master_key, keys.master_key());
    if (master_key.size() != master_key_bytes) return Error{Errc::invalid_request, "A master key has 32 bytes."};
    return verification::open_audit_key(storage, master_key);
}

}  // namespace kv
