#include "backup.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <thread>
#include <tuple>

#include "libkv/backup_fixture.h"

using namespace kv;
using namespace kv::test;
using namespace std::chrono_literals;

namespace {

// Neither a store nor anything that would be taken for an empty place.
bool is_worthless(Storage& storage, SettableClock& clock) {
    if (storage.get_meta().value().empty() && storage.internal_keys().value().empty()) return true;
    Faults faults;
    Options options;
    options.keys = right_key();
    options.clock = &clock;
    return Store::open(std::make_unique<FaultStorage>(storage, faults), options) == Errc::invalid_state;
}

// ---- every row of every table ----

auto members(const KeyRow& row) {
    auto& [a, b, c, d, e, f, g, h, i, j] = row;
    return std::tie(a, b, c, d, e, f, g, h, i, j);
}
auto members(const MetaRow& row) { return std::tie(row.name, row.value); }
auto members(const NamespaceRow& row) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w] = row;
    return std::tie(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w);
}
auto members(const EntryRow& row) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v] = row;
    return std::tie(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v);
}
auto members(const VersionRow& row) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = row;
    return std::tie(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r);
}
auto members(const EventRow& row) {
    auto& [a, b, c, d, e, f, g, h] = row;
    return std::tie(a, b, c, d, e, f, g, h);
}
auto members(const AuditRow& row) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = row.record;
    return std::tie(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, row.mac);
}
auto members(const TokenRow& row) {
    auto& [a, b, c, d, e, f, g, h, i, j] = row;
    return std::tie(a, b, c, d, e, f, g, h, i, j);
}
auto members(const AuditHead& row) { return std::tie(row.stream, row.sequence, row.mac, row.state); }

template <class Row>
bool same(const std::vector<Row>& left, const std::vector<Row>& right) {
    return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                      [](const Row& a, const Row& b) { return members(a) == members(b); });
}

struct Tables {
    std::vector<KeyRow> keys;
    std::vector<MetaRow> meta;
    std::vector<NamespaceRow> namespaces;
    std::vector<EntryRow> entries;
    std::vector<VersionRow> versions;
    std::vector<EventRow> events;
    std::vector<AuditRow> audit;
    std::vector<AuditHead> heads;
    std::vector<TokenRow> tokens;
};

Tables read_tables(Storage& storage) {
    constexpr std::size_t all = 1'000'000;
    Tables tables;
    tables.keys = storage.walk_keys({.limit = all}).value();
    tables.meta = storage.get_meta().value();
    NamespaceRange range;
    range.deleted = NamespaceRange::Deleted::both;
    range.limit = all;
    tables.namespaces = storage.scan_namespaces(range).value();
    tables.entries = storage.walk_entries({.limit = all, .bytes = 1u << 30}).value();
    tables.versions = storage.walk_versions({.limit = all, .bytes = 1u << 30}).value();
    tables.events = storage.walk_events({.limit = all}).value();
    AuditRange audit;
    audit.newest_first = false;
    audit.limit = audit.walk = all;
    tables.audit = storage.scan_audit(audit).value().rows;
    tables.heads = storage.walk_audit_heads({.limit = all}).value();
    tables.tokens = storage.scan_tokens({.limit = all}).value();
    return tables;
}

// Leaves out what a new epoch changes; test cases of their own look at that.
void forget_epoch(Tables& tables, std::size_t audit_rows) {
    std::erase_if(tables.meta, [](const MetaRow& row) {
        return row.name == "epoch" || row.name == "version_base" || row.name == "backup.last" || row.name.starts_with("storage.");
    });
    std::sort(tables.meta.begin(), tables.meta.end(), [](const MetaRow& a, const MetaRow& b) { return a.name < b.name; });
    for (NamespaceRow& row : tables.namespaces) row.version = row.version_base = row.revision = 0;
    tables.audit.resize(std::min(audit_rows, tables.audit.size()));
    const auto stands_in_audit = [&](const AuditHead& head) {
        return std::any_of(tables.audit.begin(), tables.audit.end(), [&](const AuditRow& row) { return row.record.stream == head.stream; });
    };
    std::erase_if(tables.heads, [&](const AuditHead& head) { return !stands_in_audit(head); });
    for (AuditHead& head : tables.heads) head.state = HeadState::witnessed;
}

void check_same(Tables left, Tables right) {
    const std::size_t audit_rows = left.audit.size();
    REQUIRE(right.audit.size() >= audit_rows);
    forget_epoch(left, audit_rows);
    forget_epoch(right, audit_rows);
    CHECK(same(left.keys, right.keys));
    CHECK(same(left.meta, right.meta));
    CHECK(same(left.namespaces, right.namespaces));
    CHECK(same(left.entries, right.entries));
    CHECK(same(left.versions, right.versions));
    CHECK(same(left.events, right.events));
    CHECK(same(left.audit, right.audit));
    CHECK(same(left.heads, right.heads));
    CHECK(same(left.tokens, right.tokens));
}

Uuid id_of(std::uint8_t n) {
    Uuid id;
    id.bytes.fill(n);
    return id;
}

Mac mac_of(std::uint8_t n) {
    Mac mac;
    mac.fill(n);
    return mac;
}

Time at(std::int64_t micros) { return Time(std::chrono::microseconds(micros)); }

// One row of each table with something else in every member, as no store would write them.
Changeset strange_rows() {
    const std::string bytes("\0\xff\x80 text", 8);
    Changeset changes;
    changes.keys.push_back({KeyPurpose::data, id_of(1), 7, "app\n", at(3), "first", bytes, "second", bytes + "2", mac_of(9)});
    changes.meta.push_back({"something", "else"});
    changes.namespaces.push_back({id_of(1), "app", "strange", "d\xc3\xa9", true, true, 5, false, 6, true, 17, 18, 19, 20, 21, 0, at(22),
                                  at(-23), "cb", at(24), "ub", at(25), mac_of(8)});
    changes.entries.push_back({id_of(2), id_of(1), "a/b", true, bytes, ValueType::json, 31, 32, 33, Reason::expiry, "comment", 34, 35,
                               at(36), "{\"m\":1}", 37, at(38), at(39), "c", at(40), "u", "r"});
    changes.versions.push_back({id_of(2), id_of(1), "", 31, true, bytes, ValueType::binary, 41, 42, Reason::rollback, "why", 43, 44,
                                at(45), "{\"m\":2}", at(46), "by", "req"});
    changes.events.push_back({id_of(1), 51, id_of(2), "a/b", EventKind::touched, 52, at(53), "user"});
    AuditRow row;
    row.record = {id_of(3), 1, at(61), id_of(1), id_of(2), "k", AuditAction::rotate, "op", "user", "cred", "app", "peer", "req",
                  true, "reason", 62, 63, 64};
    row.mac = mac_of(7);
    changes.audit.push_back(row);
    changes.tokens.push_back({id_of(4), mac_of(5), "name\n", "user", "no grants", at(71), "cb", at(72), at(-73), mac_of(6)});
    changes.tokens.push_back({id_of(5), mac_of(1), "", "", "[]", at(0), "", {}, {}, mac_of(0)});
    changes.heads.push_back({{id_of(3), 0, {}, HeadState::open}, {id_of(3), 1, mac_of(7), HeadState::closed}});
    return changes;
}

// A bit of everything that a store does.
void fill(Fixture& kv, int entries) {
    for (int i = 0; i < entries; ++i) {
        const std::string key = "k/" + std::to_string(i);
        REQUIRE(kv.put(key, "one " + std::to_string(i)));
        if (i % 2 == 0) REQUIRE(kv.put(key, std::string(static_cast<std::size_t>(i) * 40, 'x'), Ttl::after(3600)));
        if (i % 5 == 0) REQUIRE(kv.call(kv.delete_request(key)));
        if (i % 7 == 0) REQUIRE(kv.call(kv.patch_request("k/" + std::to_string(i / 7 + 1), "{\"a\":1}")).has_value() == (i / 7 + 1 <= i && (i / 7 + 1) % 5 != 0));
    }
    kv.make_namespace("plain", Kind::plain);
    kv.make_namespace("bare", Kind::no_history);
    const NamespaceId gone = kv.make_namespace("gone", Kind::secret);
    DeleteNamespace remove;
    remove.ns = gone;
    REQUIRE(kv.call(remove));
}

}  // namespace

TEST_CASE("a backup brings back every row of every table, into any storage") {
    const Folder folder;
    Fixture kv;
    fill(kv, 700);
    kv.tamper(strange_rows());
    kv.close();
    const std::string bytes = take_backup(*kv.storage);

    const auto copy = make_memory_storage(kv.clock);
    const auto info = restore(bytes, *copy, 7);
    REQUIRE_MESSAGE(info, info.error().message);
    check_same(read_tables(*kv.storage), read_tables(*copy));

    const auto file = make_sqlite(folder.path + "/kv.db", kv.clock);
    REQUIRE(restore(bytes, *file, bytes.size()));
    check_same(read_tables(*kv.storage), read_tables(*file));
    const auto back = make_memory_storage(kv.clock);
    REQUIRE(restore(take_backup(*file), *back));
    check_same(read_tables(*kv.storage), read_tables(*back));
    check_same(read_tables(*file), read_tables(*back));

    const Tables tables = read_tables(*kv.storage);
    CHECK(info->format == 2);
    CHECK(info->key_ids == std::vector<std::string>{master_key_id(fixed_key())});
    CHECK(info->namespaces == tables.namespaces.size());
    CHECK(info->plain_namespaces == 3);  // "plain", "bare", and the strange one, which is being sealed
    CHECK(info->entries == tables.entries.size());
    CHECK(info->versions == tables.versions.size());
    CHECK(info->audit_rows == tables.audit.size());
    CHECK(info->bytes == bytes.size());
    CHECK(info->taken_at == kv.clock.now());
}

TEST_CASE("a restored store serves what the backup held") {
    Fixture kv;
    REQUIRE(kv.put("a", "one"));
    REQUIRE(kv.put("a", "two"));
    const std::string bytes = take_backup(*kv.storage);
    REQUIRE(kv.put("a", "three"));
    Reopened copy(kv, kv.clock.now(), bytes);
    CHECK(copy.info.epoch == kv.store->epoch());
    CHECK(copy.store->epoch() != kv.store->epoch());
    CHECK(copy.get("a") == "two");
    CHECK(copy.get("a", 1) == "one");
    CHECK(copy.get("a", 3) == "!not-found");
    REQUIRE(copy.put("a", "four"));
    CHECK(copy.get("a") == "four");
    copy.close();
    CHECK(findings(*copy.storage) == "");
    CHECK(audit_fault(*copy.storage, *copy.keys) == "");
}

TEST_CASE("a backup comes in pieces of bounded size, also where values are large") {
    Fixture kv;
    for (int i = 0; i < 8; ++i) REQUIRE(kv.put("large" + std::to_string(i), std::string(1u << 20, 'v')));
    for (int i = 0; i < 3000; ++i) REQUIRE(kv.put("small" + std::to_string(i), "v"));
    auto reader = *open_backup(*kv.storage, *right_key());
    std::size_t largest = 0;
    std::uint64_t total = 0;
    for (bool more = true; more;) {
        std::string piece;
        more = reader->next(piece).value();
        largest = std::max(largest, piece.size());
        total += piece.size();
    }
    CHECK(largest < (1u << 20) + (192u << 10));
    CHECK(reader->info().bytes == total);
    std::string nothing;
    CHECK(reader->next(nothing).value() == false);
    CHECK(nothing.empty());
}

TEST_CASE("a backup that is taken while others write is one consistent moment") {
    const Folder folder;
    for (const bool on_disk : {false, true}) {
        CAPTURE(on_disk);
        Fixture kv(Kind::secret, {}, [&](Clock& clock) {
            return on_disk ? make_sqlite(folder.path + "/load.db", clock) : make_memory_storage(clock);
        });
        std::atomic<bool> ends{false};
        std::atomic<int> puts{0};
        std::vector<std::thread> writers;
        for (int writer = 0; writer < 4; ++writer) {
            writers.emplace_back([&, writer] {
                for (int i = 0; !ends; ++i) {
                    const std::string key = std::to_string(writer) + "/" + std::to_string(i % 400);
                    auto request = kv.put_request(key, key + " " + std::to_string(i));
                    if (kv.store->call(kv.actor, std::move(request))) ++puts;
                }
            });
        }
        REQUIRE(eventually([&] { return puts > 400; }));
        auto reader = *kv.store->backup(kv.actor);
        std::string bytes;
        for (bool more = true; more;) {
            more = reader->next(bytes).value();
            const int before = puts;
            REQUIRE(eventually([&] { return puts > before; }));
        }
        reader.reset();
        ends = true;
        for (std::thread& writer : writers) writer.join();

        Reopened copy(kv, kv.clock.now(), bytes);
        copy.close();
        CHECK(findings(*copy.storage) == "");
        CHECK(audit_fault(*copy.storage, *copy.keys) == "");
        const Tables tables = read_tables(*copy.storage);
        std::map<EntryId, std::uint64_t> audited;
        for (const AuditRow& row : tables.audit) {
            if (row.record.operation == "entry.put") audited[*row.record.entry_id] = *row.record.version;
        }
        CHECK(audited.size() == tables.entries.size());
        std::size_t opened = 0;
        for (const EntryRow& row : tables.entries) {
            CHECK(audited[row.id] == row.version);
            const auto value = copy.vault->open(*copy.storage, copy.namespace_row(row.ns), row);
            REQUIRE(value);
            if (std::string(value->reveal()).starts_with(row.key_path + " ")) ++opened;
        }
        CHECK(opened == tables.entries.size());
        CHECK(tables.events.size() == tables.events.back().revision);
        CHECK(tables.entries.size() < static_cast<std::size_t>(puts));
    }
}

// ---- what is no good ----

TEST_CASE("a backup with any byte changed is refused, and leaves no store") {
    Fixture kv;
    REQUIRE(kv.put("a", "one"));
    REQUIRE(kv.put("a", "two"));
    kv.close();
    const std::string bytes = take_backup(*kv.storage);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        CAPTURE(i);
        std::string changed = bytes;
        changed[i] = static_cast<char>(changed[i] ^ (1 << i % 8));
        const auto target = make_memory_storage(kv.clock);
        const auto restored = restore(changed, *target, 100'000);
        REQUIRE_FALSE(restored);
        const bool is_format = i == backup::magic.size();
        REQUIRE((restored == Errc::integrity || (is_format && restored == Errc::newer_schema)));
        REQUIRE(is_worthless(*target, kv.clock));
    }
}

TEST_CASE("a backup that was cut short anywhere is refused, and leaves no store") {
    Fixture kv;
    REQUIRE(kv.put("a", "one"));
    kv.close();
    const std::string bytes = take_backup(*kv.storage);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        CAPTURE(size);
        const auto target = make_memory_storage(kv.clock);
        REQUIRE(restore(bytes.substr(0, size), *target, 100'000) == Errc::integrity);
        REQUIRE(is_worthless(*target, kv.clock));
    }
    const auto target = make_memory_storage(kv.clock);
    CHECK(restore(bytes + '\0', *target) == Errc::integrity);
    CHECK(is_worthless(*target, kv.clock));
}

namespace {

// Where chunks begin, and where the last one ends.
std::vector<std::size_t> chunk_places(const std::string& bytes) {
    std::size_t place = bytes.find('\n') + 1;
    place += 4 + BytesReader(std::string_view(bytes).substr(place)).u32() + backup::checksum_bytes;
    std::vector<std::size_t> places;
    while (place < bytes.size()) {
        places.push_back(place);
        place += backup::chunk_head_bytes + BytesReader(std::string_view(bytes).substr(place + 5)).u32() + backup::checksum_bytes;
    }
    places.push_back(place);
    return places;
}

// Changes a chunk so that its checksum is right all the same.
std::string forge(const std::string& bytes, std::size_t chunk, const std::function<void(std::string&)>& change) {
    const auto places = chunk_places(bytes);
    std::string forged = bytes.substr(places[chunk], places[chunk + 1] - places[chunk] - backup::checksum_bytes);
    change(forged);
    forged += backup::checksum(forged);
    return bytes.substr(0, places[chunk]) + forged + bytes.substr(places[chunk + 1]);
}

}  // namespace

TEST_CASE("chunks that were swapped, repeated or left out are noticed, and so are forged ones") {
    Fixture kv(Kind::plain);
    for (int i = 0; i < 2000; ++i) REQUIRE(kv.put("k" + std::to_string(i), "value"));
    kv.close();
    const std::string bytes = take_backup(*kv.storage);
    const auto places = chunk_places(bytes);
    REQUIRE(places.size() > 12);
    const auto chunk = [&](std::size_t i) { return bytes.substr(places[i], places[i + 1] - places[i]); };
    const std::size_t last = places.size() - 2;
    for (std::size_t i = 0; i + 1 < last; ++i) {
        CAPTURE(i);
        const std::string before = bytes.substr(0, places[i]);
        const std::string after = bytes.substr(places[i + 2]);
        for (const std::string& middle : {chunk(i + 1) + chunk(i), chunk(i) + chunk(i) + chunk(i + 1), chunk(i), chunk(i + 1), std::string()}) {
            const auto target = make_memory_storage(kv.clock);
            const auto restored = restore(before + middle + after, *target);
            REQUIRE(restored == Errc::integrity);
            REQUIRE(is_worthless(*target, kv.clock));
        }
    }
    // One value of an entry, where only the MAC can tell.
    std::size_t forged = 0;
    for (std::size_t i = 0; i < last; ++i) {
        if (chunk(i).find("value") == std::string::npos) continue;
        ++forged;
        const auto target = make_memory_storage(kv.clock);
        const auto restored = restore(forge(bytes, i, [](std::string& text) { text.replace(text.find("value"), 5, "other"); }), *target);
        REQUIRE(restored == Errc::integrity);
        CHECK(restored.error().message == "The backup is damaged: it is not what the store wrote.");
        CHECK(is_worthless(*target, kv.clock));
    }
    CHECK(forged > 1);
}

TEST_CASE("a newer format and rows of an unknown kind ask for a newer version") {
    Fixture kv;
    kv.close();
    const std::string bytes = take_backup(*kv.storage);
    const auto target = make_memory_storage(kv.clock);
    std::string newer = bytes;
    newer.replace(0, backup::magic.size() + 1, "kv-backup 3");
    CHECK(restore(newer, *target) == Errc::newer_schema);
    newer.replace(0, backup::magic.size() + 1, "kv-backup 17");
    CHECK(restore(newer, *target) == Errc::newer_schema);
    const std::size_t last_table = chunk_places(bytes).size() - 3;
    CHECK(restore(forge(bytes, last_table, [](std::string& chunk) { chunk[0] = 10; }), *target) == Errc::newer_schema);
    CHECK(is_worthless(*target, kv.clock));
    CHECK(restore("SQLite format 3", *make_memory_storage(kv.clock)) == Errc::integrity);
}

TEST_CASE("the wrong master key is named before anything is written") {
    Fixture kv;
    REQUIRE(kv.put("a", "one"));
    const std::string bytes = take_backup(*kv.storage);
    const auto target = make_memory_storage(kv.clock);
    SecretBytes other("another key of thirty-two bytes!");
    const std::string other_id = master_key_id(other);
    const auto other_key = make_fixed_key(std::move(other));
    const auto restored = restore_backup(source_of(bytes, 1000), *target, *other_key);
    REQUIRE(restored == Errc::wrong_key);
    CHECK(restored.error().message.find(other_id) != std::string::npos);
    CHECK(restored.error().message.find(master_key_id(fixed_key())) != std::string::npos);
    CHECK(target->get_meta().value().empty());
    CHECK(target->internal_keys().value().empty());
    CHECK(open_backup(*kv.storage, *other_key) == Errc::wrong_key);
    CHECK(begin_epoch(*kv.storage, *other_key) == Errc::wrong_key);
    CHECK(open_backup(*target, *right_key()) == Errc::not_found);
    CHECK(begin_epoch(*target, *right_key()) == Errc::not_found);
}

TEST_CASE("a restore needs an empty storage, and one that did not end leaves none that works") {
    Fixture kv;
    for (int i = 0; i < 3000; ++i) REQUIRE(kv.put("k" + std::to_string(i), std::string(1000, 'x')));
    const std::string bytes = take_backup(*kv.storage);
    CHECK(restore(bytes, *kv.storage) == Errc::invalid_state);

    const auto target = make_memory_storage(kv.clock);
    Faults faults;
    FaultStorage faulty(*target, faults);
    faults.judge_apply([&](const Changeset& changes) -> std::optional<Errc> {
        if (changes.events.empty()) return std::nullopt;
        return Errc::storage_full;
    });
    CHECK(restore(bytes, faulty) == Errc::storage_full);
    CHECK_FALSE(target->internal_keys().value().empty());
    CHECK(is_worthless(*target, kv.clock));
    CHECK(open_backup(*target, *right_key()) == Errc::invalid_state);
    CHECK(begin_epoch(*target, *right_key()) == Errc::invalid_state);
}

// Broken on purpose, and noticed: the mark written with the first rows instead of before them, nothing erased by the next restore.
TEST_CASE("a restore that died anywhere is begun anew by the next one, and no store opens in between") {
    const Folder folder;
    Fixture kv;
    fill(kv, 300);
    kv.close();
    const std::string bytes = take_backup(*kv.storage);
    Fixture other(Kind::plain);
    fill(other, 100);
    other.close();
    const std::string others = take_backup(*other.storage);
    int died_at = 0;
    for (;; ++died_at) {
        CAPTURE(died_at);
        const bool on_disk = died_at % 2 == 1;
        const auto target = on_disk ? make_sqlite(folder.path + "/" + std::to_string(died_at), kv.clock) : make_memory_storage(kv.clock);
        Faults faults;
        FaultStorage dying(*target, faults);
        int writes = 0;
        faults.judge_apply([&](const Changeset&) { return writes++ == died_at ? std::optional(Errc::unavailable) : std::nullopt; });
        if (restore(others, dying)) break;
        const bool has_begun = !target->get_meta().value().empty();
        CHECK(has_begun == (died_at > 0));
        CHECK(is_worthless(*target, kv.clock));
        const auto restored = restore(bytes, *target);
        REQUIRE_MESSAGE(restored, restored.error().message);
        check_same(read_tables(*kv.storage), read_tables(*target));
        CHECK(findings(*target) == "");
    }
    CHECK(died_at > 3);
}

TEST_CASE("a source that fails ends the restore with its error") {
    Fixture kv;
    const std::string bytes = take_backup(*kv.storage);
    const auto target = make_memory_storage(kv.clock);
    int calls = 0;
    const auto restored = restore_backup(
        [&]() -> Result<std::string> {
            if (++calls == 3) return Error{Errc::unavailable, "the disk is gone"};
            return bytes.substr(static_cast<std::size_t>(calls - 1) * 100, 100);
        },
        *target, *right_key());
    CHECK(restored == Errc::unavailable);
}
