#include "storage/conformance.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>

// What every backend must do.
namespace {

using namespace kv;
using namespace kv::conformance;

// ---- namespaces ----

TEST_CASE_TEMPLATE("a new storage is empty and tells the time of its clock", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    CHECK(kv.storage->now().value() == kv.clock.now());
    CHECK(kv.names({}).empty());
    CHECK(kv.list(all_of()).empty());
    CHECK(kv.audit({}) == "end");
    CHECK(kv.storage->get_meta().value().empty());
    CHECK(kv.storage->internal_keys().value().empty());
    CHECK(kv.storage->unwitnessed_audit_heads(10).value().empty());
    CHECK(kv.find({ns_id(1), "key"}).ns == nullptr);
    kv.storage->idle();
    (void)kv.storage->stats();
}

TEST_CASE_TEMPLATE("a namespace comes back with every member as it was put", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    NamespaceRow row = make_namespace(1);
    row.description = "what for";
    row.is_secret = row.sealing = row.deletion_protection = true;
    row.keeps_history = false;
    row.default_ttl_seconds = -7;
    row.history_limit = 20;
    row.version = 3;
    row.revision = 4;
    row.key_generation = 0xffffffff;
    row.seals = 5;
    row.version_floor = 6;
    row.version_base = 7;
    row.changed_at = at(10);
    row.created_at = at(11);
    row.updated_at = at(-12);
    row.updated_by = "changer";
    row.deleted_at = at(13);
    Changeset changes;
    changes.namespaces = {row};
    kv.put(changes);
    CHECK(same(*kv.find({row.id, ""}).ns, row));
    CHECK(same(kv.storage->scan_namespaces({.deleted = NamespaceRange::Deleted::both}).value().at(0), row));

    row = make_namespace(1, "staging", "other");
    row.is_secret = true;
    changes.namespaces = {row};
    kv.put(changes);
    CHECK(same(*kv.find({row.id, ""}).ns, row));
}

TEST_CASE_TEMPLATE("a name finds the live namespace alone, an id a deleted one too", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    NamespaceRow gone = make_namespace(1);
    gone.deleted_at = at(1);
    Changeset changes;
    changes.namespaces = {gone, make_namespace(2)};
    kv.put(changes);
    CHECK(kv.find({NamespaceName{"default", "production"}, ""}).ns->id == ns_id(2));
    CHECK(kv.find({NamespaceName{"default", "Production"}, ""}).ns == nullptr);
    CHECK(kv.find({NamespaceName{"other", "production"}, ""}).ns == nullptr);
    CHECK(kv.find({ns_id(1), ""}).ns->deleted_at == at(1));
    CHECK(kv.find({ns_id(3), ""}).ns == nullptr);
}

TEST_CASE_TEMPLATE("a name is taken once among the live namespaces of an application", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    const auto put = [&](std::vector<NamespaceRow> rows) {
        Changeset changes;
        changes.namespaces = std::move(rows);
        return kv.apply(changes);
    };
    CHECK(put({make_namespace(1)}));
    CHECK(put({make_namespace(2)}) == Errc::namespace_exists);
    CHECK(kv.find({ns_id(2), ""}).ns == nullptr);
    CHECK(put({make_namespace(2, "production", "other")}));
    CHECK(put({make_namespace(3, "Production")}));
    CHECK(put({make_namespace(3, "production")}) == Errc::namespace_exists);  // renaming into a taken name

    NamespaceRow gone = make_namespace(1);
    gone.deleted_at = at(5);
    CHECK(put({make_namespace(4), gone}) == Errc::namespace_exists);  // in the order given
    CHECK(put({gone, make_namespace(4)}));
    CHECK(put({make_namespace(1)}) == Errc::namespace_exists);  // restored too late
    gone.description = "changed while deleted";
    CHECK(put({gone}));
    CHECK(kv.find({NamespaceName{"default", "production"}, ""}).ns->id == ns_id(4));
}

TEST_CASE_TEMPLATE("namespaces are listed by application, name and id, bytewise", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (const char* name : {"b", "a", "a/b", "a-b", "\xc3\xa4", "Z"}) {
        changes.namespaces.push_back(make_namespace(static_cast<int>(changes.namespaces.size()) + 1, name, "app"));
    }
    changes.namespaces.push_back(make_namespace(20, "x", "ap"));
    changes.namespaces.push_back(make_namespace(21, "x", "app2"));
    NamespaceRow gone = make_namespace(22, "a", "app");
    gone.deleted_at = at(100);
    changes.namespaces.push_back(gone);
    NamespaceRow sealing = make_namespace(23, "sealing", "b");
    sealing.sealing = true;
    changes.namespaces.push_back(sealing);
    kv.put(changes);

    using Deleted = NamespaceRange::Deleted;
    CHECK(kv.names({}) == "ap~x app~Z app~a app~a-b app~a/b app~b app~\xc3\xa4 app2~x b~sealing ");
    CHECK(kv.names({.application_id = "app"}) == "app~Z app~a app~a-b app~a/b app~b app~\xc3\xa4 ");
    CHECK(kv.names({.application_id = "app", .name = "a"}) == "app~a ");
    CHECK(kv.names({.name = "x"}) == "ap~x app2~x ");
    CHECK(kv.names({.application_id = "app", .name = "a", .deleted = Deleted::both}) == "app~a app~a(deleted) ");
    CHECK(kv.names({.deleted = Deleted::deleted}) == "app~a(deleted) ");
    CHECK(kv.names({.deleted = Deleted::deleted, .deleted_before = at(100)}).empty());
    CHECK(kv.names({.deleted = Deleted::both, .deleted_before = at(101)}) == "app~a(deleted) ");
    CHECK(kv.names({.deleted_before = at(101)}).empty());
    CHECK(kv.names({.sealing = true}) == "b~sealing ");
    CHECK(kv.names({.application_id = "app", .sealing = true}).empty());
    CHECK(kv.names({.application_id = "app2", .sealing = false}) == "app2~x ");
    CHECK(kv.names({.limit = 2}) == "ap~x app~Z ");
    CHECK(kv.names({.limit = 0}).empty());
}

TEST_CASE_TEMPLATE("namespaces are paged to the end at every limit", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (int i = 0; i < 12; ++i) {
        NamespaceRow row = make_namespace(i + 1, i < 6 ? "same" : "n" + std::to_string(i), i % 2 ? "a" : "b");
        if (i < 6) row.deleted_at = at(1);
        changes.namespaces.push_back(row);
    }
    kv.put(changes);
    for (const bool one_application : {false, true}) {
        NamespaceRange range{.deleted = NamespaceRange::Deleted::both};
        if (one_application) range.application_id = "a";
        const std::vector<NamespaceRow> all = kv.storage->scan_namespaces(range).value();
        CHECK(all.size() == (one_application ? 6 : 12));
        for (range.limit = 1; range.limit <= 13; ++range.limit) {
            std::vector<NamespaceRow> paged;
            range.after.reset();
            for (;;) {
                const auto page = kv.storage->scan_namespaces(range).value();
                if (page.empty()) break;
                paged.insert(paged.end(), page.begin(), page.end());
                range.after = {page.back().application_id, page.back().name, page.back().id};
            }
            CHECK(std::equal(all.begin(), all.end(), paged.begin(), paged.end(), same<NamespaceRow>));
        }
    }
}

TEST_CASE_TEMPLATE("erasing a namespace takes its row and its data keys, nothing else", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1), make_namespace(2, "staging")};
    changes.entries = {make_entry(1, "key")};
    changes.keys = {make_key(KeyPurpose::data, 1, 1), make_key(KeyPurpose::data, 1, 2), make_key(KeyPurpose::data, 2),
                    make_key(KeyPurpose::audit)};
    kv.put(changes);
    Changeset erase;
    erase.erase_namespaces = {ns_id(1), ns_id(9)};
    kv.put(erase);
    CHECK(kv.names({}) == "default~staging ");
    const KeyRef keys[] = {{KeyPurpose::data, ns_id(1), {}}, {KeyPurpose::data, ns_id(2), {}}};
    CHECK(kv.storage->get_keys(keys).value().size() == 1);
    CHECK(kv.storage->internal_keys().value().size() == 1);
    CHECK(kv.due({.kind = DueRange::Kind::all, .ns = ns_id(1)}) == "key= ");
    changes = {};
    changes.namespaces = {make_namespace(3)};
    CHECK(kv.apply(changes));  // the name is free
}

// ---- entries ----

TEST_CASE_TEMPLATE("an entry comes back with every member as it was put", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    EntryRow row = make_entry(1, "folder/key");
    row.value_type = ValueType::binary;
    row.key_generation = 0x80000001;
    row.version = 7;
    row.revision = 8;
    row.reason = Reason::expiry;
    row.comment = "why";
    row.rolled_back_from = 3;
    row.ttl_seconds = 60;
    row.expires_at = at(1000);
    row.metadata = R"({"a":"ü"})";
    row.history_floor = 2;
    row.hidden_since = at(900);
    row.created_at = Time(std::chrono::microseconds(1));
    row.updated_at = Time(std::chrono::microseconds(-2));
    row.updated_by = "changer";
    row.request_id = "request";
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.entries = {row};
    kv.put(changes);
    CHECK(same(*kv.entry("folder/key"), row));
    CHECK(same(kv.storage->scan_entries(all_of()).value().rows.at(0), row));

    EntryRow tombstone = make_entry(1, "folder/key", "");
    tombstone.is_tombstone = true;
    tombstone.version = 8;
    kv.put_entries({tombstone});
    CHECK(same(*kv.entry("folder/key"), tombstone));
    EntryRow revived = make_entry(1, "folder/key", "again");
    revived.version = 9;
    kv.put_entries({revived});
    CHECK(same(*kv.entry("folder/key"), revived));
}

TEST_CASE_TEMPLATE("find answers every reference in order and shares the namespace's row", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1), make_namespace(2, "staging")};
    changes.entries = {make_entry(1, "a", "1"), make_entry(2, "b", "2"), make_entry(3, "a", "3", 2)};
    kv.put(changes);
    const NamespaceName production{"default", "production"};
    const EntryRef refs[] = {{ns_id(2), "a"}, {ns_id(1), "b"}, {ns_id(1), "none"}, {production, "a"},
                             {ns_id(1), ""},  {ns_id(9), "a"}, {ns_id(1), "b"}};
    const auto found = kv.storage->find(refs, {.value = true}).value();
    REQUIRE(found.size() == 7);
    CHECK(found[0].entry->value == "3");
    CHECK(found[1].entry->value == "2");
    CHECK((found[2].ns && !found[2].entry));
    CHECK(found[3].entry->value == "1");
    CHECK((found[4].ns && !found[4].entry));
    CHECK((!found[5].ns && !found[5].entry));
    CHECK(found[6].entry->value == "2");
    CHECK(found[1].ns == found[2].ns);
    CHECK(found[1].ns == found[6].ns);
    CHECK(kv.storage->find({}, {}).value().empty());
}

// Broken on purpose, and noticed: an entry given to the last reference that names it only; the namespace given to the
// references alone whose entry there is.
TEST_CASE_TEMPLATE("find answers references that are all of one namespace", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1), make_namespace(2, "staging")};
    changes.entries = {make_entry(1, "a", "1"), make_entry(2, "b", "2"), make_entry(3, "a", "3", 2)};
    kv.put(changes);
    for (const NamespaceRef& ns : {NamespaceRef(ns_id(1)), NamespaceRef(NamespaceName{"default", "production"})}) {
        const EntryRef refs[] = {{ns, "b"}, {ns, "none"}, {ns, "a"}, {ns, "b"}, {ns, ""}};
        const auto check = [&](const std::vector<Found>& found) {
            REQUIRE(found.size() == 5);
            CHECK(found[0].entry->value == "2");
            CHECK(!found[1].entry);
            CHECK(found[2].entry->value == "1");
            CHECK(found[3].entry->value == "2");
            CHECK(!found[4].entry);
            for (const Found& one : found) CHECK((one.ns && one.ns->id == ns_id(1)));
        };
        check(kv.storage->find(refs, {.value = true}).value());
        kv.storage->write([&](StorageWriter& writer) -> Result<void> {
            KV_TRY(const LockedAndFound both, writer.lock_and_find({&ns, 1}, refs, {.value = true}));
            CHECK(both.namespaces.at(0)->id == ns_id(1));
            check(both.entries);
            return {};
        }).value();
    }
    const EntryRef nowhere[] = {{ns_id(9), "a"}, {ns_id(9), "b"}};
    for (const Found& one : kv.storage->find(nowhere, {}).value()) CHECK((!one.ns && !one.entry));
}

TEST_CASE_TEMPLATE("values are loaded only where they are wanted", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.versions = {make_version(1, 1)};
    changes.entries = {make_entry(1, "key")};
    changes.entries[0].version = 2;
    kv.put(changes);
    const EntryRef ref{ns_id(1), "key", {VersionPick::Kind::exact, 1}};
    Found bare = kv.find(ref, {});
    CHECK(bare.entry->value.empty());
    CHECK(bare.version->value.empty());
    CHECK_FALSE(bare.has_history);
    Found whole = kv.find(ref);
    CHECK(whole.entry->value == "value");
    CHECK(whole.version->value == "old");
    CHECK(whole.has_history);
    EntryRange range = all_of();
    range.values = false;
    CHECK(kv.list(range) == "key= ");
    CHECK(kv.versions({.entry_id = entry_id(1)}) == "1= ");
    CHECK(kv.due({.kind = DueRange::Kind::all, .ns = ns_id(1)}) == "key= ");
    CHECK(kv.due({.kind = DueRange::Kind::all, .ns = ns_id(1), .values = true}) == "key=value ");
}

TEST_CASE_TEMPLATE("every byte of a value and of texts comes back", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    std::string every_byte;
    for (int i = 0; i < 256; ++i) every_byte.push_back(static_cast<char>(i));
    std::string large(1 << 20, '\0');
    for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 7 + i / 256);
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.entries = {make_entry(1, "bytes", every_byte), make_entry(2, "empty", ""), make_entry(3, "large", large),
                       make_entry(4, "zeros", std::string(3, '\0'))};
    for (int i = 0; i < 256; ++i) {
        changes.entries.push_back(make_entry(10 + i, "one/" + std::to_string(i), std::string(1, static_cast<char>(i))));
    }
    changes.entries[0].comment = "Gr\xc3\xbc\xc3\x9f" "e \xf0\x9f\x94\x91";
    changes.keys = {make_key(KeyPurpose::audit)};
    changes.keys[0].wrap = every_byte;
    kv.put(changes);
    changes = {};
    changes.archive = {entry_id(1), entry_id(2), entry_id(3)};
    kv.put(changes);

    CHECK(kv.entry("bytes")->value == every_byte);
    CHECK(kv.entry("bytes")->comment == "Gr\xc3\xbc\xc3\x9f" "e \xf0\x9f\x94\x91");
    CHECK(kv.entry("empty")->value.empty());
    CHECK(kv.entry("large")->value == large);
    CHECK(kv.entry("zeros")->value == std::string(3, '\0'));
    for (int i = 0; i < 256; ++i) {
        CHECK(kv.entry("one/" + std::to_string(i))->value == std::string(1, static_cast<char>(i)));
    }
    CHECK(kv.find({ns_id(1), "bytes", {VersionPick::Kind::exact, 1}}).version->value == every_byte);
    CHECK(kv.find({ns_id(1), "large", {VersionPick::Kind::exact, 1}}).version->value == large);
    CHECK(kv.storage->internal_keys().value().at(0).wrap == every_byte);
}

TEST_CASE_TEMPLATE("one key of a namespace belongs to one entry", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.entries = {make_entry(1, "key")};
    kv.put(changes);
    changes = {};
    changes.entries = {make_entry(2, "key")};
    CHECK(kv.apply(changes) == Errc::internal);
    CHECK(kv.entry("key")->id == entry_id(1));
    changes.entries = {make_entry(1, "moved"), make_entry(2, "key")};  // replaced by id, wherever the key is
    CHECK(kv.apply(changes));
    CHECK(kv.entry("key")->id == entry_id(2));
    CHECK(kv.entry("moved")->id == entry_id(1));
}

TEST_CASE_TEMPLATE("keys sort by their bytes", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    std::vector<std::string> keys = {"a",  "a/b", "a-b", "a0", "a.b", "a/",  "a b",          "A",
                                     "aa", "z",   "Z",   "0",  "10",  "9",   "\xc3\xa4/key", "\xf0\x9f\x94\x91",
                                     "~",  "a/b/c", "a/b-c", "a/b0", "\x7f"};
    std::vector<EntryRow> rows;
    for (std::size_t i = 0; i < keys.size(); ++i) rows.push_back(make_entry(static_cast<int>(i + 1), keys[i], ""));
    kv.put_entries(rows);
    std::sort(keys.begin(), keys.end(), [](const std::string& a, const std::string& b) {
        return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
            return static_cast<unsigned char>(x) < static_cast<unsigned char>(y);
        });
    });
    std::string expected;
    for (const std::string& key : keys) expected += key + "= ";
    CHECK(kv.list(all_of()) == expected);
}

TEST_CASE_TEMPLATE("a listing keeps to its ranges, its start and its namespace", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    kv.put_entries({make_entry(1, "a", "1"), make_entry(2, "a/b", "2"), make_entry(3, "a/c", "3"),
                    make_entry(4, "b", "4"), make_entry(5, "c", "5"), make_entry(6, "a", "other", 2),
                    make_entry(7, "z", "other", 0)});
    EntryRange range = all_of();
    CHECK(kv.list(range) == "a=1 a/b=2 a/c=3 b=4 c=5 ");
    range.ranges = {{"a/", "a0"}};
    CHECK(kv.list(range) == "a/b=2 a/c=3 ");
    range.ranges = {{"a", std::string("a\0", 2)}, {"b", ""}};
    CHECK(kv.list(range) == "a=1 b=4 c=5 ");
    range.ranges = {{"a/b", "a/c"}, {"c", "d"}};
    CHECK(kv.list(range) == "a/b=2 c=5 ");
    range.ranges = {{"", "a/c"}, {"c", ""}};
    range.start = "a/";
    CHECK(kv.list(range) == "a/b=2 c=5 ");
    range.start = "b";
    CHECK(kv.list(range) == "c=5 ");
    range.start = "d";
    CHECK(kv.list(range).empty());
    range.start = "";
    range.ranges = {};
    CHECK(kv.list(range).empty());
    CHECK(kv.list(all_of(2)) == "a=other ");
    CHECK(kv.list(all_of(3)).empty());
}

TEST_CASE_TEMPLATE("tombstones and expired entries are found but not listed", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    EntryRow tombstone = make_entry(1, "deleted", "");
    tombstone.is_tombstone = true;
    EntryRow past = make_entry(2, "past", "1");
    past.expires_at = at(99);
    EntryRow now = make_entry(3, "now", "2");
    now.expires_at = at(100);
    EntryRow soon = make_entry(4, "soon", "3");
    soon.expires_at = at(101);
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.entries = {tombstone, past, now, soon, make_entry(5, "stays", "4")};
    kv.put(changes);
    EntryRange range = all_of();
    range.now = at(100);
    CHECK(kv.list(range) == "soon=3 stays=4 ");
    range.expiring_before = at(102);
    CHECK(kv.list(range) == "soon=3 ");
    range.expiring_before = at(101);
    CHECK(kv.list(range).empty());
    CHECK(kv.entry("deleted")->is_tombstone);
    CHECK(kv.entry("past")->value == "1");
    CHECK(kv.entry("now")->value == "2");
}

TEST_CASE_TEMPLATE("keys fold to their folders, each folder once", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    EntryRow gone = make_entry(20, "ghost/x");
    gone.is_tombstone = true;
    EntryRow expired = make_entry(21, "past/x");
    expired.expires_at = at(1);
    kv.put_entries({make_entry(1, "a", "1"), make_entry(2, "a-b", "2"), make_entry(3, "a/b", "3"),
                    make_entry(4, "a/b/c", "4"), make_entry(5, "a/d", "5"), make_entry(6, "a0", "6"),
                    make_entry(7, "b/x/y", "7"), make_entry(8, "c", "8"), gone, expired});
    EntryRange range = all_of();
    range.now = at(5);
    range.fold_from = 0;
    CHECK(kv.list(range) == "a=1 a-b=2 a0=6 c=8 a/ b/ ");
    range.fold_from = 2;
    CHECK(kv.list(range) == "a=1 a-b=2 a/b=3 a/d=5 a0=6 c=8 a/b/ b/x/ ");
    range.ranges = {{"a/", "a0"}};
    CHECK(kv.list(range) == "a/b=3 a/d=5 a/b/ ");
    range.fold_from = 0;
    range.ranges = {{"a/b", "a/b0"}, {"a/d", "a/e"}, {"c", "d"}};  // a folder across two ranges
    CHECK(kv.list(range) == "c=8 a/ ");
    range.fold_from = 100;
    CHECK(kv.list(range) == "a/b=3 a/b/c=4 a/d=5 c=8 ");
}

TEST_CASE_TEMPLATE("listings are paged to the end at every limit", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    kv.put_entries({make_entry(1, "a", "1"), make_entry(2, "a/b", "2"), make_entry(3, "a/c", "3"),
                    make_entry(4, "b/x", "4"), make_entry(5, "b/y", "5"), make_entry(6, "c", "6")});
    EntryRange range = all_of();
    CHECK(kv.pages(range, 1) == "a=1 |a/b=2 |a/c=3 |b/x=4 |b/y=5 |c=6 |");
    CHECK(kv.pages(range, 2) == "a=1 a/b=2 |a/c=3 b/x=4 |b/y=5 c=6 |");
    CHECK(kv.pages(range, 4) == "a=1 a/b=2 a/c=3 b/x=4 |b/y=5 c=6 |");
    CHECK(kv.pages(range, 6) == "a=1 a/b=2 a/c=3 b/x=4 b/y=5 c=6 |");
    range.ranges = {{"a", "b"}, {"b/y", ""}};
    CHECK(kv.pages(range, 2) == "a=1 a/b=2 |a/c=3 b/y=5 |c=6 |");
    range.ranges = {KeyRange{}};
    range.fold_from = 0;
    CHECK(kv.pages(range, 1) == "a=1 |a/ |b/ |c=6 |");
    CHECK(kv.pages(range, 2) == "a=1 a/ |c=6 b/ |");
    CHECK(kv.pages(range, 3) == "a=1 a/ b/ |c=6 |");
    CHECK(kv.pages(range, 4) == "a=1 c=6 a/ b/ |");
    range.ranges = {{"a/b", "a/c"}, {"a/c", "b/y"}};
    CHECK(kv.pages(range, 1) == "a/ |b/ |");
}

TEST_CASE_TEMPLATE("a listing ends after the row whose value crosses the bytes", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    kv.put_entries({make_entry(1, "a", "1234"), make_entry(2, "b", "1234"), make_entry(3, "c", "1234")});
    EntryRange range = all_of();
    range.bytes = 8;
    EntryPage page = kv.storage->scan_entries(range).value();
    CHECK(page.rows.size() == 3);
    CHECK_FALSE(page.more);
    range.bytes = 7;
    page = kv.storage->scan_entries(range).value();
    CHECK(page.rows.size() == 2);
    CHECK(page.more);
    CHECK(page.resume == "c");
    range.bytes = 0;
    CHECK(kv.pages(range, 10) == "a=1234 |b=1234 |c=1234 |");
    range.values = false;
    CHECK(kv.storage->scan_entries(range).value().rows.size() == 3);
}

TEST_CASE_TEMPLATE("random keys are listed, folded and paged as a plain map would", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    std::vector<EntryRow> rows;
    std::vector<std::string> keys;
    std::uint32_t seed = 12345;
    const auto random = [&](std::uint32_t below) { return (seed = seed * 1664525 + 1013904223) / 65536 % below; };
    for (int i = 0; i < 300; ++i) {
        std::string key;
        for (std::uint32_t n = random(6) + 1; n > 0; --n) key.push_back("ab/-0"[random(5)]);
        if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
        keys.push_back(key);
        rows.push_back(make_entry(i + 1, key, ""));
    }
    kv.put_entries(rows);
    std::sort(keys.begin(), keys.end());
    for (const std::size_t fold_from : {0, 1, 2}) {
        std::vector<std::string> expected;
        for (const std::string& key : keys) {
            const std::size_t slash = key.find('/', fold_from);
            const std::string item = slash == std::string::npos ? key : key.substr(0, slash + 1);
            if (slash == std::string::npos || expected.empty() || expected.back() != item) expected.push_back(item);
        }
        for (const std::size_t limit : {1, 2, 3, 7, 1000}) {
            EntryRange range = all_of();
            range.fold_from = fold_from;
            range.limit = limit;
            std::vector<std::string> listed;
            for (bool more = true; more;) {
                const EntryPage page = kv.storage->scan_entries(range).value();
                CHECK(page.rows.size() + page.folders.size() <= limit);
                for (const EntryRow& row : page.rows) listed.push_back(row.key_path);
                listed.insert(listed.end(), page.folders.begin(), page.folders.end());
                more = page.more;
                range.start = page.resume;
            }
            std::vector<std::string> sorted = expected;
            std::sort(sorted.begin(), sorted.end());
            std::sort(listed.begin(), listed.end());
            CHECK(listed == sorted);
        }
    }
}

// ---- versions ----

TEST_CASE_TEMPLATE("a version comes back with every member as it was put", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    VersionRow row = make_version(1, 5, std::string("a\0b", 3));
    row.value_type = ValueType::json;
    row.key_generation = 4;
    row.revision = 6;
    row.reason = Reason::rollback;
    row.comment = "why";
    row.rolled_back_from = 2;
    row.ttl_seconds = 30;
    row.expires_at = at(40);
    row.metadata = R"({"a":1})";
    row.changed_at = at(50);
    row.changed_by = "changer";
    row.request_id = "request";
    Changeset changes;
    changes.versions = {row};
    kv.put(changes);
    CHECK(same(kv.storage->scan_versions({.entry_id = entry_id(1), .values = true}).value().at(0), row));
    changes.versions[0].is_tombstone = true;
    CHECK(kv.apply(changes) == Errc::internal);  // archived already
}

TEST_CASE_TEMPLATE("archiving copies the entry as it is stored", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    EntryRow entry = make_entry(1, "key", "sealed");
    entry.version = 4;
    entry.value_type = ValueType::number;
    entry.key_generation = 2;
    entry.reason = Reason::rollback;
    entry.comment = "comment";
    entry.rolled_back_from = 1;
    entry.ttl_seconds = 9;
    entry.expires_at = at(99);
    entry.metadata = "{\"m\":1}";
    entry.updated_at = at(7);
    entry.updated_by = "someone";
    entry.request_id = "request";
    kv.put_entries({entry});
    Changeset changes;
    changes.archive = {entry_id(1)};
    changes.entries = {make_entry(1, "key", "new")};
    changes.entries[0].version = 5;
    kv.put(changes);

    VersionRow expected = make_version(1, 4, "sealed");
    expected.value_type = ValueType::number;
    expected.key_generation = 2;
    expected.revision = 1;
    expected.reason = Reason::rollback;
    expected.comment = "comment";
    expected.rolled_back_from = 1;
    expected.ttl_seconds = 9;
    expected.expires_at = at(99);
    expected.metadata = "{\"m\":1}";
    expected.changed_at = at(7);
    expected.changed_by = "someone";
    expected.request_id = "request";
    CHECK(same(kv.storage->scan_versions({.entry_id = entry_id(1), .values = true}).value().at(0), expected));

    changes = {};
    changes.archive = {entry_id(2)};
    CHECK(kv.apply(changes) == Errc::internal);  // there is none
}

TEST_CASE_TEMPLATE("versions are listed newest first between their bounds", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (const std::uint64_t version : {1, 2, 3, 5, 8}) changes.versions.push_back(make_version(1, version, "1234"));
    changes.versions.push_back(make_version(2, 4));
    changes.versions.push_back(make_version(0, 4));
    kv.put(changes);
    const EntryId id = entry_id(1);
    CHECK(kv.versions({.entry_id = id}) == "8= 5= 3= 2= 1= ");
    CHECK(kv.versions({.entry_id = id, .above = 2}) == "8= 5= 3= ");
    CHECK(kv.versions({.entry_id = id, .below = 5}) == "3= 2= 1= ");
    CHECK(kv.versions({.entry_id = id, .above = 2, .below = 8, .limit = 1}) == "5= ");
    CHECK(kv.versions({.entry_id = id, .values = true, .bytes = 7}) == "8=1234 5=1234 ");
    CHECK(kv.versions({.entry_id = id, .limit = 0}).empty());
    CHECK(kv.versions({.entry_id = entry_id(3)}).empty());
}

TEST_CASE_TEMPLATE("find picks the version that was asked for", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.versions = {make_version(1, 1, "one"), make_version(1, 2, "two"), make_version(1, 3, ""),
                        make_version(1, 9, "later"), make_version(2, 3, "other")};
    changes.versions[2].is_tombstone = true;
    changes.entries = {make_entry(1, "key", "now"), make_entry(2, "other"), make_entry(3, "fresh")};
    changes.entries[0].version = 4;
    changes.entries[1].version = 3;
    kv.put(changes);
    const auto picked = [&](std::string key, VersionPick pick) -> std::string {
        const Found found = kv.find({ns_id(1), std::move(key), pick});
        return found.version ? std::to_string(found.version->version) + "=" + found.version->value : "none";
    };
    using Kind = VersionPick::Kind;
    CHECK(picked("key", {}) == "none");
    CHECK(picked("key", {Kind::exact, 2}) == "2=two");
    CHECK(picked("key", {Kind::exact, 3}) == "3=");
    CHECK(picked("key", {Kind::exact, 4}) == "none");  // the current one is not archived
    CHECK(picked("key", {Kind::exact, UINT64_MAX}) == "none");
    CHECK(picked("key", {Kind::previous, 0}) == "2=two");
    CHECK(picked("other", {Kind::previous, 0}) == "none");
    CHECK(picked("fresh", {Kind::previous, 0}) == "none");
    CHECK(picked("missing", {Kind::exact, 1}) == "none");
    CHECK(kv.find({ns_id(1), "key"}).has_history);
    CHECK(kv.find({ns_id(1), "other"}).has_history);
    CHECK_FALSE(kv.find({ns_id(1), "fresh"}).has_history);
}

TEST_CASE_TEMPLATE("erasing versions takes the numbers named and ends the history with the last", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.versions = {make_version(1, 1), make_version(1, 2), make_version(1, 3), make_version(2, 2)};
    changes.entries = {make_entry(1, "key"), make_entry(2, "other")};
    kv.put(changes);
    const auto erase = [&](std::uint64_t from, std::uint64_t to) {
        Changeset erasing;
        erasing.erase_versions = {{entry_id(1), from, to}};
        kv.put(erasing);
        return kv.versions({.entry_id = entry_id(1)}) + (kv.find({ns_id(1), "key"}).has_history ? "history" : "none");
    };
    CHECK(erase(2, 2) == "3= 1= history");
    CHECK(erase(4, 9) == "3= 1= history");
    CHECK(erase(3, 1) == "3= 1= history");
    CHECK(erase(0, UINT64_MAX) == "none");
    CHECK(erase(0, UINT64_MAX) == "none");
    CHECK(kv.versions({.entry_id = entry_id(2)}) == "2= ");
    changes = {};
    changes.archive = {entry_id(1)};
    kv.put(changes);
    CHECK(kv.find({ns_id(1), "key"}).has_history);
}

TEST_CASE_TEMPLATE("erasing an entry takes its row alone", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.versions = {make_version(1, 1)};
    changes.entries = {make_entry(1, "key"), make_entry(2, "other")};
    kv.put(changes);
    changes = {};
    changes.erase_entries = {entry_id(1), entry_id(9)};
    kv.put(changes);
    CHECK_FALSE(kv.entry("key"));
    CHECK(kv.list(all_of()) == "other=value ");
    CHECK(kv.versions({.entry_id = entry_id(1)}) == "1= ");
    kv.put_entries({make_entry(1, "key")});
    CHECK(kv.find({ns_id(1), "key"}).has_history);  // whose versions were there before the row
}

TEST_CASE_TEMPLATE("sealing anew changes the value and its generation, nothing else", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.versions = {make_version(1, 1, "old")};
    changes.entries = {make_entry(1, "key", "plain")};
    changes.entries[0].version = 2;
    changes.entries[0].expires_at = at(50);
    kv.put(changes);
    EntryRow expected = changes.entries[0];
    changes = {};
    changes.reseals = {{entry_id(1), 2, false, 3, std::string("K\0x", 3)}, {entry_id(1), 1, true, 3, "archived"},
                       {entry_id(1), 7, false, 9, "another version"}, {entry_id(1), 7, true, 9, "another version"},
                       {entry_id(9), 1, false, 9, "another entry"}};
    kv.put(changes);
    expected.value = std::string("K\0x", 3);
    expected.key_generation = 3;
    CHECK(same(*kv.entry("key"), expected));
    const VersionRow version = kv.storage->scan_versions({.entry_id = entry_id(1), .values = true}).value().at(0);
    CHECK(version.value == "archived");
    CHECK(version.key_generation == 3);
    CHECK(kv.due({.kind = DueRange::Kind::expired, .before = at(60)}) == "key= ");
}

// ---- due rows ----

TEST_CASE_TEMPLATE("expired entries are due in the order of their times", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    std::vector<EntryRow> rows;
    const auto add = [&](const char* key, int expires, int ns = 1) -> EntryRow& {
        rows.push_back(make_entry(static_cast<int>(rows.size()) + 1, key, "1234", ns));
        rows.back().expires_at = at(expires);
        return rows.back();
    };
    add("c", 30);
    add("a", 50);
    add("b", 40);
    add("same2", 45);
    add("same1", 45);
    add("elsewhere", 35, 2);
    add("later", 51);
    add("gone", 10).is_tombstone = true;
    rows.push_back(make_entry(100, "never"));
    kv.put_entries(rows);
    using Kind = DueRange::Kind;
    CHECK(kv.due({.kind = Kind::expired, .before = at(50)}) == "c= elsewhere= b= same2= same1= a= ");
    CHECK(kv.due({.kind = Kind::expired, .ns = ns_id(1), .before = at(45)}) == "c= b= same2= same1= ");
    CHECK(kv.due({.kind = Kind::expired, .before = at(50), .limit = 2}) == "c= elsewhere= ");
    CHECK(kv.due({.kind = Kind::expired, .before = at(50), .values = true, .bytes = 7}) == "c=1234 elsewhere=1234 ");
    CHECK(kv.due({.kind = Kind::expired, .before = at(29)}).empty());

    rows[0].expires_at.reset();  // no longer
    rows[1].expires_at = at(1);
    rows[2].is_tombstone = true;
    kv.put_entries({rows[0], rows[1], rows[2]});
    CHECK(kv.due({.kind = Kind::expired, .ns = ns_id(1), .before = at(45)}) == "a= same2= same1= ");
}

TEST_CASE_TEMPLATE("what an expiry hid is due in the order of its times", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    EntryRow first = make_entry(1, "first");
    first.hidden_since = at(10);
    EntryRow second = make_entry(2, "second", "x", 2);
    second.hidden_since = at(20);
    second.is_tombstone = true;
    kv.put_entries({second, first, make_entry(3, "shown")});
    using Kind = DueRange::Kind;
    CHECK(kv.due({.kind = Kind::hidden, .before = at(20)}) == "first= second= ");
    CHECK(kv.due({.kind = Kind::hidden, .before = at(19)}) == "first= ");
    CHECK(kv.due({.kind = Kind::hidden, .ns = ns_id(2), .before = at(20)}) == "second= ");
    first.hidden_since.reset();
    kv.put_entries({first});
    CHECK(kv.due({.kind = Kind::hidden, .before = at(20)}) == "second= ");
}

TEST_CASE_TEMPLATE("tombstones are due without history and without what an expiry hid", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    std::vector<EntryRow> rows;
    for (const char* key : {"late", "early", "archived", "hidden", "live"}) {
        rows.push_back(make_entry(static_cast<int>(rows.size()) + 1, key, ""));
        rows.back().is_tombstone = rows.size() != 5;
        rows.back().updated_at = at(50 - static_cast<int>(rows.size()));
    }
    rows[3].hidden_since = at(1);
    kv.put_entries(rows);
    Changeset changes;
    changes.archive = {entry_id(3)};
    kv.put(changes);
    const DueRange range{.kind = DueRange::Kind::tombstones, .before = at(60)};
    CHECK(kv.due(range) == "early= late= ");
    CHECK(kv.due({.kind = DueRange::Kind::tombstones, .before = at(48)}) == "early= ");
    CHECK(kv.due({.kind = DueRange::Kind::tombstones, .ns = ns_id(2), .before = at(60)}).empty());

    changes = {};
    changes.erase_versions = {{entry_id(3), 1, 1}};
    rows[3].hidden_since.reset();
    changes.entries = {rows[3]};
    changes.erase_entries = {entry_id(1)};
    kv.put(changes);
    CHECK(kv.due(range) == "hidden= archived= early= ");
    changes = {};
    changes.versions = {make_version(2, 1)};
    kv.put(changes);
    CHECK(kv.due(range) == "hidden= archived= ");
}

TEST_CASE_TEMPLATE("values below a generation are due, tombstones are not", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    const auto entry = [](int number, const char* key, std::uint32_t generation, int ns = 1) {
        EntryRow row = make_entry(number, key, "1234", ns);
        row.key_generation = generation;
        return row;
    };
    EntryRow tombstone = entry(4, "tombstone", 0);
    tombstone.is_tombstone = true;
    Changeset changes;
    changes.entries = {entry(1, "plain", 0), entry(2, "one", 1), entry(3, "two", 2), tombstone,
                       entry(5, "elsewhere", 0, 2)};
    changes.versions = {make_version(1, 1, "1234"), make_version(1, 2, "1234"), make_version(1, 3, "1234"),
                        make_version(1, 4, "")};
    changes.versions[1].key_generation = 1;
    changes.versions[2].key_generation = 2;
    changes.versions[3].is_tombstone = true;
    kv.put(changes);
    using Kind = DueRange::Kind;
    CHECK(kv.due({.kind = Kind::generation, .ns = ns_id(1), .generation = 0}).empty());
    CHECK(kv.due({.kind = Kind::generation, .ns = ns_id(1), .generation = 1}) == "plain= ");
    CHECK(kv.storage->scan_due({.kind = Kind::generation, .ns = ns_id(1), .generation = 2}).value().size() == 2);
    CHECK(kv.storage->scan_due({.kind = Kind::generation, .ns = ns_id(1), .generation = 9, .limit = 1}).value().size() ==
          1);
    CHECK(kv.storage
              ->scan_due({.kind = Kind::generation, .ns = ns_id(1), .generation = 9, .values = true, .bytes = 4})
              .value()
              .size() == 2);

    const auto numbers = [&](DueVersionRange range) {
        std::vector<std::uint64_t> found;
        for (const VersionRow& row : taken(kv.storage->scan_due_versions(range))) {
            CHECK(row.value == "1234");
            found.push_back(row.version);
        }
        std::sort(found.begin(), found.end());
        return found;
    };
    CHECK(numbers({.ns = ns_id(1), .generation = 1}) == std::vector<std::uint64_t>{1});
    CHECK(numbers({.ns = ns_id(1), .generation = 9}) == std::vector<std::uint64_t>{1, 2, 3});
    CHECK(numbers({.ns = ns_id(1), .generation = 9, .limit = 2}).size() == 2);
    CHECK(numbers({.ns = ns_id(1), .generation = 9, .bytes = 3}).size() == 1);
    CHECK(numbers({.ns = ns_id(2), .generation = 9}).empty());
}

TEST_CASE_TEMPLATE("all rows of a namespace are due, tombstones too", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    EntryRow tombstone = make_entry(2, "b", "");
    tombstone.is_tombstone = true;
    EntryRow expired = make_entry(3, "c", "1234");
    expired.expires_at = at(1);
    kv.put_entries({make_entry(1, "a", "1234"), tombstone, expired, make_entry(4, "a", "1234", 2)});
    DueRange range{.kind = DueRange::Kind::all, .ns = ns_id(1), .values = true};
    CHECK(kv.due(range) == "a=1234 b= c=1234 ");
    range.limit = 2;
    CHECK(kv.due(range) == "a=1234 b= ");
    range.ns = ns_id(3);
    CHECK(kv.due(range).empty());
}

// ---- the log ----

TEST_CASE_TEMPLATE("an audit row comes back with every member as it was put", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    AuditRow full = make_audit(1);
    full.record.namespace_id = ns_id(1);
    full.record.entry_id = entry_id(1);
    full.record.key_path = "key";
    full.record.action = AuditAction::rollback;
    full.record.credential_id = "credential";
    full.record.application_id = "application";
    full.record.peer = "10.0.0.1";
    full.record.request_id = "request";
    full.record.success = true;
    full.record.reason = "reason";
    full.record.version = 9;
    full.record.revision = 11;
    full.record.count = 5;
    full.position = 77;  // ignored
    Changeset changes;
    changes.audit = {full, make_audit(2)};
    kv.put(changes);
    const AuditPage page = kv.storage->scan_audit({.newest_first = false}).value();
    REQUIRE(page.rows.size() == 2);
    CHECK(same(page.rows[0], full));
    CHECK(same(page.rows[1], changes.audit[1]));
    CHECK(page.rows[0].position < page.rows[1].position);
}

TEST_CASE_TEMPLATE("audit rows are filtered by every member", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (int i = 1; i <= 12; ++i) changes.audit.push_back(make_audit(i));
    auto record = [&](int number) -> AuditRecord& { return changes.audit[static_cast<std::size_t>(number) - 1].record; };
    record(1).namespace_id = ns_id(1);
    record(2).key_path = "key";
    record(3).user_id = "other";
    record(4).credential_id = "credential";
    record(5).action = AuditAction::rotate;
    record(6).operation = "entry.put";
    record(7).success = true;
    record(8).stream = stream_id(2);
    record(9).namespace_id = ns_id(1);
    record(9).success = true;
    kv.put(changes);
    CHECK(kv.audit({}) == "12 11 10 9 8 7 6 5 4 3 2 1 end");
    CHECK(kv.audit({.ns = ns_id(1)}) == "9 1 end");
    CHECK(kv.audit({.key_path = "key"}) == "2 end");
    CHECK(kv.audit({.key_path = ""}) == "12 11 10 9 8 7 6 5 4 3 1 end");
    CHECK(kv.audit({.user_id = "other"}) == "3 end");
    CHECK(kv.audit({.credential_id = "credential"}) == "4 end");
    CHECK(kv.audit({.action = AuditAction::rotate}) == "5 end");
    CHECK(kv.audit({.operation = "entry.put"}) == "6 end");
    CHECK(kv.audit({.success = true}) == "9 7 end");
    CHECK(kv.audit({.success = false, .from = at(7), .to = at(10)}) == "8 end");
    CHECK(kv.audit({.from = at(11)}) == "12 11 end");
    CHECK(kv.audit({.to = at(2)}) == "1 end");
    CHECK(kv.audit({.stream = stream_id(2)}) == "8 end");
    CHECK(kv.audit({.ns = ns_id(1), .success = true, .newest_first = false}) == "9 end");
    CHECK(kv.audit({.ns = ns_id(2)}) == "end");
}

template <class Backend>
std::string all_pages(Fixture<Backend>& kv, AuditRange range) {
    std::string all;
    for (;;) {
        const AuditPage page = kv.storage->scan_audit(range).value();
        CHECK(page.rows.size() <= range.limit);
        for (const AuditRow& row : page.rows) all += std::to_string(row.record.sequence) + " ";
        if (!page.resume) return all;
        range.after = page.resume;
    }
}

// Broken on purpose, and noticed: a page of one namespace that passed rows by ends at its last row instead of its last look.
TEST_CASE_TEMPLATE("audit rows are paged to the end in both orders, at every limit and walk", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (int i = 1; i <= 10; ++i) {
        changes.audit.push_back(make_audit(i));
        changes.audit.back().record.success = i % 3 == 0;
        changes.audit.back().record.namespace_id = ns_id(i % 2);
    }
    kv.put(changes);
    CHECK(kv.audit({.limit = 3}) == "10 9 8 > 8");
    CHECK(kv.audit({.newest_first = false, .limit = 3}) == "1 2 3 > 3");
    CHECK(kv.audit({.limit = 10}) == "10 9 8 7 6 5 4 3 2 1 end");
    CHECK(kv.audit({.newest_first = false, .limit = 10}) == "1 2 3 4 5 6 7 8 9 10 end");
    CHECK(kv.audit({.success = true, .walk = 4}) == "9 > 7");
    CHECK(kv.audit({.success = true, .newest_first = false, .walk = 4}) == "3 > 4");
    CHECK(kv.audit({.user_id = "nobody", .walk = 4}) == "> 7");
    CHECK(kv.audit({.success = true, .after = 7, .walk = 6}) == "6 3 end");
    CHECK(kv.audit({.after = 1}) == "end");
    CHECK(kv.audit({.after = 500}) == "10 9 8 7 6 5 4 3 2 1 end");
    CHECK(kv.audit({.newest_first = false, .after = 10}) == "end");
    CHECK(kv.audit({.newest_first = false, .after = 500}) == "end");
    CHECK(kv.audit({.limit = 0}) == "> 11");
    CHECK(kv.audit({.newest_first = false, .limit = 0}) == "> 0");

    for (const bool newest_first : {true, false}) {
        for (std::size_t limit = 1; limit <= 11; ++limit) {
            for (std::size_t walk = 1; walk <= 11; ++walk) {
                AuditRange range{.newest_first = newest_first, .limit = limit, .walk = walk};
                range.success = true;
                CHECK(all_pages(kv, range) == (newest_first ? "9 6 3 " : "3 6 9 "));
                range.ns = ns_id(1);
                CHECK(all_pages(kv, range) == (newest_first ? "9 3 " : "3 9 "));
                range.success.reset();
                CHECK(all_pages(kv, range) == (newest_first ? "9 7 5 3 1 " : "1 3 5 7 9 "));
                range.ns = ns_id(2);
                CHECK(all_pages(kv, range) == "");
            }
        }
    }
}

TEST_CASE_TEMPLATE("an audit head moves on only from where it stands", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    const AuditHead none{stream_id(1), 0, {}, HeadState::open};
    const AuditHead first{stream_id(1), 10, mac(1), HeadState::open};
    const AuditHead second{stream_id(1), 11, mac(2), HeadState::witnessed};
    const auto move = [&](AuditHead before, AuditHead after) {
        Changeset changes;
        changes.heads = {{before, after}};
        changes.meta = {{"trace", "left"}};
        return kv.apply(changes);
    };
    CHECK(move(first, second) == Errc::invalid_state);
    CHECK(kv.storage->get_meta().value().empty());
    CHECK(move(none, first));
    CHECK(move(none, first) == Errc::invalid_state);
    CHECK(move({stream_id(1), 9, mac(1), HeadState::open}, second) == Errc::invalid_state);
    CHECK(move({stream_id(1), 10, mac(9), HeadState::open}, second) == Errc::invalid_state);
    const StreamId streams[] = {stream_id(2), stream_id(1)};
    CHECK(same(kv.storage->get_audit_heads(streams).value().at(0), first));
    CHECK(kv.storage->unwitnessed_audit_heads(10).value().size() == 1);
    CHECK(move(first, second));
    CHECK(same(kv.storage->get_audit_heads(streams).value().at(0), second));
    CHECK(kv.storage->get_audit_heads(streams).value().size() == 1);
    CHECK(kv.storage->unwitnessed_audit_heads(10).value().empty());
    CHECK(move({stream_id(3), 0, {}, HeadState::open}, {stream_id(3), 1, mac(3), HeadState::open}));
    CHECK(move({stream_id(2), 0, {}, HeadState::open}, {stream_id(2), 1, mac(2), HeadState::open}));
    CHECK(kv.storage->unwitnessed_audit_heads(10).value().size() == 2);
    CHECK(kv.storage->unwitnessed_audit_heads(1).value().size() == 1);
}

// ---- the outbox, keys, meta ----

TEST_CASE_TEMPLATE("events come back by revision, one per revision", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    EventRow full = make_event(1, 2);
    full.kind = EventKind::touched;
    full.version = 5;
    full.at = at(9);
    full.user_id = "user";
    Changeset changes;
    changes.events = {make_event(1, 1), full, make_event(1, 10), make_event(2, 3)};
    kv.put(changes);
    const auto revisions = [&](EventRange range) {
        std::vector<std::uint64_t> all;
        for (const EventRow& row : taken(kv.storage->scan_events(range))) all.push_back(row.revision);
        return all;
    };
    CHECK(revisions({.from = {{ns_id(1)}}}) == std::vector<std::uint64_t>{1, 2, 10});
    CHECK(revisions({.from = {{ns_id(1), 1}}}) == std::vector<std::uint64_t>{2, 10});
    CHECK(revisions({.from = {{ns_id(1), 1}}, .limit = 1}) == std::vector<std::uint64_t>{2});
    CHECK(revisions({.from = {{ns_id(1), UINT64_MAX >> 1}}}).empty());
    CHECK(revisions({.from = {{ns_id(3)}}}).empty());
    CHECK(revisions({}).empty());
    CHECK(revisions({.from = {{ns_id(2)}, {ns_id(1), 1}}}) == std::vector<std::uint64_t>{3, 2, 10});
    CHECK(revisions({.from = {{ns_id(1)}, {ns_id(2)}}, .limit = 3}) == std::vector<std::uint64_t>{1, 2, 10});
    CHECK(revisions({.from = {{ns_id(1)}, {ns_id(2)}}, .limit_each = 1}) == std::vector<std::uint64_t>{1, 3});
    CHECK(same(kv.storage->scan_events({.from = {{ns_id(1), 1}}}).value().at(0), full));
    changes.events = {make_event(1, 2)};
    CHECK(kv.apply(changes) == Errc::internal);
}

TEST_CASE_TEMPLATE("keys come back by purpose, namespace and generation", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    KeyRow full = make_key(KeyPurpose::data, 1, 2);
    full.application_id = "application";
    full.created_at = at(5);
    full.wrap_key_id = "first";
    full.wrap = std::string("\0\xff", 2);
    full.second_wrap_key_id = "second";
    full.second_wrap = std::string("\xff\0", 2);
    full.commitment = mac(7);
    Changeset changes;
    changes.keys = {make_key(KeyPurpose::data, 1, 3), full, make_key(KeyPurpose::data, 1, 1),
                    make_key(KeyPurpose::data, 2, 1), make_key(KeyPurpose::token), make_key(KeyPurpose::audit)};
    kv.put(changes);
    const auto get = [&](std::vector<KeyRef> refs) {
        std::string text;
        for (const KeyRow& row : taken(kv.storage->get_keys(refs))) text += std::to_string(row.generation) + " ";
        return text;
    };
    CHECK(get({{KeyPurpose::data, ns_id(1), {}}}) == "1 2 3 ");
    CHECK(get({{KeyPurpose::data, ns_id(1), 3}, {KeyPurpose::data, ns_id(2), {}}}) == "3 1 ");
    CHECK(get({{KeyPurpose::data, ns_id(1), 4}, {KeyPurpose::data, ns_id(3), {}}}).empty());
    CHECK(get({{KeyPurpose::token, {}, {}}}) == "1 ");
    const KeyRef second[] = {{KeyPurpose::data, ns_id(1), 2}};
    CHECK(same(kv.storage->get_keys(second).value().at(0), full));
    const auto internal = kv.storage->internal_keys().value();
    REQUIRE(internal.size() == 2);
    CHECK(internal[0].purpose == KeyPurpose::audit);
    CHECK(internal[1].purpose == KeyPurpose::token);

    full.second_wrap_key_id.clear();
    full.second_wrap.clear();
    changes.keys = {full};
    kv.put(changes);
    CHECK(same(kv.storage->get_keys(second).value().at(0), full));
}

TEST_CASE_TEMPLATE("meta rows are put, replaced and listed by name", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.meta = {{"b", "1"}, {"a", "2"}};
    kv.put(changes);
    changes.meta = {{"b", "3"}, {"schema_version", "any"}};
    kv.put(changes);
    std::string text;
    for (const MetaRow& row : taken(kv.storage->get_meta())) text += row.name + "=" + row.value + " ";
    CHECK(text == "a=2 b=3 schema_version=any ");
}

// ---- writing ----

TEST_CASE_TEMPLATE("a changeset is applied in the order of its members", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.entries = {make_entry(1, "key", "one"), make_entry(2, "reused", "a"), make_entry(3, "purged", "b")};
    kv.put(changes);

    changes = {};
    changes.archive = {entry_id(1), entry_id(3)};       // before the entry is replaced
    changes.versions = {make_version(4, 1)};            // before the entry exists
    changes.entries = {make_entry(1, "key", "two"), make_entry(4, "fresh")};
    changes.entries[0].version = 2;
    changes.reseals = {{entry_id(1), 2, false, 1, "sealed two"}, {entry_id(1), 1, true, 1, "sealed one"}};
    changes.erase_versions = {{entry_id(3), 0, 9}};     // of what was just archived
    changes.erase_entries = {entry_id(2), entry_id(3)};
    kv.put(changes);
    CHECK(kv.list(all_of()) == "fresh=value key=sealed two ");
    CHECK(kv.versions({.entry_id = entry_id(1), .values = true}) == "1=sealed one ");
    CHECK(kv.versions({.entry_id = entry_id(3)}).empty());
    CHECK(kv.find({ns_id(1), "fresh"}).has_history);

    changes = {};
    changes.erase_namespaces = {ns_id(1)};
    changes.keys = {make_key(KeyPurpose::data, 1)};     // after the namespace's keys went
    kv.put(changes);
    const KeyRef ref{KeyPurpose::data, ns_id(1), {}};
    CHECK(kv.storage->get_keys({&ref, 1}).value().size() == 1);
}

Changeset everything() {
    Changeset changes;
    changes.namespaces = {make_namespace(1), make_namespace(5, "fresh")};
    changes.namespaces[0].deleted_at = at(1);
    changes.archive = {entry_id(1)};
    changes.versions = {make_version(2, 1)};
    changes.entries = {make_entry(1, "key", "two"), make_entry(5, "fresh")};
    changes.entries[0].version = 2;
    changes.entries[0].expires_at = at(1);
    changes.reseals = {{entry_id(2), 1, false, 1, "resealed"}, {entry_id(2), 9, true, 1, "resealed"}};
    changes.erase_versions = {{entry_id(2), 9, 9}};
    changes.erase_entries = {entry_id(3)};
    changes.erase_namespaces = {ns_id(2)};
    changes.events = {make_event(1, 2)};
    changes.keys = {make_key(KeyPurpose::data, 1)};
    changes.meta = {{"name", "new"}};
    changes.audit = {make_audit(2)};
    changes.heads = {{{stream_id(1), 1, mac(1), HeadState::open}, {stream_id(1), 2, mac(2), HeadState::open}}};
    changes.erase_events = {{ns_id(2), 5}};
    changes.sinks = {{"told", at(1), "owner", at(2), 2}, {"new", at(1), "", {}, 0}};
    changes.cursors = {{"told", ns_id(1), "default", 2}, {"new", ns_id(1), "default", 0}};
    changes.erase_cursors = {{"told", ns_id(2)}};
    changes.erase_sinks = {"dropped"};
    return changes;
}

template <class Backend>
std::string dump(Fixture<Backend>& kv) {
    std::string text = kv.names({.deleted = NamespaceRange::Deleted::both}) + "; ";
    for (const int ns : {1, 2}) text += kv.due({.kind = DueRange::Kind::all, .ns = ns_id(ns), .values = true});
    text += "; ";
    for (const int id : {1, 2, 3, 5}) text += kv.versions({.entry_id = entry_id(id), .values = true});
    text += "; " + kv.due({.kind = DueRange::Kind::expired, .before = at(100)});
    text += kv.due({.kind = DueRange::Kind::tombstones, .before = at(100)}) + "; " + kv.audit({}) + "; ";
    for (const int ns : {1, 2}) text += std::to_string(kv.storage->scan_events({.from = {{ns_id(ns)}}}).value().size());
    for (const int ns : {1, 2}) {
        const KeyRef ref{KeyPurpose::data, ns_id(ns), {}};
        text += std::to_string(kv.storage->get_keys({&ref, 1}).value().size());
    }
    for (const MetaRow& row : taken(kv.storage->get_meta())) text += " " + row.value;
    for (const AuditHead& head : taken(kv.storage->unwitnessed_audit_heads(9))) text += " " + std::to_string(head.sequence);
    text += ";";
    for (const SinkRow& row : taken(kv.storage->scan_sinks())) text += " " + row.name + "=" + row.owner;
    for (const SinkCursorRow& row : taken(kv.storage->scan_cursors({}))) text += " " + row.sink + "@" + std::to_string(row.revision);
    return text;
}

template <class Backend>
std::string fill(Fixture<Backend>& kv) {
    Changeset changes;
    changes.namespaces = {make_namespace(1), make_namespace(2, "staging")};
    changes.entries = {make_entry(1, "key", "one"), make_entry(2, "other", "x"), make_entry(3, "erased", "y", 2)};
    changes.versions = {make_version(2, 9)};
    changes.events = {make_event(1, 1), make_event(2, 5)};
    changes.sinks = {{"told", at(1), "", {}, 0}, {"dropped", at(1), "", {}, 0}};
    changes.cursors = {{"told", ns_id(1), "default", 1}, {"told", ns_id(2), "default", 4}, {"dropped", ns_id(2), "default", 3}};
    changes.keys = {make_key(KeyPurpose::data, 2)};
    changes.meta = {{"name", "old"}};
    changes.audit = {make_audit(1)};
    changes.heads = {{{stream_id(1), 0, {}, HeadState::open}, {stream_id(1), 1, mac(1), HeadState::open}}};
    kv.put(changes);
    return dump(kv);
}

TEST_CASE_TEMPLATE("a write that fails leaves no trace of any of its changes", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    const std::string before = fill(kv);
    CHECK(before ==
          "default~production default~staging ; key=one other=x erased=y ; 9=old ; ; 1 end; 1101 old 1; dropped= told= dropped@3 told@1 told@4");

    CHECK(kv.storage->write([](StorageWriter& writer) -> Result<void> {
        KV_CHECK(writer.apply(everything()));
        return Error{Errc::version_conflict, "changed my mind"};
    }) == Errc::version_conflict);
    CHECK(dump(kv) == before);

    Changeset stale = everything();
    stale.heads[0].before.sequence = 7;
    CHECK(kv.apply(stale) == Errc::invalid_state);
    CHECK(dump(kv) == before);

    CHECK(kv.storage->write([](StorageWriter& writer) -> Result<void> {
        (void)writer.apply(everything());
        throw std::runtime_error("out of the body");
    }) == Errc::internal);
    CHECK(dump(kv) == before);

    Changeset duplicate = everything();
    duplicate.events.push_back(make_event(1, 2));
    CHECK_FALSE(kv.storage->write([&](StorageWriter& writer) -> Result<void> {
        (void)writer.apply(duplicate);
        return {};  // a body that hides the failure commits nothing either
    }));
    CHECK(dump(kv) == before);

    CHECK(kv.apply(everything()));
    CHECK(dump(kv) ==
          "default~fresh default~production(deleted) ; fresh=value key=two other=resealed ; 1=one 1=old ; key= ; 2 1 "
          "end; 2010 new 2; new= told=owner new@0 told@2");
}

TEST_CASE_TEMPLATE("a write locks its namespaces in order and reads its own changes", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    fill(kv);
    const Result<void> done = kv.storage->write([&](StorageWriter& writer) -> Result<void> {
        const NamespaceRef refs[] = {ns_id(2), ns_id(9), NamespaceName{"default", "production"}};
        KV_TRY(auto locked, writer.lock(refs));
        CHECK(locked.at(0)->name == "staging");
        CHECK(locked.at(1) == nullptr);
        CHECK(locked.at(2)->id == ns_id(1));
        CHECK(writer.now().value() == kv.clock.now());
        const EntryRef ref{ns_id(1), "key"};
        CHECK(writer.find({&ref, 1}, {.value = true}).value().at(0).entry->value == "one");
        KV_CHECK(writer.apply(everything()));
        CHECK(writer.find({&ref, 1}, {.value = true}).value().at(0).entry->value == "two");
        CHECK(writer.find({&ref, 1}, {.value = true}).value().at(0).ns->deleted_at == at(1));
        CHECK(writer.scan_entries(all_of()).value().rows.size() == 3);
        CHECK(writer.scan_versions({.entry_id = entry_id(1)}).value().size() == 1);
        CHECK(writer.scan_namespaces({}).value().size() == 1);
        CHECK(writer.scan_audit({}).value().rows.size() == 2);
        CHECK(writer.scan_events({.from = {{ns_id(1)}}}).value().size() == 2);
        CHECK(writer.scan_event_spans({}).value().at(0).newest == 2);
        CHECK(writer.scan_sinks().value().size() == 2);
        CHECK(writer.lock_sink("told").value()->owner == "owner");
        CHECK(writer.scan_cursors({.sink = "told"}).value().size() == 1);
        CHECK(writer.scan_backlog({.sink = "told"}).value().empty());
        CHECK(writer.scan_due({.kind = DueRange::Kind::expired, .before = at(5)}).value().size() == 1);
        CHECK(writer.scan_due_versions({.ns = ns_id(1), .generation = 9}).value().size() == 2);
        CHECK(writer.internal_keys().value().empty());
        CHECK(writer.get_meta().value().size() == 1);
        CHECK(writer.unwitnessed_audit_heads(9).value().at(0).sequence == 2);
        const StreamId stream = stream_id(1);
        CHECK(writer.get_audit_heads({&stream, 1}).value().size() == 1);
        const KeyRef key{KeyPurpose::data, ns_id(1), {}};
        CHECK(writer.get_keys({&key, 1}).value().size() == 1);
        return {};
    });
    CHECK(done);
}

TEST_CASE_TEMPLATE("a write without changes is a write too", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    CHECK(kv.apply({}));
    CHECK(kv.storage->write([](StorageWriter&) -> Result<void> { return {}; }));
    CHECK(kv.storage->write([](StorageWriter&) -> Result<void> { return Error{Errc::not_found, ""}; }) ==
          Errc::not_found);
}

// Every write moves a pair of entries to the same number; a reader that sees two numbers saw half a write.
TEST_CASE_TEMPLATE("readers see whole writes, and all that were finished before", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    constexpr int writes = 200;
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    changes.entries = {make_entry(1, "a", "0"), make_entry(2, "b", "0")};
    kv.put(changes);
    std::atomic<int> finished{0};
    std::atomic<int> torn{0};
    std::atomic<int> stale{0};
    const auto read = [&] {
        while (finished < writes) {
            const int before = finished;
            const EntryRef refs[] = {{ns_id(1), "a"}, {ns_id(1), "b"}};
            const auto found = kv.storage->find(refs, {.value = true}).value();
            const EntryPage page = kv.storage->scan_entries(all_of()).value();
            if (found[0].entry->value != found[1].entry->value) ++torn;
            if (page.rows[0].value != page.rows[1].value) ++torn;
            if (std::stoi(found[0].entry->value) < before) ++stale;
        }
    };
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) readers.emplace_back(read);
    for (int i = 1; i <= writes; ++i) {
        changes = {};
        changes.archive = {entry_id(1)};
        changes.entries = {make_entry(1, "a", std::to_string(i)), make_entry(2, "b", std::to_string(i))};
        for (EntryRow& row : changes.entries) row.version = static_cast<std::uint64_t>(i) + 1;
        CHECK(kv.apply(changes));
        finished = i;
    }
    for (std::thread& reader : readers) reader.join();
    CHECK(torn == 0);
    CHECK(stale == 0);
}

TEST_CASE_TEMPLATE("writes from many threads that lock one namespace happen one after the other", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    kv.put_entries({make_entry(1, "count", "0")});
    Changeset changes;
    changes.namespaces = {make_namespace(1)};
    kv.put(changes);
    const auto count = [&] {
        for (int i = 0; i < 25; ++i) {
            const Result<void> done = kv.storage->write([&](StorageWriter& writer) -> Result<void> {
                const EntryRef ref{ns_id(1), "count"};
                KV_CHECK(writer.lock({&ref.ns, 1}));
                KV_TRY(auto found, writer.find({&ref, 1}, {.value = true}));
                Changeset next;
                next.entries = {*found[0].entry};
                next.entries[0].value = std::to_string(std::stoi(found[0].entry->value) + 1);
                return writer.apply(next);
            });
            CHECK(done);
            kv.storage->idle();
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(count);
    for (std::thread& thread : threads) thread.join();
    CHECK(kv.entry("count")->value == "100");
}

}  // namespace
