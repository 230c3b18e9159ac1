#include "verify.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <set>

#include "crypto/random.h"
#include "fixture.h"
#include "text.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

// ---- a storage whose audit log somebody edited ----

class EditedStorage final : public Passing {
public:
    explicit EditedStorage(Storage& inner) : Passing(inner) {
        AuditRange range;
        range.newest_first = false;
        range.limit = range.walk = 10'000'000;
        audit = inner.scan_audit(range).value().rows;
        HeadWalk walk;
        walk.limit = 10'000'000;
        heads = inner.walk_audit_heads(walk).value();
    }

    std::vector<AuditRow> audit;
    std::vector<AuditHead> heads;

    // The rows of a stream, as indexes: streams come in the order they began in.
    std::vector<std::size_t> rows_of(std::size_t stream) const {
        std::vector<StreamId> streams;
        std::vector<std::size_t> rows;
        for (const AuditRow& row : audit) {
            if (std::find(streams.begin(), streams.end(), row.record.stream) == streams.end()) streams.push_back(row.record.stream);
        }
        for (std::size_t i = 0; i < audit.size(); ++i) {
            if (audit[i].record.stream == streams.at(stream)) rows.push_back(i);
        }
        return rows;
    }
    void erase(std::size_t from, std::size_t count = 1) {
        audit.erase(audit.begin() + static_cast<std::ptrdiff_t>(from), audit.begin() + static_cast<std::ptrdiff_t>(from + count));
    }
    void renumber() {
        for (std::size_t i = 0; i < audit.size(); ++i) audit[i].position = i + 1;
    }
    AuditHead& head_of(const StreamId& stream) {
        return *std::find_if(heads.begin(), heads.end(), [&](const AuditHead& head) { return head.stream == stream; });
    }
    void erase_stream(const StreamId& stream, bool with_head) {
        std::erase_if(audit, [&](const AuditRow& row) { return row.record.stream == stream; });
        if (with_head) std::erase_if(heads, [&](const AuditHead& head) { return head.stream == stream; });
    }

    Result<AuditPage> scan_audit(const AuditRange& range) override { return page_of(audit, range); }
    Result<std::vector<AuditHead>> walk_audit_heads(const HeadWalk& walk) override {
        return walk.after ? std::vector<AuditHead>() : heads;
    }
};

// The kinds of what is found, in alphabetical order.
std::string kinds_in(Storage& storage, const VerifyOptions& options = {}) {
    auto keys = make_fixed_key(fixed_key());
    const auto report = verify(storage, *keys, options);
    REQUIRE_MESSAGE(report.has_value(), report.error().message);
    std::set<std::string> kinds;
    for (const Finding& finding : report->findings) {
        const auto& known = finding_kinds();
        CHECK(std::find(known.begin(), known.end(), finding.kind) != known.end());
        CHECK_FALSE(finding.message.empty());
        CHECK_FALSE(has_control_character(finding.message));
        kinds.insert(finding.kind);
    }
    std::string out;
    for (const std::string& kind : kinds) out += (out.empty() ? "" : " ") + kind;
    return out;
}

std::string audit_kinds_in(Storage& storage) {
    auto keys = make_fixed_key(fixed_key());
    const auto report = verify_audit(storage, export_audit_key(storage, *keys).value(), {});
    REQUIRE_MESSAGE(report.has_value(), report.error().message);
    return report->findings.empty() ? "" : report->findings.front().kind;
}

// ---- a store with a past ----

void do_everything(Fixture& kv) {
    for (int i = 0; i < 3; ++i) {
        const std::string folder = "f" + std::to_string(kv.clock.now().time_since_epoch().count()) + "/";
        REQUIRE(kv.put(folder + "put", "one"));
        REQUIRE(kv.put(folder + "put", "two"));
        REQUIRE(kv.call(kv.patch_request(folder + "put", R"({"owner":"me"})")));
        REQUIRE(kv.call(kv.rotate_request(folder + "put", "three")));
        REQUIRE(kv.call(kv.rollback_request(folder + "put")));
        REQUIRE(kv.put(folder + "deleted", "one"));
        REQUIRE(kv.call(kv.delete_request(folder + "deleted")));
        REQUIRE(kv.put(folder + "back", "one"));
        REQUIRE(kv.call(kv.delete_request(folder + "back")));
        REQUIRE(kv.put(folder + "back", "two"));
        REQUIRE(kv.put(folder + "purged", "one"));
        REQUIRE(kv.put(folder + "purged", "two"));
        REQUIRE(kv.call(kv.delete_request(folder + "purged", true)));
        REQUIRE(kv.call(kv.bulk_set_request({{folder + "a", "1"}, {folder + "b", "2"}, {folder + "c", "3"}})));
        REQUIRE(kv.call(kv.bulk_delete_request({folder + "a", folder + "missing"}, false)));
        REQUIRE(kv.put(folder + "short", "gone soon", Ttl::after(10)));
        REQUIRE(kv.put(folder + "over", "gone soon", Ttl::after(10)));
        Precondition stale;
        stale.expected_version = 77;
        REQUIRE_FALSE(kv.call(kv.put_request(folder + "put", "no", {}, stale)));
        REQUIRE_FALSE(kv.call(kv.get_request("nobody/knows")));
        kv.clock.pass(10s);
        REQUIRE(kv.put(folder + "over", "again"));
        CHECK(kv.get(folder + "put") == "two");
        kv.maintain();
        REQUIRE(kv.call(kv.list_request()));
        kv.clock.pass(2h);
        kv.maintain();
    }
}

void change_namespaces(Fixture& kv) {
    const NamespaceId plain = kv.make_namespace("plain", Kind::plain);
    const NamespaceId gone = kv.make_namespace("gone", Kind::secret);
    const NamespaceId deleted = kv.make_namespace("deleted", Kind::secret);
    const NamespaceId mine = std::exchange(kv.ns, plain);
    do_everything(kv);
    UpdateNamespace update;
    update.ns = plain;
    update.is_secret = true;
    REQUIRE(kv.call(update));
    REQUIRE(kv.put("after", "sealed"));
    kv.maintain();
    for (const NamespaceId& ns : {gone, deleted}) {
        kv.ns = ns;
        REQUIRE(kv.put("k", "one"));
        REQUIRE(kv.put("k", "two"));
        DeleteNamespace remove;
        remove.ns = ns;
        remove.purge = ns == gone;
        REQUIRE(kv.call(remove));
    }
    REQUIRE(kv.call(RestoreNamespace{deleted}));
    DeleteNamespace again;
    again.ns = deleted;
    REQUIRE(kv.call(again));
    kv.ns = mine;
}

void restart(Fixture& kv) {
    kv.close();
    kv.open();
}

// Ends without its last row, as a process that was killed.
void crash(Fixture& kv) {
    kv.faults.fail_writes(Errc::unavailable, 1);
    restart(kv);
}

// A folder that goes with it.
class Folder {
public:
    Folder() { std::filesystem::create_directory(path_); }
    ~Folder() { std::filesystem::remove_all(path_); }
    Fixture::MakeStorage sqlite() const {
        return [file = (path_ / "kv.db").string()](Clock& clock) {
            SqliteOptions options;
            options.path = file;
            return open_sqlite_storage(options, clock).value();
        };
    }

private:
    const std::filesystem::path path_ = std::filesystem::temp_directory_path() / ("kv-verify-" + std::to_string(std::random_device()()));
};

// Removes the oldest audit rows as retention does: behind checkpoints that a stream of its own records.
void cut_log(Storage& storage, const crypto::Keyring& keys, std::uint64_t position, bool keeps_heads = false) {
    const auto done = storage.write([&](StorageWriter& writer) -> Result<void> {
        EditedStorage all(storage);
        std::map<StreamId, AuditHead> last;
        std::set<StreamId> stays;
        for (const AuditRow& row : all.audit) {
            if (row.position > position) {
                stays.insert(row.record.stream);
            } else {
                last[row.record.stream] = {row.record.stream, row.record.sequence, row.mac, HeadState::open};
            }
        }
        Changeset changes;
        changes.erase_audit_to = position;
        const Time now = writer.now().value();
        std::vector<AuditRecord> records = {make_record(system_actor(), {AuditAction::write, audit_open, {}}, now, nullptr)};
        for (const auto& [id, row] : last) {
            records.push_back(make_head_record(audit_checkpoint, row, now));
            if (!stays.contains(id) && !keeps_heads) changes.erase_heads.push_back(id);
        }
        records.push_back(make_record(system_actor(), {AuditAction::write, audit_close, {}}, now, nullptr));
        const StreamId stream = crypto::make_uuid(now);
        AuditChain chain(stream, keys.audit_stream_key(stream));
        AuditChain::Link link = chain.extend(std::move(records));
        link.head.after.state = HeadState::closed;
        changes.audit = std::move(link.rows);
        changes.heads.push_back(link.head);
        return writer.apply(changes);
    });
    REQUIRE_MESSAGE(done.has_value(), done.error().message);
}

// Rows that the store might have written itself.
void append_stream(Fixture& kv, std::vector<AuditRecord> records) {
    const StreamId stream = crypto::make_uuid(kv.clock.now());
    AuditChain chain(stream, kv.keys->audit_stream_key(stream));
    AuditChain::Link link = chain.extend(std::move(records));
    Changeset changes;
    changes.audit = std::move(link.rows);
    changes.heads.push_back(link.head);
    kv.tamper(changes);
}

Changeset change_entry(const EntryRow& row) {
    Changeset changes;
    changes.entries.push_back(row);
    return changes;
}

Changeset change_namespace(const NamespaceRow& row) {
    Changeset changes;
    changes.namespaces.push_back(row);
    return changes;
}

std::vector<KeyRow> key_rows(Storage& storage) { return storage.walk_keys({}).value(); }

}  // namespace

// ---- what is sound ----

TEST_CASE("a store that did everything is sound, on memory and on SQLite, and after restarts") {
    Folder folder;
    const std::vector<Fixture::MakeStorage> backends = {make_memory_storage, folder.sqlite()};
    for (const Fixture::MakeStorage& make : backends) {
        for (const Kind kind : {Kind::secret}) {
            Fixture kv(kind, {}, make);
            do_everything(kv);
            change_namespaces(kv);
            CHECK(verify_fault(*kv.storage) == "");
            restart(kv);
            CHECK(verify_fault(*kv.storage) == "");
            do_everything(kv);
            crash(kv);
            CHECK(verify_fault(*kv.storage) == "");
            do_everything(kv);
            // Deleted namespaces are purged, tombstones forgotten.
            kv.clock.pass(24h * 40);
            kv.maintain();
            CHECK(verify_fault(*kv.storage) == "");
            do_everything(kv);
            kv.close();
            CHECK(verify_fault(*kv.storage) == "");
            CHECK(audit_kinds_in(*kv.storage) == "");
        }
    }
}

TEST_CASE("verification counts what it looked at") {
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    REQUIRE(kv.put("k", "two"));
    REQUIRE(kv.put("gone", "one"));
    REQUIRE(kv.call(kv.delete_request("gone")));
    restart(kv);
    std::set<std::string_view> stages;
    VerifyOptions options;
    options.progress = [&](const VerifyProgress& progress) { return stages.insert(progress.stage), true; };
    auto keys = make_fixed_key(fixed_key());
    const VerifyReport report = verify(*kv.storage, *keys, options).value();
    CHECK(report.is_sound());
    CHECK(report.findings.empty());
    CHECK(report.notes.empty());
    CHECK(report.keys == 6);
    CHECK(report.namespaces == 1);
    CHECK(report.streams == 1);
    CHECK(report.entries == 2);
    CHECK(report.versions == 2);
    CHECK(report.values_opened == 3);
    CHECK(report.audit_rows == 7);
    CHECK(stages == std::set<std::string_view>{"keys", "audit", "namespaces", "entries", "versions", "tokens"});
}

TEST_CASE("a store is sound all the while it is written") {
    Folder folder;
    const std::vector<Fixture::MakeStorage> backends = {make_memory_storage, folder.sqlite()};
    for (const Fixture::MakeStorage& make : backends) {
        Options options;
        options.tombstone_retention = 0s;
        options.expiry_grace = 0s;
        options.key_retirement = 0s;
        options.audit_retention = 60s;
        Fixture kv(Kind::secret, options, make);
        std::atomic<bool> is_over{false};
        const NamespaceId sealed_later = kv.make_namespace("plain", Kind::plain);
        std::thread writer([&] {
            for (int i = 0; !is_over; ++i) {
                const std::string key = "k" + std::to_string(i % 50);
                PutEntry put = kv.put_request(key, "value " + std::to_string(i), i % 7 == 0 ? Ttl::after(1) : Ttl{});
                static_cast<void>(kv.store->call(kv.actor, put));
                put.ns = sealed_later;
                static_cast<void>(kv.store->call(kv.actor, put));
                if (i % 3 == 0) static_cast<void>(kv.store->call(kv.actor, kv.patch_request(key, R"({"a":1})")));
                if (i % 5 == 0) static_cast<void>(kv.store->call(kv.actor, kv.delete_request(key, i % 2 == 0)));
                if (i % 11 == 0) static_cast<void>(kv.store->call(kv.actor, kv.rollback_request(key)));
                if (i % 30 == 0) static_cast<void>(kv.store->rotate_data_key(kv.actor, kv.ns));
                if (i % 100 == 50) {
                    UpdateNamespace update;
                    update.ns = sealed_later;
                    update.is_secret = true;
                    static_cast<void>(kv.store->call(kv.actor, update));
                }
                if (i % 10 == 0) {
                    kv.clock.pass(10s);
                    static_cast<void>(kv.store->run_maintenance());
                }
                if (i % 20 == 0) {
                    CreateNamespace create;
                    create.application_id = "app";
                    create.name = "n" + std::to_string(i);
                    create.is_secret = true;
                    const auto made = kv.store->call(kv.actor, create);
                    if (!made) continue;
                    put.ns = made->ns.id;
                    static_cast<void>(kv.store->call(kv.actor, put));
                    DeleteNamespace remove;
                    remove.ns = made->ns.id;
                    remove.purge = true;
                    static_cast<void>(kv.store->call(kv.actor, remove));
                }
            }
        });
        std::string faults;
        // Until retention has taken rows while we looked.
        const auto is_cut = [&] { return kv.storage->scan_audit({.newest_first = false, .limit = 1}).value().rows.at(0).position > 1; };
        const auto deadline = std::chrono::steady_clock::now() + 60s;
        for (int run = 0; faults.empty() && (run < 30 || !is_cut()) && std::chrono::steady_clock::now() < deadline; ++run) {
            faults = verify_fault(*kv.storage);
        }
        is_over = true;
        writer.join();
        CHECK(faults == "");
        CHECK(is_cut());
        CHECK(kv.namespace_row().key_generation > 1);
        CHECK(verify_fault(*kv.storage) == "");
    }
}

TEST_CASE("an empty storage has nothing to be found") {
    SettableClock clock;
    auto storage = make_memory_storage(clock);
    CHECK(kinds_in(*storage) == "key-row");
}

TEST_CASE("rows recorded before revisions were are held against their versions alone") {
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    kv.close();
    // A stream as an older libkv made it, about an entry of its time.
    EntryRow row = *kv.entry_row("k");
    NamespaceRow ns = kv.namespace_row();
    ns.revision = 2;
    row.id = crypto::make_uuid(kv.clock.now());
    row.key_path = "old";
    row.value = "unsealed";
    row.version = 3;
    row.revision = 2;
    const NamespaceId plain = crypto::make_uuid(kv.clock.now());
    ns.id = plain;
    ns.name = "old";
    ns.is_secret = false;
    ns.key_generation = row.key_generation = 0;
    ns.mac = kv.vault->namespace_mac(ns);
    row.ns = plain;
    std::vector<AuditRecord> records;
    for (const std::string_view operation : {"namespace.create", "entry.put", "bulk.set", "entry.delete", "entry.destroy", "entry.put"}) {
        const bool is_removal = operation == "entry.delete" || operation == "entry.destroy";
        AuditRecord record = make_record(system_actor(), {is_removal ? AuditAction::delete_ : AuditAction::write, operation, "old"}, kv.clock.now(), &ns);
        record.version = records.empty() || operation == "entry.destroy" ? 1 : records.size();
        if (!records.empty()) record.entry_id = row.id;
        records.push_back(std::move(record));
    }
    ns.version = 1;
    records.back().version = 3;
    append_stream(kv, std::move(records));
    kv.tamper(change_namespace(ns));
    kv.tamper(change_entry(row));
    CHECK(verify_fault(*kv.storage) == "");
    row.version = 2;
    kv.tamper(change_entry(row));
    CHECK(kinds_in(*kv.storage) == "entry-set-back");
    row.version = 4;
    kv.tamper(change_entry(row));
    CHECK(kinds_in(*kv.storage) == "entry-unaudited");
}

// ---- retention ----

TEST_CASE("a log whose oldest rows retention took is sound from every position on") {
    for (const bool keeps_heads : {false, true}) {
        for (const std::size_t share : {1, 2, 3, 5, 9}) {
            Fixture kv;
            do_everything(kv);
            change_namespaces(kv);
            restart(kv);
            do_everything(kv);
            crash(kv);
            do_everything(kv);
            kv.close();
            const std::uint64_t rows = EditedStorage(*kv.storage).audit.back().position;
            const std::uint64_t position = rows * share / 9;
            cut_log(*kv.storage, *kv.keys, position, keeps_heads);
            CAPTURE(position);
            CHECK(verify_fault(*kv.storage) == "");
            kv.open();
            do_everything(kv);
            kv.close();
            CHECK(verify_fault(*kv.storage) == "");
            if (keeps_heads) continue;  // a head that outlives its rows is named anew
            // Once more, and the first checkpoints go as well.
            cut_log(*kv.storage, *kv.keys, rows + 5);
            kv.open();
            CHECK(verify_fault(*kv.storage) == "");
        }
    }
}

TEST_CASE("retention may overtake a verification") {
    Fixture kv;
    for (int i = 0; i < 5000; ++i) REQUIRE(kv.put("k" + std::to_string(i % 3000), "v"));
    kv.close();
    int calls = 0;
    VerifyOptions options;
    options.progress = [&](const VerifyProgress& progress) {
        if (progress.stage == "audit" && ++calls == 1) cut_log(*kv.storage, *kv.keys, 4500);
        return true;
    };
    CHECK(verify_fault(*kv.storage, options) == "");
    CHECK(calls > 1);
    // Meanwhile, after the log was read.
    bool has_cut = false;
    options.progress = [&](const VerifyProgress& progress) {
        if (progress.stage == "entries" && !std::exchange(has_cut, true)) cut_log(*kv.storage, *kv.keys, 4800);
        return true;
    };
    CHECK(verify_fault(*kv.storage, options) == "");
    CHECK(has_cut);
}

TEST_CASE("behind a checkpoint the log is as tight as before") {
    Fixture kv;
    for (int i = 0; i < 20; ++i) REQUIRE(kv.put("k" + std::to_string(i), "v"));
    kv.close();
    cut_log(*kv.storage, *kv.keys, 10);
    EditedStorage first(*kv.storage);
    first.audit[0].record.user_id = "mallory";
    CHECK(kinds_in(first) == "audit-row");
    EditedStorage second(*kv.storage);
    second.erase(0);
    CHECK(kinds_in(second).find("audit-gap") != std::string::npos);
    EditedStorage third(*kv.storage);
    third.erase(1);
    CHECK(kinds_in(third).find("audit-gap") != std::string::npos);
    EditedStorage checkpoint(*kv.storage);
    auto at = std::find_if(checkpoint.audit.begin(), checkpoint.audit.end(), [](const AuditRow& row) { return row.record.operation == audit_checkpoint; });
    at->record.version = *at->record.version + 1;
    CHECK(kinds_in(checkpoint).find("audit-row") != std::string::npos);
    CHECK(kinds_in(checkpoint).find("audit-gap") != std::string::npos);
    // What retention took the record of must be older than what is left.
    EntryRow old = *kv.entry_row("k2");
    old.revision = 19;
    kv.tamper(change_entry(old));
    CHECK(kinds_in(*kv.storage) == "entry-unaudited");
}

// ---- the audit log ----

TEST_CASE("every edited column of an audit row is found") {
    Fixture kv;
    do_everything(kv);
    kv.close();
    using Edit = std::function<void(AuditRow&)>;
    const std::vector<Edit> edits = {
        [](AuditRow& row) { row.record.stream.bytes[15] ^= 1; },
        [](AuditRow& row) { row.record.sequence += 1; },
        [](AuditRow& row) { row.record.sequence += 1000; },
        [](AuditRow& row) { row.record.sequence = 0; },
        [](AuditRow& row) { row.record.timestamp += 1us; },
        [](AuditRow& row) { row.record.namespace_id = row.record.namespace_id ? std::nullopt : std::optional(Uuid{}); },
        [](AuditRow& row) { row.record.namespace_id = Uuid{}; },
        [](AuditRow& row) { row.record.entry_id = row.record.entry_id ? std::nullopt : std::optional(Uuid{}); },
        [](AuditRow& row) { row.record.entry_id = Uuid{}; },
        [](AuditRow& row) { row.record.key_path += "x"; },
        [](AuditRow& row) { row.record.action = row.record.action == AuditAction::read ? AuditAction::write : AuditAction::read; },
        [](AuditRow& row) { row.record.action = AuditAction{}; },
        [](AuditRow& row) { row.record.operation = "entry.copy"; },
        [](AuditRow& row) { row.record.user_id += "x"; },
        [](AuditRow& row) { row.record.credential_id += "x"; },
        [](AuditRow& row) { row.record.application_id += "x"; },
        [](AuditRow& row) { row.record.peer += "x"; },
        [](AuditRow& row) { row.record.request_id += "x"; },
        [](AuditRow& row) { row.record.success = !row.record.success; },
        [](AuditRow& row) { row.record.reason += "x"; },
        [](AuditRow& row) { row.record.version = row.record.version ? std::nullopt : std::optional<std::uint64_t>(1); },
        [](AuditRow& row) { row.record.version = row.record.version.value_or(0) + 1; },
        [](AuditRow& row) { row.record.revision = row.record.revision ? std::nullopt : std::optional<std::uint64_t>(1); },
        [](AuditRow& row) { row.record.revision = row.record.revision.value_or(0) + 1; },
        [](AuditRow& row) { row.record.count += 1; },
        [](AuditRow& row) { row.mac[31] ^= 1; },
        [](AuditRow& row) { row.mac = {}; },
        // From one text to its neighbour.
        [](AuditRow& row) { row.record.peer = std::exchange(row.record.application_id, "") + row.record.peer + "!"; },
    };
    const std::size_t rows = EditedStorage(*kv.storage).audit.size();
    for (std::size_t edit = 0; edit < edits.size(); ++edit) {
        for (const std::size_t row : {std::size_t{0}, std::size_t{1}, rows / 3, rows / 2, rows - 2, rows - 1}) {
            EditedStorage edited(*kv.storage);
            edits[edit](edited.audit[row]);
            CAPTURE(edit);
            CAPTURE(row);
            const std::string kinds = kinds_in(edited);
            CHECK(kinds.find("audit-") != std::string::npos);
            CHECK(audit_kinds_in(edited) != "");
        }
    }
}

TEST_CASE("one edited audit row is one finding that names it") {
    Fixture kv;
    do_everything(kv);
    kv.close();
    for (const bool edits_mac : {false, true}) {
        EditedStorage edited(*kv.storage);
        AuditRow& row = edited.audit[17];
        if (edits_mac) {
            row.mac[0] ^= 1;
        } else {
            row.record.user_id = "mallory";
        }
        CHECK(verify_fault(edited) == "audit-row: audit stream " + row.record.stream.to_string() +
                                          ", row 18: the row at position 18 is not as it was written: its MAC is wrong\n");
    }
}

TEST_CASE("audit rows that were removed are found wherever they stood") {
    Fixture kv;
    do_everything(kv);
    restart(kv);
    do_everything(kv);
    restart(kv);
    do_everything(kv);
    kv.close();
    for (std::size_t stream = 0; stream < 3; ++stream) {
        const std::vector<std::size_t> rows = EditedStorage(*kv.storage).rows_of(stream);
        for (const std::size_t row : {rows.front(), rows[1], rows[rows.size() / 2], rows.back()}) {
            for (const bool renumbers : {false, true}) {
                EditedStorage edited(*kv.storage);
                edited.erase(row);
                if (renumbers) edited.renumber();
                CAPTURE(stream);
                CAPTURE(row);
                const std::string expected = row == rows.back() ? "audit-head" : "audit-gap";
                CHECK(kinds_in(edited).find(expected) != std::string::npos);
            }
        }
        EditedStorage many(*kv.storage);
        many.erase(rows[5], 10);
        CHECK(kinds_in(many).find("audit-gap") != std::string::npos);
        CHECK(verify_fault(many).find("rows 6 to 15 are missing before row 16") != std::string::npos);
    }
}

TEST_CASE("a whole stream that was removed is found") {
    Fixture kv;
    do_everything(kv);
    restart(kv);
    do_everything(kv);
    restart(kv);
    do_everything(kv);
    kv.close();
    for (std::size_t stream = 0; stream < 3; ++stream) {
        EditedStorage without_head(*kv.storage);
        const StreamId id = without_head.audit[without_head.rows_of(stream).front()].record.stream;
        without_head.erase_stream(id, false);
        CHECK(kinds_in(without_head).find("audit-stream") != std::string::npos);
        EditedStorage with_head(*kv.storage);
        with_head.erase_stream(id, true);
        CAPTURE(stream);
        // Nothing names the newest one, but what changed in it is missing from the revisions.
        CHECK(kinds_in(with_head).find(stream == 2 ? "revision" : "audit-stream") != std::string::npos);
    }
    // Also when the store went on since.
    EditedStorage newest(*kv.storage);
    const StreamId id = newest.audit.back().record.stream;
    CHECK(kinds_in(*kv.storage) == "");
    newest.erase_stream(id, true);
    for (const std::size_t row : newest.rows_of(0)) newest.audit[row].position += 0;
    CHECK(kinds_in(newest) == "entry-unaudited revision");
}

TEST_CASE("audit rows out of order, repeated, inserted or replaced are found") {
    Fixture kv;
    do_everything(kv);
    kv.close();
    const auto found = [&](const std::function<void(EditedStorage&)>& edit) {
        EditedStorage edited(*kv.storage);
        edit(edited);
        edited.renumber();
        return kinds_in(edited);
    };
    CHECK(found([](EditedStorage& edited) { std::swap(edited.audit[7], edited.audit[8]); }) == "audit-gap");
    CHECK(found([](EditedStorage& edited) { std::swap(edited.audit[3], edited.audit[40]); }).find("audit-gap") != std::string::npos);
    CHECK(found([](EditedStorage& edited) { std::swap(edited.audit[0], edited.audit[1]); }).find("audit-gap") != std::string::npos);
    CHECK(found([](EditedStorage& edited) { std::reverse(edited.audit.begin(), edited.audit.end()); }).find("audit-gap") != std::string::npos);
    CHECK(found([](EditedStorage& edited) { edited.audit.insert(edited.audit.begin() + 9, AuditRow(edited.audit[8])); }) == "audit-gap");
    CHECK(found([](EditedStorage& edited) { edited.audit.push_back(AuditRow(edited.audit[8])); }) == "audit-gap");
    // The texts of two rows exchanged, their numbers left.
    CHECK(found([](EditedStorage& edited) {
              std::swap(edited.audit[7].record, edited.audit[8].record);
              std::swap(edited.audit[7].record.sequence, edited.audit[8].record.sequence);
          }).find("audit-row") != std::string::npos);
    // A row of one's own, with the numbers behind it moved up.
    CHECK(found([](EditedStorage& edited) {
              AuditRow row = edited.audit[12];
              edited.audit.insert(edited.audit.begin() + 12, row);
              for (std::size_t i = 13; i < edited.audit.size(); ++i) ++edited.audit[i].record.sequence;
              ++edited.heads[0].sequence;
          }).find("audit-row") != std::string::npos);
    // At the end, the head moved with it.
    CHECK(found([](EditedStorage& edited) {
              AuditRow row = edited.audit.back();
              ++row.record.sequence;
              edited.audit.push_back(row);
              ++edited.heads[0].sequence;
          }) == "audit-row");
    // A stream of one's own.
    CHECK(found([](EditedStorage& edited) {
              AuditRow row = edited.audit[0];
              row.record.stream = Uuid::parse("01890000-0000-7000-8000-000000000001").value();
              edited.audit.push_back(row);
              edited.heads.push_back({row.record.stream, 1, row.mac, HeadState::open});
          }) == "audit-row");
    CHECK(found([](EditedStorage& edited) { edited.audit.clear(); }).find("audit-stream") != std::string::npos);
}

TEST_CASE("heads that were edited are found") {
    Fixture kv;
    do_everything(kv);
    crash(kv);
    do_everything(kv);
    restart(kv);
    REQUIRE(kv.put("last", "one"));
    const StreamId unclosed = EditedStorage(*kv.storage).audit.front().record.stream;
    const StreamId open = kv.store->audit_heads().front().stream;
    const auto found = [&](const StreamId& stream, const std::function<void(AuditHead&)>& edit) {
        EditedStorage edited(*kv.storage);
        edit(edited.head_of(stream));
        return kinds_in(edited);
    };
    for (const StreamId& stream : {unclosed, open}) {
        CHECK(found(stream, [](AuditHead& head) { head.sequence -= 1; }) == "audit-head");
        CHECK(found(stream, [](AuditHead& head) { head.sequence += 1; }) == "audit-head");
        CHECK(found(stream, [](AuditHead& head) { head.mac[3] ^= 1; }) == "audit-head");
        CHECK(found(stream, [](AuditHead& head) { head.sequence = 0; }) == "audit-head");
        CHECK(found(stream, [](AuditHead& head) { head.state = HeadState::closed; }) == "audit-head");
        EditedStorage without(*kv.storage);
        std::erase_if(without.heads, [&](const AuditHead& head) { return head.stream == stream; });
        CHECK(kinds_in(without) == "audit-stream");
    }
    CHECK(found(open, [](AuditHead& head) { head.state = HeadState::witnessed; }) == "audit-head");
    const StreamId closed = EditedStorage(*kv.storage).audit[EditedStorage(*kv.storage).rows_of(1).front()].record.stream;
    CHECK(found(closed, [](AuditHead& head) { head.state = HeadState::open; }) == "audit-head");
    EditedStorage invented(*kv.storage);
    invented.heads.push_back({Uuid::parse("01890000-0000-7000-8000-000000000001").value(), 3, {}, HeadState::open});
    CHECK(kinds_in(invented) == "audit-stream");
}

// Rows cut and the head set back to fit: only what was noted down elsewhere tells, or a later stream.
TEST_CASE("a tail cut together with its head is found by a later stream or by an anchor") {
    Fixture kv;
    do_everything(kv);
    restart(kv);
    for (int i = 0; i < 9; ++i) CHECK(kv.get("nobody/knows") == "!not-found");
    const AuditHead noted = kv.store->audit_heads().front();
    for (int i = 0; i < 9; ++i) CHECK(kv.get("nobody/knows") == "!not-found");
    const auto cut = [&](std::size_t stream, std::size_t rows) {
        EditedStorage edited(*kv.storage);
        const std::vector<std::size_t> all = edited.rows_of(stream);
        edited.erase(all[all.size() - rows], rows);
        const AuditRow& last = edited.audit[all[all.size() - rows - 1]];
        AuditHead& head = edited.head_of(last.record.stream);
        head.sequence = last.record.sequence;
        head.mac = last.mac;
        return edited;
    };
    VerifyOptions options;
    options.anchors.push_back(noted);
    options.anchors.push_back({crypto::make_uuid(kv.clock.now()), 0, {}, HeadState::open});  // of a stream not begun
    CHECK(kinds_in(*kv.storage, options) == "");
    EditedStorage closed = cut(0, 5);
    CHECK(kinds_in(closed).find("audit-stream") != std::string::npos);
    EditedStorage little = cut(1, 9);
    CHECK(kinds_in(little, options) == "");
    EditedStorage much = cut(1, 10);
    CHECK(kinds_in(much) == "");
    CHECK(kinds_in(much, options) == "anchor");
    // Whole streams, and another row in its place.
    EditedStorage all(*kv.storage);
    all.erase_stream(noted.stream, true);
    CHECK(kinds_in(all) == "");
    CHECK(kinds_in(all, options) == "anchor");
    options.anchors[0].mac[0] ^= 1;
    CHECK(kinds_in(*kv.storage, options) == "anchor");
    options.anchors[0].stream = crypto::make_uuid(kv.clock.now());
    CHECK(kinds_in(*kv.storage, options) == "anchor");
}

TEST_CASE("anchors of rows that retention took are held against its checkpoints") {
    Fixture kv;
    do_everything(kv);
    const AuditHead head = kv.store->audit_heads().front();
    VerifyOptions options;
    for (const AuditRow& row : EditedStorage(*kv.storage).audit) {
        options.anchors.push_back({head.stream, row.record.sequence, row.mac, HeadState::open});
    }
    kv.close();
    cut_log(*kv.storage, *kv.keys, head.sequence / 2);
    CHECK(verify_fault(*kv.storage, options) == "");
    VerifyOptions wrong;
    wrong.anchors.push_back({head.stream, head.sequence / 2, {}, HeadState::open});
    CHECK(kinds_in(*kv.storage, wrong) == "anchor");
    // All of the stream, and then what told of it.
    cut_log(*kv.storage, *kv.keys, head.sequence + 1);
    CHECK(verify_fault(*kv.storage, options) == "");
    kv.clock.pass(1h);
    kv.open();
    REQUIRE(kv.put("k", "v"));
    kv.close();
    EditedStorage all(*kv.storage);
    cut_log(*kv.storage, *kv.keys, all.audit[all.audit.size() - 3].position);
    auto keys = make_fixed_key(fixed_key());
    const VerifyReport report = verify(*kv.storage, *keys, options).value();
    CHECK(verify_fault(*kv.storage, options) == "");
    REQUIRE(report.notes.size() == 1);
    CHECK(report.notes[0].find("noted heads could not be checked") != std::string::npos);
}

TEST_CASE("a finding about an anchor tells of a new epoch") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    kv.close();
    VerifyOptions options;
    options.anchors.push_back({crypto::make_uuid(kv.clock.now()), 7, {}, HeadState::open});
    CHECK(verify_fault(*kv.storage, options).find("epoch") == std::string::npos);
    append_stream(kv, {make_record(system_actor(), {AuditAction::write, "store.new-epoch", {}}, kv.clock.now(), nullptr)});
    CHECK(verify_fault(*kv.storage, options).find("new epoch begun at 2024-01-15T10:00:00") != std::string::npos);
}

TEST_CASE("a new epoch is what every namespace goes on from") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    kv.close();
    AuditRecord record = make_record(system_actor(), {AuditAction::write, "store.new-epoch", {}}, kv.clock.now(), nullptr);
    record.version = 1000;
    append_stream(kv, {record});
    CHECK(kinds_in(*kv.storage) == "namespace-row namespace-set-back");
    NamespaceRow ns = kv.namespace_row();
    ns.version_base = 1000;
    ns.version = 1001;
    kv.tamper(change_namespace(ns));
    CHECK(verify_fault(*kv.storage) == "");
}

TEST_CASE("a store is sound after new epochs and on a restored copy") {
    Fixture kv;
    auto keys = make_fixed_key(fixed_key());
    do_everything(kv);
    change_namespaces(kv);
    kv.close();
    REQUIRE(begin_epoch(*kv.storage, *keys));
    CHECK(verify_fault(*kv.storage) == "");
    kv.open();
    do_everything(kv);
    std::string backup;
    {
        auto reader = open_backup(*kv.storage, *keys).value();
        while (reader->next(backup).value()) {
        }
    }
    const AuditHead noted = kv.store->audit_heads().front();
    kv.close();
    auto copy = make_memory_storage(kv.clock);
    const BackupSource source = [&]() -> Result<std::string> { return std::exchange(backup, {}); };
    REQUIRE(restore_backup(source, *copy, *keys));
    VerifyOptions options;
    options.anchors.push_back(noted);
    CHECK(verify_fault(*copy, options) == "");
    // What came after the backup is lost, and an anchor of that time tells.
    ++options.anchors[0].sequence;
    CHECK(verify_fault(*copy, options).find("the new epoch begun at") != std::string::npos);
    kv.storage = std::move(copy);
    kv.open();
    do_everything(kv);
    CHECK(verify_fault(*kv.storage) == "");
}

// ---- entries ----

TEST_CASE("an entry that was set back is found, after a patch too") {
    for (const Kind kind : {Kind::secret, Kind::plain, Kind::no_history}) {
        Fixture kv(kind);
        REQUIRE(kv.put("k", "one"));
        REQUIRE(kv.put("other", "one"));
        const EntryRow first = *kv.entry_row("k");
        REQUIRE(kv.put("k", "two"));
        const EntryRow second = *kv.entry_row("k");
        REQUIRE(kv.call(kv.patch_request("k", R"({"a":1})")));
        const EntryRow patched = *kv.entry_row("k");
        REQUIRE(kv.call(kv.delete_request("k")));
        CHECK(verify_fault(*kv.storage) == "");
        for (const EntryRow& old : {first, second, patched}) {
            kv.tamper(change_entry(old));
            CHECK(kinds_in(*kv.storage).find("entry-set-back") != std::string::npos);
            CHECK(audit_kinds_in(*kv.storage) == "entry-set-back");
        }
        REQUIRE(kv.call(kv.rollback_request("other", 1)) == (kind == Kind::no_history ? Errc::history_disabled : Errc::current_version));
        kv.tamper(change_entry(patched));
        kv.close();
        const std::string faults = verify_fault(*kv.storage);
        CHECK(faults.find("entry-set-back: entry k of namespace " + kv.ns.to_string() +
                          ", version 2: it was set back: version 3, its removal, is recorded") != std::string::npos);
    }
    Fixture kv;
    REQUIRE(kv.put("k", "one"));
    const EntryRow row = *kv.entry_row("k");
    REQUIRE(kv.call(kv.patch_request("k", R"({"a":1})")));
    kv.tamper(change_entry(row));
    CHECK(verify_fault(*kv.storage).find("it was set back to revision 1: revision 2 of the same version is recorded") != std::string::npos);
}

TEST_CASE("an entry changed or made outside the store is found") {
    Fixture kv(Kind::plain);
    REQUIRE(kv.put("k", "one"));
    REQUIRE(kv.put("k", "two"));
    const EntryRow right = *kv.entry_row("k");
    const auto found = [&](const std::function<void(EntryRow&)>& edit) {
        EntryRow row = right;
        edit(row);
        kv.tamper(change_entry(row));
        std::string kinds = kinds_in(*kv.storage);
        kv.tamper(change_entry(right));
        CHECK(kinds_in(*kv.storage) == "");
        return kinds;
    };
    CHECK(found([](EntryRow& row) { row.version = 3; }) == "entry-unaudited");
    CHECK(found([](EntryRow& row) { row.version = 1; }).find("entry-set-back") != std::string::npos);
    CHECK(found([](EntryRow& row) { row.revision = 3; }) == "entry-unaudited");
    CHECK(found([](EntryRow& row) { row.revision = 1; }) == "entry-set-back");
    CHECK(found([](EntryRow& row) { row.is_tombstone = true; }) == "entry-row");
    CHECK(found([](EntryRow& row) {
              row.is_tombstone = true;
              row.reason = Reason::delete_;
              row.value.clear();
          }) == "entry-row");
    CHECK(found([](EntryRow& row) { row.value_type = ValueType{}; }) == "entry-row");
    EntryRow made = right;
    made.id = crypto::make_uuid(kv.clock.now());
    made.key_path = "made";
    kv.tamper(change_entry(made));
    CHECK(kinds_in(*kv.storage) == "entry-unaudited");
}

TEST_CASE("entries that were moved or removed are found") {
    Fixture kv(Kind::plain);
    for (const char* key : {"a", "b", "c"}) REQUIRE(kv.put(key, "v"));
    const EntryRow a = *kv.entry_row("a");
    EntryRow moved = a;
    moved.key_path = "moved";
    kv.tamper(change_entry(moved));
    CHECK(kinds_in(*kv.storage) == "entry-row");
    Changeset gone;
    gone.erase_entries.push_back(a.id);
    kv.tamper(gone);
    CHECK(verify_fault(*kv.storage) == "entry-missing: entry a of namespace " + kv.ns.to_string() +
                                           ", version 1: it is missing, though no removal of it is recorded; its last change is recorded at audit position 3\n");
    CHECK(audit_kinds_in(*kv.storage) == "entry-missing");
    // Another in its place.
    EntryRow other = a;
    other.id = crypto::make_uuid(kv.clock.now());
    kv.tamper(change_entry(other));
    CHECK(kinds_in(*kv.storage) == "entry-missing entry-unaudited");
    // What a deletion leaves may go only when the namespace knows how high its versions were.
    REQUIRE(kv.call(kv.delete_request("b")));
    Changeset forgotten;
    forgotten.erase_entries.push_back(kv.entry_row("b")->id);
    forgotten.erase_entries.push_back(other.id);
    kv.tamper(forgotten);
    kv.tamper(change_entry(a));
    CHECK(kinds_in(*kv.storage) == "entry-missing version-row");
    NamespaceRow ns = kv.namespace_row();
    ns.version_floor = 2;
    kv.tamper(change_namespace(ns));
    CHECK(kinds_in(*kv.storage) == "version-row");  // its history is there yet
}

// ---- values ----

TEST_CASE("sealed values that were edited or changed places are found") {
    Fixture kv;
    for (const char* key : {"a", "b"}) {
        REQUIRE(kv.put(key, "one"));
        REQUIRE(kv.put(key, "two"));
    }
    const NamespaceId other = kv.make_namespace("other", Kind::secret);
    const NamespaceId mine = std::exchange(kv.ns, other);
    REQUIRE(kv.put("a", "one"));
    const EntryRow elsewhere = *kv.entry_row("a");
    kv.ns = mine;
    const EntryRow a = *kv.entry_row("a");
    const EntryRow b = *kv.entry_row("b");
    const VersionRow a1 = kv.archived(a.id).front();
    const auto found = [&](const std::function<void(EntryRow&)>& edit) {
        EntryRow row = a;
        edit(row);
        kv.tamper(change_entry(row));
        std::string kinds = kinds_in(*kv.storage);
        kv.tamper(change_entry(a));
        CHECK(kinds_in(*kv.storage) == "");
        return kinds;
    };
    for (std::size_t i = 0; i < a.value.size(); i += 3) {
        CHECK(found([&](EntryRow& row) { row.value[i] = static_cast<char>(row.value[i] ^ 1); }) == "sealed-value");
    }
    CHECK(found([&](EntryRow& row) { row.value = b.value; }) == "sealed-value");
    CHECK(found([&](EntryRow& row) { row.value = a1.value; }) == "sealed-value");
    CHECK(found([&](EntryRow& row) { row.value = elsewhere.value; }) == "sealed-value");
    CHECK(found([&](EntryRow& row) { row.value.clear(); }) == "sealed-value");
    CHECK(found([&](EntryRow& row) { row.value_type = ValueType::json; }) == "sealed-value");
    CHECK(found([&](EntryRow& row) { row.key_generation = 2; }) == "sealed-value");
    CHECK(found([&](EntryRow& row) {
              row.key_generation = 0;
              row.value = "planted";
          }) == "unsealed-value");
    const auto found_version = [&](const std::function<void(VersionRow&)>& edit) {
        VersionRow row = a1;
        edit(row);
        const auto swap_in = [&](const VersionRow& version) {
            Changeset erase;
            erase.erase_versions.push_back({a.id, 1, 9});
            kv.tamper(erase);
            Changeset insert;
            insert.versions.push_back(version);
            kv.tamper(insert);
        };
        swap_in(row);
        std::string kinds = kinds_in(*kv.storage);
        swap_in(a1);
        CHECK(kinds_in(*kv.storage) == "");
        return kinds;
    };
    CHECK(found_version([&](VersionRow& row) { row.value[20] ^= 1; }) == "sealed-value");
    CHECK(found_version([&](VersionRow& row) { row.value = a.value; }) == "sealed-value");
    CHECK(found_version([&](VersionRow& row) { row.key_generation = 0; }) == "unsealed-value");
    CHECK(found_version([&](VersionRow& row) { row.is_tombstone = true; }) == "version-row");
    CHECK(found_version([&](VersionRow& row) { row.version = 2; }) == "version-row");
    CHECK(found_version([&](VersionRow& row) { row.version = 3; }) == "version-row");
    CHECK(found_version([&](VersionRow& row) { row.ns = other; }) == "version-row");
    CHECK(found_version([&](VersionRow& row) { row.value_type = ValueType::json; }) == "sealed-value");
    // A history without its entry.
    Changeset gone;
    gone.erase_entries.push_back(a.id);
    kv.tamper(gone);
    CHECK(kinds_in(*kv.storage) == "entry-missing version-row");
}

TEST_CASE("a report tells no value") {
    Fixture kv;
    REQUIRE(kv.put("k", "h1dden-w0rd"));
    EntryRow row = *kv.entry_row("k");
    row.value = "planted-w0rd";
    row.key_generation = 0;
    kv.tamper(change_entry(row));
    CHECK(verify_fault(*kv.storage) != "");
    CHECK(verify_fault(*kv.storage).find("w0rd") == std::string::npos);
}

// ---- namespaces and keys ----

TEST_CASE("namespace rows that were edited are found") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    const NamespaceRow before_update = kv.namespace_row();
    UpdateNamespace update;
    update.ns = kv.ns;
    update.description = std::optional<std::string>("x");
    REQUIRE(kv.call(update));
    const NamespaceRow right = kv.namespace_row();
    const auto found = [&](const std::function<void(NamespaceRow&)>& edit) {
        NamespaceRow row = right;
        edit(row);
        kv.tamper(change_namespace(row));
        std::string kinds = kinds_in(*kv.storage);
        kv.tamper(change_namespace(right));
        CHECK(kinds_in(*kv.storage) == "");
        return kinds;
    };
    CHECK(found([](NamespaceRow& row) { row.application_id = "other"; }) == "key-row namespace-row");
    CHECK(found([](NamespaceRow& row) { row.is_secret = false; }) == "namespace-row");
    CHECK(found([](NamespaceRow& row) { row.sealing = true; }) == "namespace-row");
    CHECK(found([](NamespaceRow& row) { row.key_generation = 2; }).find("key-row") != std::string::npos);
    CHECK(found([](NamespaceRow& row) { row.mac[0] ^= 1; }) == "namespace-row");
    CHECK(found([](NamespaceRow& row) { row.version = 3; }) == "namespace-unaudited");
    CHECK(found([&](NamespaceRow& row) { row = before_update; }) == "namespace-set-back");
    CHECK(found([](NamespaceRow& row) { row.revision = 0; }) == "revision");
    CHECK(found([](NamespaceRow& row) { row.revision = 2; }) == "revision");
    CHECK(found([&](NamespaceRow& row) { row.deleted_at = kv.clock.now(); }) == "namespace-row");
    CHECK(found([&](NamespaceRow& row) { row.version_base = 1; }) == "namespace-row");
    // One of somebody's own, one that is gone, and one whose deletion was undone.
    const NamespaceId other = kv.make_namespace("other", Kind::plain);
    DeleteNamespace remove;
    remove.ns = other;
    REQUIRE(kv.call(remove));
    NamespaceRow deleted = kv.namespace_row(other);
    deleted.deleted_at.reset();
    kv.tamper(change_namespace(deleted));
    CHECK(kinds_in(*kv.storage) == "namespace-row");
    Changeset gone;
    gone.erase_namespaces.push_back(other);
    kv.tamper(gone);
    CHECK(kinds_in(*kv.storage) == "namespace-missing");
    CHECK(audit_kinds_in(*kv.storage) == "namespace-missing");
    kv.tamper(change_namespace(deleted));
    NamespaceRow made = deleted;
    made.id = crypto::make_uuid(kv.clock.now());
    made.name = "made";
    made.mac = kv.vault->namespace_mac(made);
    kv.tamper(change_namespace(made));
    CHECK(kinds_in(*kv.storage) == "namespace-row namespace-unaudited");
}

TEST_CASE("revisions that were used twice are found") {
    Fixture kv(Kind::plain);
    REQUIRE(kv.put("a", "v"));
    REQUIRE(kv.put("b", "v"));
    kv.close();
    // As if the store had been set back, and had gone on from there.
    NamespaceRow ns = kv.namespace_row();
    ns.revision = 1;
    kv.tamper(change_namespace(ns));
    CHECK(kinds_in(*kv.storage) == "revision");
    EntryRow row = *kv.entry_row("b");
    AuditRecord record = make_record(system_actor(), {AuditAction::write, "entry.put", "c"}, kv.clock.now(), &ns);
    record.entry_id = row.id = crypto::make_uuid(kv.clock.now());
    row.key_path = "c";
    record.version = row.version;
    record.revision = ns.revision = 2;
    append_stream(kv, {record});
    kv.tamper(change_entry(row));
    kv.tamper(change_namespace(ns));
    CHECK(verify_fault(*kv.storage) == "revision: namespace " + kv.ns.to_string() +
                                           ": changes in it are recorded twice: behind revision 2 comes revision 2, at audit position 6\n");
}

TEST_CASE("entries of a namespace that is gone are found") {
    Fixture kv(Kind::plain);
    REQUIRE(kv.put("k", "v"));
    Changeset gone;
    gone.erase_namespaces.push_back(kv.ns);
    kv.tamper(gone);
    CHECK(kinds_in(*kv.storage) == "entry-row namespace-missing");
}

TEST_CASE("key rows that were edited or are missing are found") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    kv.make_namespace("other", Kind::secret);
    kv.close();
    const std::vector<KeyRow> right = key_rows(*kv.storage);
    REQUIRE(right.size() == 7);
    const std::vector<std::function<void(KeyRow&)>> edits = {
        [](KeyRow& row) { row.wrap[5] ^= 1; },
        [](KeyRow& row) { row.wrap.clear(); },
        [](KeyRow& row) { row.wrap_key_id = "0123456789abcdef"; },
        [](KeyRow& row) { row.commitment[5] ^= 1; },
        [](KeyRow& row) { row.application_id += "x"; },
    };
    for (const KeyRow& row : right) {
        for (std::size_t edit = 0; edit < edits.size(); ++edit) {
            KeyRow edited = row;
            edits[edit](edited);
            Changeset changes;
            changes.keys.push_back(edited);
            kv.tamper(changes);
            CAPTURE(static_cast<int>(row.purpose));
            CAPTURE(edit);
            CHECK(kinds_in(*kv.storage).find("key-row") != std::string::npos);
            changes.keys = {row};
            kv.tamper(changes);
        }
        Changeset gone;
        gone.erase_keys.push_back({row.purpose, row.ns, row.generation});
        kv.tamper(gone);
        CHECK(kinds_in(*kv.storage).find("key-row") != std::string::npos);
        Changeset back;
        back.keys.push_back(row);
        kv.tamper(back);
    }
    CHECK(kinds_in(*kv.storage) == "");
    // Of one namespace for another, and of a generation nobody had.
    for (const bool is_other : {false, true}) {
        KeyRow planted = right.back();
        (is_other ? planted.ns.bytes[15] : planted.ns.bytes[0]) ^= 1;
        planted.generation = is_other ? 1 : 7;
        Changeset changes;
        changes.keys.push_back(planted);
        kv.tamper(changes);
        CHECK(kinds_in(*kv.storage) == "key-row");
        changes = {};
        changes.erase_keys.push_back({planted.purpose, planted.ns, planted.generation});
        kv.tamper(changes);
    }
    // A wrap that nobody here can open is told, not held against the store.
    KeyRow second = right.back();
    second.second_wrap_key_id = "0123456789abcdef";
    second.second_wrap = second.wrap;
    Changeset changes;
    changes.keys.push_back(second);
    kv.tamper(changes);
    auto keys = make_fixed_key(fixed_key());
    const VerifyReport report = verify(*kv.storage, *keys, {}).value();
    CHECK(report.is_sound());
    CHECK(report.notes.size() == 1);
}

TEST_CASE("another master key is told from a damaged store") {
    Fixture kv;
    auto other = make_fixed_key(generate_master_key());
    CHECK(verify(*kv.storage, *other, {}) == Errc::wrong_key);
    CHECK(export_audit_key(*kv.storage, *other) == Errc::wrong_key);
}

// ---- the auditor ----

TEST_CASE("the audit key alone proves the log and the versions, and opens nothing") {
    Fixture kv;
    do_everything(kv);
    kv.close();
    auto keys = make_fixed_key(fixed_key());
    const SecretBytes audit_key = export_audit_key(*kv.storage, *keys).value();
    CHECK(audit_key.size() == 32);
    CHECK(audit_key.reveal() != fixed_key().reveal());
    const VerifyReport report = verify_audit(*kv.storage, audit_key, {}).value();
    CHECK(report.is_sound());
    CHECK(report.values_opened == 0);
    CHECK(report.entries > 0);
    CHECK(report.audit_rows > 0);
    CHECK(report.notes.size() == 1);
    auto as_master = make_fixed_key(audit_key);
    CHECK(verify(*kv.storage, *as_master, {}) == Errc::wrong_key);
    CHECK(verify_audit(*kv.storage, generate_master_key(), {}) == Errc::wrong_key);
    CHECK(verify_audit(*kv.storage, SecretBytes("short"), {}) == Errc::invalid_request);
    // The rows prove a key that its own row does not vouch for any more.
    std::vector<KeyRow> rows = kv.storage->internal_keys().value();
    for (KeyRow& row : rows) {
        if (row.purpose != KeyPurpose::audit) continue;
        row.commitment = {};
        Changeset changes;
        changes.keys.push_back(row);
        kv.tamper(changes);
    }
    CHECK(verify_audit(*kv.storage, audit_key, {}).value().findings.front().kind == "key-row");
    CHECK(export_audit_key(*kv.storage, *keys) == Errc::integrity);
}

// ---- the run itself ----

TEST_CASE("a verification that is cancelled says so") {
    Fixture kv;
    REQUIRE(kv.put("k", "v"));
    auto keys = make_fixed_key(fixed_key());
    for (const std::string_view stage : {"keys", "namespaces", "audit", "entries", "versions"}) {
        VerifyOptions options;
        options.progress = [&](const VerifyProgress& progress) { return progress.stage != stage; };
        CHECK(verify(*kv.storage, *keys, options) == Errc::invalid_state);
    }
}

TEST_CASE("however many findings there are, the first of each kind is in the report") {
    Fixture kv;
    for (int i = 0; i < 50; ++i) REQUIRE(kv.put("k" + std::to_string(100 + i), "v"));
    kv.close();
    for (int i = 0; i < 50; ++i) {
        EntryRow row = *kv.entry_row("k" + std::to_string(100 + i));
        if (i == 49) {
            row.version = 2;
        } else {
            row.value[30] ^= 1;
        }
        kv.tamper(change_entry(row));
    }
    auto keys = make_fixed_key(fixed_key());
    VerifyOptions options;
    options.findings_max = 3;
    const VerifyReport report = verify(*kv.storage, *keys, options).value();
    CHECK(report.findings_total == 51);
    REQUIRE(report.findings.size() == 4);
    CHECK(report.findings[0].kind == "sealed-value");
    CHECK(report.findings[0].key_path == "k100");
    CHECK(report.findings[0].ns == kv.ns);
    CHECK(report.findings[0].version == 1);
    CHECK(report.findings[3].kind == "entry-unaudited");
}

TEST_CASE("what is shown of a row forges no line") {
    using verification::printable;
    CHECK(printable("database/höst") == "database/höst");
    CHECK(printable("a\nb\x1b[2J\x7f") == "a\\x0ab\\x1b[2J\\x7f");
    CHECK(printable("\xc2\x9b\xc2\xa0\xff\xc3") == "\\xc2\\x9b\xc2\xa0\\xff\\xc3");
    CHECK(printable(std::string(5000, 'x')).size() < 700);
    CHECK(is_valid_utf8(printable(std::string(599, 'x') + "ä" + std::string(50, 'y'))));
    CHECK(printable("") == "");
}

// ---- anchors ----

TEST_CASE("heads are read from kvd's log, text or JSON, whatever stands around them") {
    const std::string id = "018d0c7e-1234-7abc-8def-0123456789ab";
    const std::string mac = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const std::string text = "2024-01-15T10:00:00.000Z info audit-head stream=" + id + " sequence=17 mac=" + mac;
    const std::string json = R"({"time":"2024-01-15T10:00:00.000Z","level":"info","message":"audit-head","stream":")" + id +
                             R"(","sequence":"18","mac":")" + mac + R"("})";
    const auto numbers = [](std::string_view log) {
        std::string out;
        for (const AuditHead& head : parse_anchors(log)) out += std::to_string(head.sequence) + " ";
        return out;
    };
    CHECK(numbers(text) == "17 ");
    CHECK(numbers(json) == "18 ");
    const AuditHead head = parse_anchors(text + "\r\n").at(0);
    CHECK(head.stream.to_string() == id);
    CHECK(hex_encode({reinterpret_cast<const char*>(head.mac.data()), head.mac.size()}) == mac);
    CHECK(numbers("Jan 15 host kvd[7]: " + text + "\nnothing\n" + json + "\n\n" + text) == "17 18 17 ");
    // Wrapped up in the JSON of a collector, and with a bare number.
    CHECK(numbers(R"({"log":"2024 info audit-head stream=)" + id + " sequence=19 mac=" + mac + R"(\n","stream":"stderr"})") == "19 ");
    CHECK(numbers(R"({"log":"{\"message\":\"audit-head\",\"stream\":\")" + id + R"(\",\"sequence\":\"20\",\"mac\":\")" + mac + R"(\"}"})") == "20 ");
    CHECK(numbers(R"({"message": "audit-head", "stream": ")" + id + R"(", "sequence": 21, "mac": ")" + mac + R"("})") == "21 ");
    for (const std::string& wrong : {text.substr(0, text.size() - 1), text + "0", "audit-head stream=" + id, std::string("audit-head"),
                                     "audit-head stream=" + id + " sequence= mac=" + mac, "audit-head stream= sequence=1 mac=" + mac,
                                     "audit-head stream=" + id + " sequence=99999999999999999999 mac=" + mac}) {
        CHECK(numbers(wrong) == "");
    }
    std::mt19937 random(7);
    std::string garbage = text + "\n" + json + "\n" + text;
    for (int round = 0; round < 20'000; ++round) {
        std::string changed = garbage;
        for (int i = 0; i < 4; ++i) changed[random() % changed.size()] = static_cast<char>(random());
        CHECK(parse_anchors(std::string_view(changed).substr(random() % changed.size())).size() <= 3);
    }
}
