#include <algorithm>
#include <array>
#include <map>

#include "crypto/wrap.h"
#include "verify.h"

namespace kv::verification {
namespace {

constexpr std::array internal_purposes = {KeyPurpose::canary, KeyPurpose::audit, KeyPurpose::row_mac, KeyPurpose::token,
                                          KeyPurpose::cursor};

class KeyCheck {
public:
    KeyCheck(Storage& storage, const std::vector<SecretBytes>& master_keys, CryptoBackend backend, Findings& findings)
        : storage_(storage), findings_(findings) {
        for (const SecretBytes& key : master_keys) wraps_.emplace_back(key, backend);
    }

    Result<void> check(const KeyRow& row);
    // What only all rows together tell.
    Result<void> finish(Keys& keys);

    std::vector<KeyRow>& internal_rows() { return internal_rows_; }

private:
    void report(const KeyRow& row, const std::string& what);
    std::optional<SecretBytes> open(const KeyRow& row);
    void check_internal(const KeyRow& row);
    Result<void> check_data(const KeyRow& row);
    bool is_given(const std::string& key_id) const;

    Storage& storage_;
    Findings& findings_;
    std::vector<crypto::WrapKey> wraps_;
    std::vector<KeyRow> internal_rows_;
    std::map<std::string, std::uint64_t> unknown_wraps_;  // by key id
    std::optional<SecretBytes> audit_key_;
    std::uint64_t opened_ = 0;
};

void KeyCheck::report(const KeyRow& row, const std::string& what) {
    Finding finding;
    finding.message = "the stored " + crypto::describe(row) + " " + what;
    if (row.purpose == KeyPurpose::data) finding.ns = row.ns;
    findings_.add(kind::key_row, std::move(finding));
}

bool KeyCheck::is_given(const std::string& key_id) const {
    return std::any_of(wraps_.begin(), wraps_.end(), [&](const crypto::WrapKey& wrap) { return wrap.id() == key_id; });
}

// The key, if a wrap by one of our master keys opens; all of those must.
std::optional<SecretBytes> KeyCheck::open(const KeyRow& row) {
    for (const std::string& key_id : {row.wrap_key_id, row.second_wrap_key_id}) {
        if (!key_id.empty() && !is_given(key_id)) ++unknown_wraps_[key_id];
    }
    std::optional<SecretBytes> key;
    bool is_named = false;
    for (const crypto::WrapKey& wrap : wraps_) {
        if (!wrap.is_named_by(row)) continue;
        is_named = true;
        if (auto opened = wrap.open(row)) {
            key = *std::move(opened);
        } else {
            report(row, "was changed or damaged: master key " + wrap.id() + " does not open it");
        }
    }
    if (!is_named) {
        const std::string by = row.wrap_key_id.empty() ? "none" : printable(row.wrap_key_id);
        report(row, "is not wrapped by master key " + wraps_.front().id() + ", but by " + by);
    }
    if (key) ++opened_;
    return key;
}

Result<void> KeyCheck::check(const KeyRow& row) {
    ++findings_.report.keys;
    std::optional<SecretBytes> key = open(row);
    if (row.purpose == KeyPurpose::data) return check_data(row);
    check_internal(row);
    if (row.purpose == KeyPurpose::audit && key && !audit_key_) audit_key_ = *std::move(key);
    return {};
}

void KeyCheck::check_internal(const KeyRow& row) {
    const bool is_known = std::find(internal_purposes.begin(), internal_purposes.end(), row.purpose) != internal_purposes.end();
    if (!is_known) return report(row, "is for nothing that is known");
    const bool is_twice = std::any_of(internal_rows_.begin(), internal_rows_.end(), [&](const KeyRow& other) { return other.purpose == row.purpose; });
    if (is_twice) report(row, "is there more than once");
    if (!row.ns.is_nil() || row.generation != 1 || !row.application_id.empty()) report(row, "has a namespace or a generation, which it cannot have");
    internal_rows_.push_back(row);
}

// The namespace is looked at after the row, and both come and go in one commit: it is as new as the row, or newer.
Result<void> KeyCheck::check_data(const KeyRow& row) {
    const EntryRef ref{row.ns, "", {}};
    KV_TRY(const std::vector<Found> found, storage_.find(std::span(&ref, 1), {}));
    const NamespaceRow* ns = found.front().ns.get();
    if (ns == nullptr) {
        const KeyRef key{KeyPurpose::data, row.ns, row.generation};
        KV_TRY(const std::vector<KeyRow> again, storage_.get_keys(std::span(&key, 1)));
        if (!again.empty()) report(row, "belongs to no namespace");
    } else if (row.generation == 0 || row.generation > ns->key_generation) {
        report(row, "is of a generation that its namespace never had");
    } else if (row.application_id != ns->application_id) {
        report(row, "was made for another application than its namespace is in");
    }
    return {};
}

Result<void> KeyCheck::finish(Keys& keys) {
    if (opened_ == 0 && findings_.report.keys > 0) {
        std::string ids;
        for (const auto& [id, count] : unknown_wraps_) ids += (ids.empty() ? "" : " and ") + printable(id);
        return Error{Errc::wrong_key, "the master key " + wraps_.front().id() + " does not open this store" +
                                          (ids.empty() ? std::string() : ", whose keys are wrapped by " + ids)};
    }
    for (KeyPurpose purpose : internal_purposes) {
        const bool is_there = std::any_of(internal_rows_.begin(), internal_rows_.end(), [&](const KeyRow& row) { return row.purpose == purpose; });
        KeyRow row;
        row.purpose = purpose;
        if (!is_there) report(row, "is missing");
    }
    for (const auto& [id, count] : unknown_wraps_) {
        findings_.note(std::to_string(count) + " wraps by master key " + printable(id) + " could not be checked, because that key was not given");
    }
    keys.audit_key = std::move(audit_key_);
    return {};
}

}  // namespace

Result<Keys> check_keys(Storage& storage, const std::vector<SecretBytes>& master_keys, Findings& findings, const Progress& progress) {
    KV_TRY(const CryptoBackend backend, crypto::select_backend(CryptoBackend::automatic));
    KeyCheck check(storage, master_keys, backend, findings);
    KeyWalk walk;
    while (true) {
        auto rows = storage.walk_keys(walk);
        if (rows == Errc::integrity) {
            Finding finding;
            finding.message = "a key row cannot be read: its columns are malformed; those behind it were not looked at";
            findings.add(kind::key_row, std::move(finding));
            break;
        }
        if (!rows) return std::move(rows).error();
        for (const KeyRow& row : *rows) KV_CHECK(check.check(row));
        KV_CHECK(progress.tell("keys", findings.report.keys));
        if (rows->size() < walk.limit) break;
        walk.after = KeyWalk::After{rows->back().purpose, rows->back().ns, rows->back().generation};
    }
    Keys keys;
    KV_CHECK(check.finish(keys));
    if (check.internal_rows().empty()) return keys;
    KV_TRY(const Time now, storage.now());
    const SecretBytes* previous = master_keys.size() > 1 ? &master_keys[1] : nullptr;
    auto keyring = crypto::Keyring::open(master_keys.front(), backend, check.internal_rows(), now, previous);
    if (keyring) keys.keyring = *std::move(keyring);
    return keys;
}

Result<SecretBytes> open_audit_key(Storage& storage, const SecretBytes& master_key) {
    KV_TRY(const CryptoBackend backend, crypto::select_backend(CryptoBackend::automatic));
    const crypto::WrapKey wrap(master_key, backend);
    KV_TRY(const std::vector<KeyRow> rows, storage.internal_keys());
    for (const KeyRow& row : rows) {
        if (row.purpose != KeyPurpose::audit) continue;
        if (!wrap.is_named_by(row)) {
            return Error{Errc::wrong_key, "the master key " + wrap.id() + " does not open this store, whose keys are wrapped by " + printable(row.wrap_key_id)};
        }
        return wrap.open(row);
    }
    return Error{Errc::integrity, "the audit key of the store is missing"};
}

}  // namespace kv::verification
