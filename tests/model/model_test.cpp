#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>
#include <random>
#include <set>

#include "fixture.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

// Random operations against a store and against a map that follows the rules in the simplest way there is: every reply
// must be the same. KV_MODEL_SEED repeats a run.
namespace {

constexpr std::uint64_t plain_history_limit = 20;

struct ModelVersion {
    std::uint64_t version;
    bool is_tombstone;
    std::string value;
    std::string metadata;
};

struct ModelEntry {
    std::uint64_t version = 0;  // 0: never was, or was forgotten
    bool is_tombstone = false;
    std::string value;
    std::string metadata;
    std::optional<std::int64_t> ttl;
    std::optional<Time> expires;
    std::uint64_t hidden_to = 0;  // versions that an expiry or a purge ended
    Time changed;
    std::vector<ModelVersion> past;  // oldest first
};

struct Expected {
    std::string code = "ok";
    std::uint64_t version = 0;
    std::string metadata;
};

struct ModelNamespace {
    NamespaceId id;
    std::string name;
    Kind kind;
    std::optional<std::uint64_t> history_limit;
    bool keeps_history = true;
    std::optional<Time> deleted;
    std::uint64_t revision = 0;
    std::map<std::string, ModelEntry> entries;
    std::multiset<std::string> events;
    std::uint64_t floor = 0;  // a new key starts above it

    Time now;

    bool is_live(const ModelEntry& e) const { return e.version > 0 && !e.is_tombstone && !(e.expires && *e.expires <= now); }
    bool is_due(const ModelEntry& e) const { return e.version > 0 && !e.is_tombstone && e.expires && *e.expires <= now; }
    bool is_hidden(const ModelEntry& e) const { return e.is_tombstone ? e.version <= e.hidden_to : !is_live(e); }
    std::uint64_t past_above(const ModelEntry& e) const {
        if (!keeps_history) return e.version;
        const std::uint64_t cut = history_limit && e.version > *history_limit ? e.version - *history_limit : 0;
        return std::max(cut, e.hidden_to);
    }
    const ModelVersion* find_past(const ModelEntry& e, std::uint64_t version) const {
        for (const ModelVersion& one : e.past) {
            if (one.version == version && !one.is_tombstone && version > past_above(e)) return &one;
        }
        return nullptr;
    }

    void advance(const std::string& key, ModelEntry& e, const char* event, bool is_expiry = false) {
        if (e.version > 0 && (keeps_history || is_expiry)) e.past.push_back({e.version, e.is_tombstone, e.value, e.metadata});
        e.version = e.version > 0 ? e.version + 1 : floor + 1;
        ++revision;
        e.changed = now;
        if (!keeps_history && !is_expiry) e.past.clear();
        events.insert(std::string(event) + " " + key + " " + std::to_string(e.version));
    }
    void expire(const std::string& key, ModelEntry& e) {
        advance(key, e, "expired", true);
        e.is_tombstone = true;
        e.expires.reset();
        e.metadata = "{}";
        e.hidden_to = e.version;
    }
    void sweep() {
        for (auto& [key, e] : entries) {
            if (is_due(e)) expire(key, e);
        }
    }
    void set_ttl(ModelEntry& e, std::optional<std::int64_t> ttl) {
        e.ttl = ttl;
        e.expires.reset();
        if (ttl) e.expires = now + std::chrono::seconds(*ttl);
    }
    std::string judge(const ModelEntry& e, const Precondition& asked) const {
        if (asked.expected_version && *asked.expected_version != (is_live(e) ? e.version : 0)) return "version-conflict";
        if (asked.if_match_any && !is_live(e)) return "precondition-failed";
        if (asked.if_none_match_any && is_live(e)) return "precondition-failed";
        return "ok";
    }
    void write(const std::string& key, ModelEntry& e, const std::string& value, const std::string& metadata, std::optional<std::int64_t> ttl) {
        if (is_due(e)) expire(key, e);
        const bool was_live = is_live(e);
        advance(key, e, was_live ? "updated" : "created");
        e.is_tombstone = false;
        e.value = value;
        e.metadata = metadata;
        set_ttl(e, ttl);
    }
    // A deletion or an expiry of which no history is left.
    bool is_forgettable(const ModelEntry& e) const {
        return e.version > 0 && e.is_tombstone &&
               std::none_of(e.past.begin(), e.past.end(), [&](const ModelVersion& one) { return one.version > past_above(e); });
    }
};

std::optional<std::int64_t> seconds_of(const Ttl& ttl) {
    return ttl.kind == Ttl::Kind::seconds ? std::optional<std::int64_t>(ttl.seconds) : std::nullopt;
}

// Years pass in a run: its first audit rows go, unless all are to be looked at in the end.
enum class AuditLog { whole, trimmed };

class ModelRun {
public:
    ModelRun(std::uint64_t seed, const Fixture::MakeStorage& make, AuditLog log)
        : random_(seed), kv_(Kind::secret, options(log), make), log_(log) {
        for (const auto& [name, kind] : {std::pair{"secret", Kind::secret}, {"plain", Kind::plain}, {"short", Kind::no_history}}) {
            namespaces_.push_back(make_namespace(name, kind));
        }
    }

    // Returns how many operations it took.
    std::size_t run(std::size_t operations) {
        std::size_t done = 0;
        while (done < operations) {
            for (ModelNamespace& ns : namespaces_) ns.now = kv_.clock.now();
            done += write_batch(1 + pick(120));
            done += read_batch(1 + pick(60));
            between_batches();
        }
        finish();
        return done;
    }

private:
    std::uint64_t pick(std::uint64_t below) { return random_() % below; }
    bool chance(std::uint64_t percent) { return pick(100) < percent; }
    std::string any_key() {
        static const char* folders[] = {"", "a/", "a/b/", "c/"};
        return std::string(folders[pick(4)]) + "k" + std::to_string(pick(6));
    }
    ModelNamespace& any_namespace() { return namespaces_[pick(namespaces_.size())]; }

    ModelNamespace make_namespace(const std::string& name, Kind kind) {
        ModelNamespace ns;
        ns.id = kv_.make_namespace(name, kind);
        ns.name = name;
        ns.kind = kind;
        ns.keeps_history = kind != Kind::no_history;
        if (kind != Kind::secret) ns.history_limit = plain_history_limit;
        ns.now = kv_.clock.now();
        return ns;
    }

    Ttl any_ttl() {
        switch (pick(6)) {
            case 0: return Ttl::after(1 + static_cast<std::int64_t>(pick(5)));
            case 1: return Ttl::after(3600);
            case 2: return Ttl::never();
            default: return {};
        }
    }
    Precondition any_precondition(const ModelNamespace& ns, const ModelEntry& e) {
        Precondition asked;
        switch (pick(10)) {
            case 0: asked.expected_version = 0; break;
            case 1: asked.expected_version = ns.is_live(e) ? e.version : 0; break;
            case 2: asked.expected_version = e.version + pick(3); break;
            case 3: asked.if_match_any = true; break;
            case 4: asked.if_none_match_any = true; break;
            default: break;
        }
        return asked;
    }
    std::string any_value() { return "value " + std::to_string(random_()); }

    // ---- writes: the model goes first, the store must follow ----

    struct Slot {
        Request request;
        std::string what;
        std::vector<Expected> expected;                 // one, or one per item
    };

    std::size_t write_batch(std::size_t count) {
        std::vector<Slot> slots;
        for (std::size_t i = 0; i < count; ++i) slots.push_back(any_write());
        Replies replies(slots.size());
        for (std::size_t i = 0; i < slots.size(); ++i) kv_.store->submit(kv_.actor, slots[i].request, replies.slot(i));
        const auto all = replies.take();
        for (std::size_t i = 0; i < slots.size(); ++i) {
            INFO(slots[i].what);
            check(slots[i], all[i]);
        }
        return count;
    }

    Slot any_write() {
        ModelNamespace& ns = any_namespace();
        switch (pick(20)) {
            case 0: case 1: case 2: case 3: case 4: case 5: return put(ns);
            case 6: case 7: return patch(ns);
            case 8: case 9: return remove(ns, false);
            case 10: return remove(ns, true);
            case 11: case 12: return rotate(ns);
            case 13: case 14: return rollback(ns);
            case 15: case 16: return bulk_set(ns);
            case 17: return bulk_delete(ns);
            default: return put(ns);
        }
    }

    Slot begin(ModelNamespace& ns, Request request, std::string what) {
        Slot slot{std::move(request), ns.name + " " + std::move(what), {}};
        if (ns.deleted) slot.expected.push_back(refused("not-found"));
        return slot;
    }
    static Expected refused(std::string code) { return {std::move(code), 0, ""}; }
    static Expected changed(const ModelEntry& e) { return {"ok", e.version, e.metadata}; }

    Slot put(ModelNamespace& ns) {
        const std::string key = any_key();
        ModelEntry& e = ns.entries[key];
        PutEntry request = kv_.put_request(key, any_value(), any_ttl(), any_precondition(ns, e));
        request.ns = ns.id;
        if (chance(20)) request.write.metadata = R"({"p":)" + std::to_string(pick(9)) + "}";
        Slot slot = begin(ns, request, "put " + key);
        if (ns.deleted) return slot;
        if (const auto code = ns.judge(e, request.write.precondition); code != "ok") {
            slot.expected.push_back(refused(code));
            return slot;
        }
        ns.write(key, e, std::string(request.write.value.data.reveal()), request.write.metadata, seconds_of(request.write.ttl));
        slot.expected.push_back(changed(e));
        return slot;
    }
    Slot patch(ModelNamespace& ns) {
        const std::string key = any_key();
        ModelEntry& e = ns.entries[key];
        const std::string number = std::to_string(pick(1000));
        PatchEntry request = kv_.patch_request(key, {}, any_ttl(), any_precondition(ns, e));
        request.ns = ns.id;
        if (chance(70)) request.metadata = R"({"p":null,"q":)" + number + "}";
        Slot slot = begin(ns, request, "patch " + key);
        if (ns.deleted) return slot;
        std::string code = ns.is_live(e) ? ns.judge(e, request.precondition) : "not-found";
        if (code != "ok") {
            slot.expected.push_back(refused(code));
            return slot;
        }
        if (request.metadata) e.metadata = R"({"q":)" + number + "}";
        if (request.ttl.kind != Ttl::Kind::absent) ns.set_ttl(e, seconds_of(request.ttl));
        ++ns.revision;
        ns.events.insert("touched " + key + " " + std::to_string(e.version));
        slot.expected.push_back(changed(e));
        return slot;
    }
    bool has_past(const ModelNamespace& ns, const ModelEntry& e) const {
        return e.version > 0 && e.is_tombstone && !ns.is_hidden(e) && !e.past.empty();
    }
    void model_delete(ModelNamespace& ns, const std::string& key, bool purge) {
        ModelEntry& e = ns.entries[key];
        ns.advance(key, e, "deleted");
        e.is_tombstone = true;
        e.metadata = "{}";
        e.expires.reset();
        if (purge) {
            e.past.clear();
            e.hidden_to = e.version;
        }
    }
    Slot remove(ModelNamespace& ns, bool purge) {
        const std::string key = any_key();
        ModelEntry& e = ns.entries[key];
        DeleteEntry request = kv_.delete_request(key, purge, any_precondition(ns, e));
        request.ns = ns.id;
        Slot slot = begin(ns, request, std::string(purge ? "purge " : "delete ") + key);
        if (ns.deleted) return slot;
        std::string code = ns.is_live(e) || (purge && has_past(ns, e)) ? ns.judge(e, request.precondition) : "not-found";
        if (code == "ok") model_delete(ns, key, purge);
        slot.expected.push_back(refused(code));
        return slot;
    }
    Slot rotate(ModelNamespace& ns) {
        const std::string key = any_key();
        ModelEntry& e = ns.entries[key];
        RotateEntry request = kv_.rotate_request(key, any_value(), any_ttl(), any_precondition(ns, e));
        request.ns = ns.id;
        Slot slot = begin(ns, request, "rotate " + key);
        if (ns.deleted) return slot;
        std::string code = ns.is_live(e) ? ns.judge(e, request.precondition) : "not-found";
        if (!ns.keeps_history) code = "history-disabled";
        if (code != "ok") {
            slot.expected.push_back(refused(code));
            return slot;
        }
        ns.advance(key, e, "rotated");
        e.value = std::get<ValueInput>(request.value).data.reveal();
        ns.set_ttl(e, request.ttl.kind == Ttl::Kind::absent ? e.ttl : seconds_of(request.ttl));
        slot.expected.push_back(changed(e));
        return slot;
    }
    Slot rollback(ModelNamespace& ns) {
        const std::string key = any_key();
        ModelEntry& e = ns.entries[key];
        RollbackEntry request = kv_.rollback_request(key);
        request.ns = ns.id;
        if (chance(60)) request.version = 1 + (e.version > 8 && chance(70) ? e.version - pick(8) : pick(e.version + 2));
        Slot slot = begin(ns, request, "rollback " + key);
        if (ns.deleted) return slot;
        const ModelVersion* target = nullptr;
        std::string code = "ok";
        if (!ns.keeps_history) {
            code = "history-disabled";
        } else if (e.version == 0 || ns.is_hidden(e)) {
            code = "not-found";
        } else if (request.version == e.version) {
            code = e.is_tombstone ? "not-found" : "current-version";
        } else {
            if (request.version) target = ns.find_past(e, *request.version);
            for (const ModelVersion& one : e.past) {
                if (!request.version && ns.find_past(e, one.version)) target = &one;
            }
            if (target == nullptr) code = "not-found";
        }
        if (code != "ok") {
            slot.expected.push_back(refused(code));
            return slot;
        }
        const ModelVersion restored = *target;
        ns.advance(key, e, "rolled_back");
        e.is_tombstone = false;
        e.value = restored.value;
        e.metadata = restored.metadata;
        ns.set_ttl(e, e.ttl);
        slot.expected.push_back(changed(e));
        return slot;
    }
    std::set<std::string> some_keys(std::uint64_t most) {
        std::set<std::string> keys;
        for (std::uint64_t n = 1 + pick(most); n > 0; --n) keys.insert(any_key());
        return keys;
    }
    Slot bulk_set(ModelNamespace& ns) {
        BulkSet request;
        request.ns = ns.id;
        request.atomic = chance(50);
        for (const std::string& key : some_keys(6)) {
            EntryWrite write;
            write.key_path = key;
            write.value = ValueInput::text(any_value());
            write.ttl = any_ttl();
            if (chance(30)) write.precondition = any_precondition(ns, ns.entries[key]);
            request.entries.push_back(std::move(write));
        }
        Slot slot = begin(ns, request, "bulk set");
        if (ns.deleted) return slot;
        std::vector<std::string> codes;
        for (const EntryWrite& write : request.entries) codes.push_back(ns.judge(ns.entries[write.key_path], write.precondition));
        const bool all_ok = std::all_of(codes.begin(), codes.end(), [](const std::string& code) { return code == "ok"; });
        if (request.atomic && !all_ok) {
            slot.expected.push_back(refused("bulk-failed"));
            return slot;
        }
        for (std::size_t i = 0; i < codes.size(); ++i) {
            const EntryWrite& write = request.entries[i];
            if (codes[i] != "ok") {
                slot.expected.push_back(refused(codes[i]));
                continue;
            }
            ModelEntry& e = ns.entries[write.key_path];
            ns.write(write.key_path, e, std::string(write.value.data.reveal()), "{}", seconds_of(write.ttl));
            slot.expected.push_back(changed(e));
        }
        return slot;
    }
    Slot bulk_delete(ModelNamespace& ns) {
        const auto keys = some_keys(6);
        BulkDelete request = kv_.bulk_delete_request({keys.begin(), keys.end()}, chance(50), chance(20));
        request.ns = ns.id;
        Slot slot = begin(ns, request, "bulk delete");
        if (ns.deleted) return slot;
        for (const std::string& key : keys) {
            ModelEntry& e = ns.entries[key];
            const bool goes = ns.is_live(e) || (request.purge && has_past(ns, e));
            if (goes) model_delete(ns, key, request.purge);
            slot.expected.push_back(refused(goes ? "ok" : "not-found"));
        }
        return slot;
    }

    void check(const Slot& slot, const Result<Reply>& reply) {
        if (!reply) {
            CHECK(slot.expected.at(0).code == code_name(reply.error().code));
            return;
        }
        if (const auto* one = std::get_if<EntryReply>(&*reply)) {
            REQUIRE(slot.expected.at(0).code == "ok");
            CHECK(one->entry.version == slot.expected[0].version);
            CHECK(one->entry.metadata == slot.expected[0].metadata);
        } else if (const auto* set = std::get_if<BulkSetReply>(&*reply)) {
            REQUIRE(set->results.size() == slot.expected.size());
            for (std::size_t i = 0; i < set->results.size(); ++i) {
                const BulkSetResult& result = set->results[i];
                REQUIRE(slot.expected[i].code == (result.error ? code_name(result.error->code) : "ok"));
                CHECK(result.version == slot.expected[i].version);
            }
        } else if (const auto* removed = std::get_if<BulkDeleteReply>(&*reply)) {
            const auto expected = static_cast<std::size_t>(std::count_if(
                slot.expected.begin(), slot.expected.end(), [](const Expected& item) { return item.code == "ok"; }));
            CHECK(removed->deleted.size() == expected);
            CHECK(removed->missing.size() == slot.expected.size() - expected);
        } else {
            CHECK(slot.expected.at(0).code == "ok");
        }
    }
    // ---- reads ----

    std::size_t read_batch(std::size_t count) {
        struct Read {
            Request request;
            std::string expected;
        };
        std::vector<Read> reads;
        for (std::size_t i = 0; i < count; ++i) {
            ModelNamespace& ns = any_namespace();
            const std::string key = any_key();
            switch (pick(4)) {
                case 0: {
                    GetEntry get = kv_.get_request(key);
                    if (chance(30)) get.version = 1 + pick(ns.entries[key].version + 2);
                    get.ns = ns.id;
                    reads.push_back({get, model_get(ns, key, get.version)});
                    break;
                }
                case 1: {
                    const auto keys = some_keys(8);
                    BulkGet get = kv_.bulk_get_request({keys.begin(), keys.end()});
                    get.ns = ns.id;
                    std::string expected;
                    for (const std::string& one : keys) expected += ns.is_live(ns.entries[one]) ? line(one, ns.entries[one]) : "";
                    reads.push_back({get, ns.deleted ? "!not-found" : expected});
                    break;
                }
                case 2: {
                    ListEntries list = kv_.list_request(chance(50) ? "a/" : "");
                    list.ns = ns.id;
                    std::string expected;
                    for (const auto& [one, e] : ns.entries) {
                        if (one.starts_with(list.prefix) && ns.is_live(e)) expected += line(one, e);
                    }
                    reads.push_back({list, ns.deleted ? "!not-found" : expected});
                    break;
                }
                default: {
                    ListVersions versions = kv_.versions_request(key);
                    versions.ns = ns.id;
                    reads.push_back({versions, model_versions(ns, ns.entries[key])});
                    break;
                }
            }
        }
        Replies replies(reads.size());
        for (std::size_t i = 0; i < reads.size(); ++i) kv_.store->submit(kv_.actor, reads[i].request, replies.slot(i));
        const auto all = replies.take();
        for (std::size_t i = 0; i < reads.size(); ++i) CHECK(show(all[i]) == reads[i].expected);
        return count;
    }

    static std::string line(const std::string& key, const ModelEntry& e) {
        return key + " v" + std::to_string(e.version) + " " + e.value + " " + e.metadata + "\n";
    }
    static std::string line(const Entry& entry) {
        return entry.key_path + " v" + std::to_string(entry.version) + " " + std::string(entry.value->reveal()) + " " + entry.metadata + "\n";
    }
    std::string model_get(const ModelNamespace& ns, const std::string& key, std::optional<std::uint64_t> version) {
        const auto found = ns.entries.find(key);
        if (ns.deleted || found == ns.entries.end() || found->second.version == 0) return "!not-found";
        const ModelEntry& e = found->second;
        if (!version || *version == e.version) return ns.is_live(e) ? line(key, e) : "!not-found";
        const ModelVersion* past = ns.is_hidden(e) ? nullptr : ns.find_past(e, *version);
        if (past == nullptr) return "!not-found";
        return key + " v" + std::to_string(past->version) + " " + past->value + " " + past->metadata + "\n";
    }
    static std::string model_versions(const ModelNamespace& ns, const ModelEntry& e) {
        if (ns.deleted || e.version == 0 || ns.is_hidden(e) || !(ns.keeps_history || ns.is_live(e))) return "!not-found";
        std::string out = std::to_string(e.version) + " " + (e.is_tombstone ? "-" : e.value) + "\n";
        for (auto past = e.past.rbegin(); past != e.past.rend(); ++past) {
            if (past->version > ns.past_above(e)) out += std::to_string(past->version) + " " + (past->is_tombstone ? "-" : past->value) + "\n";
        }
        return out;
    }
    static std::string show(const Result<Reply>& reply) {
        if (!reply) return "!" + std::string(code_name(reply.error().code));
        std::string out;
        if (const auto* one = std::get_if<EntryReply>(&*reply)) out = line(one->entry);
        if (const auto* list = std::get_if<EntryList>(&*reply)) {
            for (const Entry& entry : list->items) out += line(entry);
        }
        if (const auto* bulk = std::get_if<BulkGetReply>(&*reply)) {
            for (const Entry& entry : bulk->entries) out += line(entry);
        }
        if (const auto* versions = std::get_if<VersionList>(&*reply)) {
            for (const Version& one : versions->items) out += std::to_string(one.version) + " " + (one.value ? std::string(one.value->reveal()) : "-") + "\n";
        }
        return out;
    }

    // ---- time, namespaces, maintenance ----

    void between_batches() {
        const std::uint64_t dice = pick(100);
        if (dice < 50) kv_.clock.pass(std::chrono::milliseconds(pick(3000)));
        if (dice >= 50 && dice < 55) kv_.clock.pass(2h);
        if (dice == 55) pass_a_month();
        for (ModelNamespace& ns : namespaces_) ns.now = kv_.clock.now();
        if (chance(30)) maintain();
        if (chance(4)) delete_or_restore(any_namespace());
        if (chance(2)) make_secret();
        if (chance(3)) reopen();
    }
    void maintain() {
        kv_.maintain();
        for (ModelNamespace& ns : namespaces_) ns.sweep();
    }
    // Deleted namespaces go, and tombstones that nothing is left of are forgotten, but for how high their versions were.
    void pass_a_month() {
        maintain();
        kv_.clock.pass(24h * 31);
        for (ModelNamespace& ns : namespaces_) ns.now = kv_.clock.now();
        maintain();
        for (ModelNamespace& ns : namespaces_) {
            if (ns.deleted) {
                const EntryRef ref{ns.id, "", {}};
                CHECK(kv_.storage->find(std::span(&ref, 1), {}).value()[0].ns == nullptr);
                ns = make_namespace(ns.name, ns.kind);
                continue;
            }
            for (auto& [key, e] : ns.entries) {
                const EntryRef ref{ns.id, key, {}};
                const auto found = kv_.storage->find(std::span(&ref, 1), {}).value();
                // What an expiry of just now hides is kept for its grace yet.
                const bool is_fresh = e.is_tombstone && e.changed == ns.now;
                CHECK(found[0].entry.has_value() == (e.version > 0 && (is_fresh || !ns.is_forgettable(e))));
                if (found[0].entry) continue;
                ns.floor = std::max(ns.floor, e.version);
                e = ModelEntry{};
            }
            CHECK(kv_.namespace_row(ns.id).version_floor == ns.floor);
        }
    }
    void delete_or_restore(ModelNamespace& ns) {
        if (!ns.deleted) {
            DeleteNamespace request;
            request.ns = ns.id;
            REQUIRE(kv_.call(request));
            ns.deleted = ns.now;
            return;
        }
        const auto restored = kv_.call(RestoreNamespace{ns.id});
        CHECK(code_of(restored) == (*ns.deleted + 24h * 7 > ns.now ? "ok" : "not-found"));
        if (restored) ns.deleted.reset();
    }
    void make_secret() {
        for (ModelNamespace& ns : namespaces_) {
            if (ns.deleted || ns.kind != Kind::plain) continue;
            UpdateNamespace request;
            request.ns = ns.id;
            request.is_secret = true;
            REQUIRE(kv_.call(request));
        }
    }
    void reopen() {
        kv_.close();
        kv_.open();
    }

    void finish() {
        for (ModelNamespace& ns : namespaces_) {
            CHECK(kv_.namespace_row(ns.id).revision == ns.revision);
            EventRange range{{{ns.id, 0}}, 10'000'000};
            const auto events = kv_.storage->scan_events(range).value();
            std::multiset<std::string> seen;
            std::uint64_t revision = 0;
            for (const EventRow& event : events) {
                CHECK(event.revision == ++revision);
                seen.insert(std::string(to_string(event.kind)) + " " + event.key_path + " " + std::to_string(event.version));
            }
            CHECK(revision == ns.revision);
            CHECK(seen == ns.events);
        }
        kv_.close();
        if (log_ == AuditLog::whole) CHECK(audit_fault(*kv_.storage, *kv_.keys) == "");
        CHECK(verify_fault(*kv_.storage) == "");
    }

    static Options options(AuditLog log) {
        Options options = each_denial_a_row();
        options.event_retention = std::chrono::hours(24 * 365 * 100);  // every event is compared at the end
        options.events_max = 10'000'000;
        if (log == AuditLog::whole) options.audit_retention = std::chrono::hours(24 * 365 * 100);
        return options;
    }

    std::mt19937_64 random_;
    Fixture kv_;
    const AuditLog log_;
    std::vector<ModelNamespace> namespaces_;
};

}  // namespace

namespace {

std::uint64_t seed() {
    const char* given = std::getenv("KV_MODEL_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
}

// Thinned where a sanitizer makes every one of them many times slower.
std::size_t operations() { return std::getenv("KV_TEST_THIN") != nullptr ? 10'000 : 100'000; }

}  // namespace

#ifdef KV_TEST_ON_POSTGRES

TEST_CASE("ten thousand random operations on PostgreSQL do what the rules say") {
    const std::uint64_t chosen = seed();
    MESSAGE("KV_MODEL_SEED=" << chosen);
    for (const AuditLog log : {AuditLog::whole, AuditLog::trimmed}) {
        conformance::Postgres database;
        const auto open = [&](Clock& clock) { return database.open(clock); };
        CHECK(ModelRun(chosen, open, log).run(operations() / 20) >= operations() / 20);
    }
}

#else

TEST_CASE("a hundred thousand random operations on memory do what the rules say") {
    const std::uint64_t chosen = seed();
    MESSAGE("KV_MODEL_SEED=" << chosen);
    CHECK(ModelRun(chosen, make_memory_storage, AuditLog::whole).run(operations()) >= operations());
}

TEST_CASE("a hundred thousand random operations on SQLite do what the rules say") {
    const std::uint64_t chosen = seed();
    MESSAGE("KV_MODEL_SEED=" << chosen);
    const auto folder = std::filesystem::temp_directory_path() / ("kv-model-" + std::to_string(std::random_device()()));
    std::filesystem::create_directory(folder);
    {
        SqliteOptions options;
        options.path = (folder / "kv.db").string();
        const auto open = [&](Clock& clock) { return open_sqlite_storage(options, clock).value(); };
        CHECK(ModelRun(chosen, open, AuditLog::trimmed).run(operations()) >= operations());
    }
    std::filesystem::remove_all(folder);
}

#endif
