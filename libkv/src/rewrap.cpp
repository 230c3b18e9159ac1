#include "rewrap.h"

#include <algorithm>
#include <vector>

#include "crypto/wrap.h"
#include "kv/admin.h"

namespace kv {
namespace {

constexpr std::chrono::seconds look_interval{10};  // nodes that know only the old key still make rows

// Where a key was given for its id, the storage does not get to see it: databases write down what they are asked.
bool looks_like_key_id(const std::string& text) {
    const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    return text.size() == 16 && std::ranges::all_of(text, is_hex);
}

KeyRef ref_of(const KeyRow& row) { return {row.purpose, row.ns, row.generation}; }
KeyWalk::After place_of(const KeyRow& row) { return {row.purpose, row.ns, row.generation}; }

std::vector<KeyRef> refs_of(const std::vector<KeyRow>& rows) {
    std::vector<KeyRef> refs;
    for (const KeyRow& row : rows) refs.push_back(ref_of(row));
    return refs;
}

// Behind every key but the data keys, which come last.
KeyWalk::After before_data_keys() {
    static_assert(KeyPurpose::data > KeyPurpose::cursor);
    KeyWalk::After place{KeyPurpose::cursor, {}, UINT32_MAX};
    place.ns.bytes.fill(0xff);
    return place;
}

// The row without its wrap by that key; false if it has none.
bool drop_wrap(KeyRow& row, const std::string& key_id) {
    if (row.wrap_key_id == key_id) {
        row.wrap_key_id = std::exchange(row.second_wrap_key_id, {});
        row.wrap = std::exchange(row.second_wrap, {});
        return true;
    }
    if (row.second_wrap_key_id != key_id) return false;
    row.second_wrap_key_id.clear();
    row.second_wrap.clear();
    return true;
}

}  // namespace

Rewrapping::Rewrapping(Storage& storage, crypto::Keyring& keys, Steps& steps, std::function<void(LogLevel, std::string_view)> log)
    : storage_(storage), keys_(keys), steps_(steps), log_(std::move(log)) {
    // Before anybody asks: an operator waits for none to be missing.
    if (const auto missing = count_missing()) rows_missing_ = *missing;
}

void Rewrapping::log(LogLevel level, const std::string& message) const {
    if (log_) log_(level, "keys: " + message);
}

Result<std::size_t> Rewrapping::run(Time now) {
    if (!is_under_way_) {
        const bool is_changing = !keys_.previous_key_id().empty();
        const bool is_first = !looked_at_;
        if (!is_first && (!is_changing || !is_due(looked_at_, look_interval, now))) return std::size_t{0};
        KV_CHECK(begin());
        looked_at_ = now;
    }
    if (!is_under_way_) return std::size_t{0};
    KV_TRY(const std::size_t rows, wrap_batch());
    if (rows == 0) end();
    return rows;
}

Result<void> Rewrapping::begin() {
    KV_TRY(const std::uint64_t missing, count_missing());
    rows_missing_ = missing;
    wrapped_to_.reset();
    not_wrapped_ = 0;
    const std::string previous = keys_.previous_key_id();
    const std::string which = std::to_string(missing) + " stored keys are not wrapped by the master key " + keys_.key_id();
    if (previous.empty()) {
        if (missing > 0) log(LogLevel::error, which + ", and what they seal is out of reach: start with KV_MASTER_KEY_PREVIOUS");
        return {};
    }
    if (missing > 0) {
        log(LogLevel::info, which + " yet; wrapping them");
        is_told_ = false;
    }
    is_under_way_ = true;
    return {};
}

Result<std::uint64_t> Rewrapping::count_missing() {
    KeyWalk walk;
    walk.not_wrapped_by = keys_.key_id();
    std::uint64_t missing = 0;
    while (true) {
        KV_TRY(const std::vector<KeyRow> rows, storage_.walk_keys(walk));
        missing += rows.size();
        if (rows.size() < walk.limit) return missing;
        walk.after = place_of(rows.back());
    }
}

Result<std::size_t> Rewrapping::wrap_batch() {
    KeyWalk walk;
    walk.not_wrapped_by = keys_.key_id();
    walk.after = wrapped_to_;
    walk.limit = Steps::batch_rows;
    KV_TRY(const std::vector<KeyRow> due, storage_.walk_keys(walk));
    if (due.empty()) return std::size_t{0};
    std::uint64_t skipped = 0;
    KV_CHECK(steps_.commit({}, [&](GroupContext& context) -> Result<void> {
        skipped = 0;
        KV_TRY(const std::vector<KeyRow> rows, context.storage.get_keys(refs_of(due)));
        for (const KeyRow& row : rows) {
            auto wrapped = keys_.rewrap(row);
            if (wrapped) {
                context.overlay.changes().keys.push_back(*std::move(wrapped));
            } else {
                ++skipped;
            }
        }
        return {};
    }));
    not_wrapped_ += skipped;
    rows_missing_ -= std::min<std::uint64_t>(rows_missing_, due.size() - skipped);
    wrapped_to_ = place_of(due.back());
    return due.size();
}

void Rewrapping::end() {
    is_under_way_ = false;
    rows_missing_ = not_wrapped_;
    if (is_told_) return;
    is_told_ = true;
    const std::string previous = keys_.previous_key_id();
    if (not_wrapped_ > 0) {
        log(LogLevel::error, std::to_string(not_wrapped_) + " stored keys open by neither master key, and cannot be wrapped by " +
                                 keys_.key_id());
    } else if (keys_.wraps_by_previous()) {
        log(LogLevel::info, "every stored key is wrapped by the master key " + keys_.key_id() + "; once no node runs with " +
                                previous + " alone, you may run: kvd forget-master-key " + previous);
    } else {
        log(LogLevel::warning, "the previous master key " + previous + " opens nothing here: unset KV_MASTER_KEY_PREVIOUS");
    }
}

Result<std::uint64_t> Rewrapping::forget(const std::string& key_id) {
    KV_CHECK(may_forget(key_id));
    KV_CHECK(check_opens(key_id));
    if (keys_.previous_key_id() == key_id) keys_.stop_wrapping_by_previous();
    // The internal keys last, so that a run cut short leaves a store that both master keys open; then data keys that were on
    // their way meanwhile.
    std::uint64_t dropped = 0;
    for (const bool is_data : {true, false, true}) {
        KV_TRY(const std::uint64_t some, drop_wraps(key_id, is_data));
        dropped += some;
    }
    log(LogLevel::info, std::to_string(dropped) + " wraps by the master key " + key_id + " are gone");
    return dropped;
}

Result<void> Rewrapping::may_forget(const std::string& key_id) {
    const std::string& current = keys_.key_id();
    if (key_id == current) return Error{Errc::invalid_request, "The master key " + key_id + " is the one in use."};
    KeyWalk walk;
    walk.wrapped_by = key_id;
    walk.limit = 1;
    std::vector<KeyRow> wrapped;
    if (looks_like_key_id(key_id)) {
        KV_TRY(wrapped, storage_.walk_keys(walk));
    }
    if (wrapped.empty()) return Error{Errc::invalid_request, "No stored key is wrapped by a master key of that id."};
    KV_TRY(const std::uint64_t missing, count_missing());
    if (missing == 0) return {};
    return Error{Errc::invalid_state, std::to_string(missing) + " stored keys are not wrapped by the master key in use, " +
                                          current + ": serve with KV_MASTER_KEY_PREVIOUS until they are."};
}

// What a row says of its wraps is not enough to throw one away.
Result<void> Rewrapping::check_opens(const std::string& key_id) {
    KeyWalk walk;
    walk.wrapped_by = key_id;
    while (true) {
        KV_TRY(const std::vector<KeyRow> rows, storage_.walk_keys(walk));
        for (const KeyRow& row : rows) KV_CHECK(keys_.check(row));
        if (rows.size() < walk.limit) return {};
        walk.after = place_of(rows.back());
    }
}

Result<std::uint64_t> Rewrapping::drop_wraps(const std::string& key_id, bool is_data) {
    KeyWalk walk;
    walk.wrapped_by = key_id;
    walk.limit = Steps::batch_rows;
    if (is_data) walk.after = before_data_keys();
    std::uint64_t dropped = 0;
    while (true) {
        KV_TRY(std::vector<KeyRow> rows, storage_.walk_keys(walk));
        if (rows.empty()) return dropped;
        walk.after = place_of(rows.back());
        std::erase_if(rows, [&](const KeyRow& row) { return (row.purpose == KeyPurpose::data) != is_data; });
        if (rows.empty()) return dropped;
        KV_TRY(const std::uint64_t some, drop_batch(key_id, rows));
        dropped += some;
    }
}

Result<std::uint64_t> Rewrapping::drop_batch(const std::string& key_id, const std::vector<KeyRow>& due) {
    std::uint64_t dropped = 0;
    const Steps::Step step = [&](GroupContext& context) -> Result<void> {
        dropped = 0;
        KV_TRY(std::vector<KeyRow> rows, context.storage.get_keys(refs_of(due)));
        for (KeyRow& row : rows) {
            if (!drop_wrap(row, key_id)) continue;
            KV_CHECK(keys_.check(row));
            context.overlay.changes().keys.push_back(std::move(row));
            ++dropped;
        }
        return {};
    };
    KV_CHECK(steps_.commit({}, step));
    return dropped;
}

// ---- a drill ----

namespace {

void note_wraps(const KeyRow& row, std::vector<std::string>& ids) {
    for (const std::string& id : {row.wrap_key_id, row.second_wrap_key_id}) {
        if (!id.empty() && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    }
}

std::string joined(const std::vector<std::string>& ids) {
    std::string text;
    for (const std::string& id : ids) text += (text.empty() ? "" : " or ") + id;
    return text;
}

}  // namespace

Result<KeyCheck> check_key(Storage& storage, KeyProvider& keys) {
    KV_TRY(const SecretBytes master_key, keys.master_key());
    KV_TRY(const CryptoBackend backend, crypto::select_backend(CryptoBackend::automatic));
    const crypto::WrapKey key(master_key, backend);
    KeyCheck check;
    check.key_id = key.id();
    KeyWalk walk;
    while (true) {
        KV_TRY(const std::vector<KeyRow> rows, storage.walk_keys(walk));
        for (const KeyRow& row : rows) {
            if (row.purpose == KeyPurpose::canary) note_wraps(row, check.wrapped_by);
            ++(key.open(row) ? check.keys : check.unwrapped);
        }
        if (rows.size() < walk.limit) break;
        walk.after = place_of(rows.back());
    }
    if (check.keys > 0) return check;
    if (check.unwrapped == 0) return Error{Errc::not_found, "there is no store in this storage yet"};
    if (std::find(check.wrapped_by.begin(), check.wrapped_by.end(), check.key_id) != check.wrapped_by.end()) {
        return Error{Errc::integrity, "the stored keys name the master key " + check.key_id + " but were changed or damaged"};
    }
    return Error{Errc::wrong_key, "the master key " + check.key_id + " opens nothing here: the keys of this store are wrapped by " +
                                      joined(check.wrapped_by)};
}

}  // namespace kv
