#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "storage/conformance.h"

// What every backend must do for events and for those who are told them.
namespace {

using namespace kv;
using namespace kv::conformance;

SinkRow make_sink(std::string name) {
    SinkRow row;
    row.name = std::move(name);
    row.registered_at = at(1);
    return row;
}

SinkCursorRow make_cursor(std::string sink, int ns, std::uint64_t revision) {
    SinkCursorRow row;
    row.sink = std::move(sink);
    row.ns = ns_id(ns);
    row.application_id = "application";
    row.revision = revision;
    return row;
}

NamespaceRow make_revised(int ns, std::uint64_t revision) {
    NamespaceRow row = make_namespace(ns, "n" + std::to_string(ns), "application");
    row.revision = revision;
    return row;
}

int number_of(const NamespaceId& ns) { return ns.bytes[15]; }

std::string print(const std::vector<EventRow>& rows) {
    std::string text;
    for (const EventRow& row : rows) text += std::to_string(number_of(row.ns)) + ":" + std::to_string(row.revision) + " ";
    return text;
}
std::string print(const std::vector<EventSpan>& spans) {
    std::string text;
    for (const EventSpan& span : spans) {
        text += std::to_string(number_of(span.ns)) + ":" + std::to_string(span.oldest) + "@" +
                std::to_string(span.oldest_at.time_since_epoch() / std::chrono::seconds(1)) + "-" + std::to_string(span.newest) +
                (span.is_gone ? "(gone) " : " ");
    }
    return text;
}
std::string print(const std::vector<SinkCursorRow>& rows) {
    std::string text;
    for (const SinkCursorRow& row : rows) text += row.sink + std::to_string(number_of(row.ns)) + "@" + std::to_string(row.revision) + " ";
    return text;
}
std::string print(const std::vector<Backlog>& rows) {
    std::string text;
    for (const Backlog& row : rows) {
        text += std::to_string(number_of(row.ns)) + ":" + std::to_string(row.confirmed) + "<" + std::to_string(row.newest) +
                (row.is_gone ? "(gone) " : " ");
    }
    return text;
}

// ---- events ----

TEST_CASE_TEMPLATE("events of many namespaces come in the order asked for, within both limits", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (int ns = 1; ns <= 4; ++ns) {
        for (int i = 1; i <= ns; ++i) changes.events.push_back(make_event(ns, static_cast<std::uint64_t>(i * 3)));
    }
    kv.put(changes);
    const std::vector<EventRange::From> from = {{ns_id(3), 3}, {ns_id(9)}, {ns_id(1), 3}, {ns_id(4)}, {ns_id(2), 2}};
    CHECK(print(kv.storage->scan_events({.from = from}).value()) == "3:6 3:9 4:3 4:6 4:9 4:12 2:3 2:6 ");
    for (std::size_t limit = 0; limit <= 9; ++limit) {
        for (std::size_t each = 0; each <= 5; ++each) {
            std::vector<EventRow> expected;
            for (const EventRange::From& one : from) {
                std::size_t taken_of_it = 0;
                for (const EventRow& row : changes.events) {
                    if (row.ns != one.ns || row.revision <= one.after || taken_of_it == each || expected.size() == limit) continue;
                    expected.push_back(row);
                    ++taken_of_it;
                }
            }
            CHECK(print(kv.storage->scan_events({.from = from, .limit = limit, .limit_each = each}).value()) == print(expected));
        }
    }
}

TEST_CASE_TEMPLATE("which events are kept is told by namespace, also of those that are gone", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    CHECK(kv.storage->scan_event_spans({}).value().empty());
    Changeset changes;
    changes.namespaces = {make_revised(1, 9), make_revised(2, 0), make_revised(4, 70)};
    changes.namespaces[2].deleted_at = at(5);
    for (const std::uint64_t revision : {9, 7, 8}) {
        changes.events.push_back(make_event(1, revision));
        changes.events.back().at = at(static_cast<int>(revision) * 10);
    }
    changes.events.push_back(make_event(3, 1));  // its namespace has no row
    changes.events.push_back(make_event(4, 70));
    kv.put(changes);
    CHECK(print(kv.storage->scan_event_spans({}).value()) == "1:7@70-9 3:1@0-1(gone) 4:70@0-70 ");
    CHECK(print(kv.storage->scan_event_spans({.after = ns_id(1)}).value()) == "3:1@0-1(gone) 4:70@0-70 ");
    CHECK(print(kv.storage->scan_event_spans({.after = ns_id(2)}).value()) == "3:1@0-1(gone) 4:70@0-70 ");
    CHECK(print(kv.storage->scan_event_spans({.after = ns_id(4)}).value()).empty());
    CHECK(print(kv.storage->scan_event_spans({.limit = 0}).value()).empty());
    for (std::size_t limit = 1; limit <= 4; ++limit) {
        std::string pages;
        EventSpanRange range{.limit = limit};
        for (;;) {
            const std::vector<EventSpan> page = kv.storage->scan_event_spans(range).value();
            if (page.empty()) break;
            CHECK(page.size() <= limit);
            pages += print(page);
            range.after = page.back().ns;
        }
        CHECK(pages == "1:7@70-9 3:1@0-1(gone) 4:70@0-70 ");
    }
}

TEST_CASE_TEMPLATE("events are erased up to a revision, also those that the same write adds", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (int ns = 1; ns <= 3; ++ns) {
        for (const std::uint64_t revision : {1, 2, 3}) changes.events.push_back(make_event(ns, revision));
    }
    kv.put(changes);
    const auto all = [&] { return print(kv.storage->walk_events({}).value()); };
    changes = {};
    changes.erase_events = {{ns_id(1), 2}, {ns_id(3), UINT64_MAX}, {ns_id(2), 0}, {ns_id(7), 5}};
    kv.put(changes);
    CHECK(all() == "1:3 2:1 2:2 2:3 ");
    changes = {};
    changes.events = {make_event(1, 4), make_event(1, 5), make_event(2, 4)};
    changes.erase_events = {{ns_id(1), 4}};
    kv.put(changes);
    CHECK(all() == "1:5 2:1 2:2 2:3 2:4 ");
}

// ---- tokens ----

TokenRow make_token(std::uint8_t number, std::optional<Time> expires_at = {}) {
    TokenRow row;
    row.id.bytes[0] = number;
    row.hash.fill(number);
    row.name = "name " + std::to_string(number);
    row.user_id = "user\xc3\xa9";
    row.grants = "[]";
    row.created_at = at(number);
    row.created_by = "maker";
    row.expires_at = expires_at;
    row.mac.fill(static_cast<std::uint8_t>(number + 1));
    return row;
}

TEST_CASE_TEMPLATE("tokens come back as they were put, by id and in pages, are replaced, used and erased", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    CHECK(kv.storage->scan_tokens({}).value().empty());
    TokenRow full = make_token(2, Time(std::chrono::microseconds(1'700'000'000'123'456)));
    full.last_used_at = at(-5);
    Changeset changes;
    changes.tokens = {make_token(3, at(10)), full, make_token(1), make_token(200, at(20))};
    kv.put(changes);
    const auto ids = [&](const TokenRange& range) {
        std::string text;
        for (const TokenRow& row : taken(kv.storage->scan_tokens(range))) text += std::to_string(row.id.bytes[0]) + " ";
        return text;
    };
    CHECK(ids({}) == "1 2 3 200 ");
    CHECK(ids({.limit = 2}) == "1 2 ");
    CHECK(ids({.after = full.id}) == "3 200 ");
    CHECK(ids({.expired_before = at(20)}) == "3 ");
    CHECK(ids({.expired_before = at(21)}) == "3 200 ");
    CHECK(ids({.after = make_token(3).id, .expired_before = at(21)}) == "200 ");
    CHECK(same(kv.storage->scan_tokens({}).value().at(1), full));
    const std::vector<Uuid> asked = {make_token(3).id, make_token(77).id, full.id};
    const auto found = taken(kv.storage->get_tokens(asked));
    CHECK(found.size() == 2);
    for (const TokenRow& row : found) CHECK(same(row, row.id == full.id ? full : make_token(3, at(10))));
    CHECK(kv.storage->get_tokens({}).value().empty());

    changes = {};
    changes.token_uses = {{full.id, at(40)}, {make_token(1).id, at(41)}, {make_token(77).id, at(42)}};
    kv.put(changes);
    changes.token_uses = {{full.id, at(39)}};
    kv.put(changes);
    full.last_used_at = at(40);
    CHECK(same(kv.storage->scan_tokens({}).value().at(1), full));
    CHECK(kv.storage->scan_tokens({}).value().at(0).last_used_at == at(41));
    CHECK(kv.storage->scan_tokens({}).value().size() == 4);

    // All at once, in the order of the members.
    changes = {};
    changes.tokens = {make_token(2), make_token(9)};
    changes.erase_tokens = {make_token(1).id, make_token(77).id, make_token(9).id};
    changes.token_uses = {{full.id, at(50)}};
    kv.put(changes);
    CHECK(ids({}) == "2 3 200 ");
    full = make_token(2);
    full.last_used_at = at(50);
    CHECK(same(kv.storage->scan_tokens({}).value().at(0), full));

    changes = {};
    changes.erase_all = true;
    kv.put(changes);
    CHECK(ids({}).empty());
}

// ---- sinks and their cursors ----

TEST_CASE_TEMPLATE("a sink comes back with every member as it was put, and is replaced by name", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    CHECK(kv.storage->scan_sinks().value().empty());
    SinkRow full = make_sink("m");
    full.registered_at = Time(std::chrono::microseconds(1'700'000'000'123'456));
    full.owner = "a process";
    full.owned_until = at(99);
    full.owners = 7;
    Changeset changes;
    changes.sinks = {make_sink("z"), full, make_sink("a-b"), make_sink("a.b")};
    kv.put(changes);
    std::string names;
    for (const SinkRow& row : taken(kv.storage->scan_sinks())) names += row.name + " ";
    CHECK(names == "a-b a.b m z ");
    CHECK(same(kv.storage->scan_sinks().value().at(2), full));

    full.owner.clear();
    full.owned_until = Time{};
    full.owners = 8;
    changes.sinks = {full};
    kv.put(changes);
    CHECK(kv.storage->scan_sinks().value().size() == 4);
    CHECK(same(kv.storage->scan_sinks().value().at(2), full));
    kv.storage->write([&](StorageWriter& writer) -> Result<void> {
        const NamespaceRef ref = ns_id(1);
        KV_CHECK(writer.lock({&ref, 1}));
        const auto found = writer.lock_sink("m").value();
        CHECK((found && same(*found, full)));
        CHECK_FALSE(writer.lock_sink("none").value());
        return {};
    }).value();
}

TEST_CASE_TEMPLATE("cursors are paged by sink and namespace, of one of them or of all", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    Changeset changes;
    for (const char* sink : {"b", "a", "c-d"}) {
        for (int ns = 5; ns >= 1; --ns) {
            if (sink[0] != 'a' || ns != 3) changes.cursors.push_back(make_cursor(sink, ns, static_cast<std::uint64_t>(ns * 10)));
        }
    }
    kv.put(changes);
    std::sort(changes.cursors.begin(), changes.cursors.end(), [](const SinkCursorRow& a, const SinkCursorRow& b) {
        return std::tie(a.sink, a.ns) < std::tie(b.sink, b.ns);
    });
    CHECK(same(kv.storage->scan_cursors({}).value().at(0), changes.cursors[0]));
    for (const char* sink : {"", "a", "b", "c-d", "none"}) {
        for (int ns = 0; ns <= 6; ++ns) {
            std::vector<SinkCursorRow> expected;
            CursorRange range;
            if (*sink) range.sink = sink;
            if (ns) range.ns = ns_id(ns);
            for (const SinkCursorRow& row : changes.cursors) {
                if ((!range.sink || row.sink == *range.sink) && (!range.ns || row.ns == *range.ns)) expected.push_back(row);
            }
            for (range.limit = 1; range.limit <= 15; ++range.limit) {
                std::vector<SinkCursorRow> paged;
                range.after.reset();
                for (;;) {
                    const auto page = kv.storage->scan_cursors(range).value();
                    if (page.empty() || paged.size() > 20) break;
                    CHECK(page.size() <= range.limit);
                    paged.insert(paged.end(), page.begin(), page.end());
                    range.after = {page.back().sink, page.back().ns};
                }
                CHECK(print(paged) == print(expected));
            }
        }
    }
    // Places where no row is.
    CHECK(print(kv.storage->scan_cursors({.sink = "b", .after = CursorRange::After{"a", ns_id(4)}, .limit = 2}).value()) == "b1@10 b2@20 ");
    CHECK(kv.storage->scan_cursors({.sink = "b", .after = CursorRange::After{"c", ns_id(1)}}).value().empty());
    CHECK(print(kv.storage->scan_cursors({.sink = "a", .after = CursorRange::After{"a", ns_id(3)}}).value()) == "a4@40 a5@50 ");
    CHECK(print(kv.storage->scan_cursors({.ns = ns_id(3), .after = CursorRange::After{"b", ns_id(2)}}).value()) == "b3@30 c-d3@30 ");
    CHECK(kv.storage->scan_cursors({.limit = 0}).value().empty());
}

TEST_CASE_TEMPLATE("cursors move, and go by themselves or with their sink", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    const auto all = [&] {
        std::string text;
        for (const SinkRow& row : taken(kv.storage->scan_sinks())) text += row.name + " ";
        return text + "; " + print(kv.storage->scan_cursors({}).value());
    };
    Changeset changes;
    changes.sinks = {make_sink("a"), make_sink("b")};
    changes.cursors = {make_cursor("a", 1, 1), make_cursor("a", 2, 1), make_cursor("b", 1, 1), make_cursor("b", 2, 1)};
    kv.put(changes);
    changes = {};
    changes.cursors = {make_cursor("a", 1, 5), make_cursor("a", 3, 2)};
    changes.cursors[0].application_id = "moved";
    kv.put(changes);
    CHECK(all() == "a b ; a1@5 a2@1 a3@2 b1@1 b2@1 ");
    CHECK(kv.storage->scan_cursors({}).value().at(0).application_id == "moved");
    changes = {};
    changes.erase_cursors = {{"a", ns_id(2)}, {"b", ns_id(3)}, {"c", ns_id(1)}};
    kv.put(changes);
    CHECK(all() == "a b ; a1@5 a3@2 b1@1 b2@1 ");
    changes = {};
    changes.erase_sinks = {"a", "none"};
    kv.put(changes);
    CHECK(all() == "b ; b1@1 b2@1 ");
    changes = {};
    changes.sinks = {make_sink("c"), make_sink("d")};
    changes.cursors = {make_cursor("b", 1, 7), make_cursor("b", 3, 7), make_cursor("c", 1, 7), make_cursor("d", 1, 7)};
    changes.erase_cursors = {{"b", ns_id(3)}, {"b", ns_id(2)}};
    changes.erase_sinks = {"c"};
    kv.put(changes);
    CHECK(all() == "b d ; b1@7 d1@7 ");
}

TEST_CASE_TEMPLATE("a sink's backlog is where it is behind: there, deleted or gone", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    CHECK(kv.storage->scan_backlog({.sink = "s"}).value().empty());
    Changeset changes;
    changes.namespaces = {make_revised(1, 10), make_revised(2, 10), make_revised(3, 10), make_revised(4, 0), make_revised(6, 3)};
    changes.namespaces[2].deleted_at = at(1);
    changes.sinks = {make_sink("s"), make_sink("other")};
    changes.cursors = {make_cursor("s", 1, 10), make_cursor("s", 2, 9), make_cursor("s", 3, 8), make_cursor("other", 1, 2),
                       // Without a row any more:
                       make_cursor("s", 5, 2), make_cursor("s", 7, 4), make_cursor("s", 8, 1), make_cursor("other", 9, 0)};
    changes.cursors[4].application_id = "gone";
    changes.events = {make_event(5, 2), make_event(5, 3), make_event(5, 6), make_event(7, 3), make_event(7, 4), make_event(9, 1),
                      make_event(10, 1)};
    kv.put(changes);
    const std::string whole = "2:9<10 3:8<10 5:2<6(gone) 6:0<3 ";
    CHECK(print(kv.storage->scan_backlog({.sink = "s"}).value()) == whole);
    CHECK(print(kv.storage->scan_backlog({.sink = "other"}).value()) == "1:2<10 2:0<10 3:0<10 6:0<3 9:0<1(gone) ");
    CHECK(print(kv.storage->scan_backlog({.sink = "new"}).value()) == "1:0<10 2:0<10 3:0<10 6:0<3 ");
    const auto rows = kv.storage->scan_backlog({.sink = "s"}).value();
    CHECK(rows.at(0).application_id == "application");
    CHECK(rows.at(2).application_id == "gone");

    CHECK(kv.storage->scan_backlog({.sink = "s", .limit = 0}).value().empty());
    CHECK(print(kv.storage->scan_backlog({.sink = "s", .after = ns_id(4)}).value()) == "5:2<6(gone) 6:0<3 ");
    for (std::size_t limit = 1; limit <= 5; ++limit) {
        BacklogRange range{.sink = "s", .limit = limit};
        std::string pages;
        for (;;) {
            const auto page = kv.storage->scan_backlog(range).value();
            if (page.empty()) break;
            CHECK(page.size() <= limit);
            pages += print(page);
            range.after = page.back().ns;
        }
        CHECK(pages == whole);
    }

    changes = {};
    changes.cursors = {make_cursor("s", 2, 10), make_cursor("s", 3, 10), make_cursor("s", 5, 6), make_cursor("s", 6, 3)};
    kv.put(changes);
    CHECK(kv.storage->scan_backlog({.sink = "s"}).value().empty());
}

// Each write counts on from what it found, the first from nothing.
TEST_CASE_TEMPLATE("writes from many threads that lock one sink happen one after the other", Backend, KV_BACKENDS) {
    Fixture<Backend> kv;
    const auto count = [&] {
        for (int i = 0; i < 25; ++i) {
            CHECK(kv.storage->write([&](StorageWriter& writer) -> Result<void> {
                KV_TRY(const auto found, writer.lock_sink("s"));
                Changeset changes;
                changes.sinks = {found.value_or(make_sink("s"))};
                ++changes.sinks[0].owners;
                return writer.apply(changes);
            }));
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(count);
    for (std::thread& thread : threads) thread.join();
    CHECK(kv.storage->scan_sinks().value().at(0).owners == 100);
}

}  // namespace
