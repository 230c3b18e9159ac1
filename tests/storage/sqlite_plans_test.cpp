#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "storage/sqlite_fixture.h"

// How SQLite goes about the statements that walk large tables.
namespace {

using namespace kv;
using namespace kv::sqlite_fixture;

// The text of every statement that any connection runs while one of these lives.
class Statements {
public:
    Statements() {
        all().clear();
        sqlite3_auto_extension(entry_point());
    }
    ~Statements() { sqlite3_cancel_auto_extension(entry_point()); }
    std::set<std::string> take() { return std::exchange(all(), {}); }

private:
    static std::set<std::string>& all() {
        static std::set<std::string> texts;
        return texts;
    }
    static int note(unsigned, void*, void* statement, void*) {
        all().insert(sqlite3_sql(static_cast<sqlite3_stmt*>(statement)));
        return 0;
    }
    static int attach(sqlite3* connection, char**, const void*) {
        return sqlite3_trace_v2(connection, SQLITE_TRACE_STMT, note, nullptr);
    }
    static void (*entry_point())() { return reinterpret_cast<void (*)()>(&attach); }
};

struct PlannedFolder : Folder {
    Statements statements;
    std::unique_ptr<Storage> storage = open();

    // The steps of every select on a table of ours that f runs, one a line.
    template <class F>
    std::string plan_of(F&& f) {
        statements.take();
        f();
        std::string text;
        for (const std::string& sql : statements.take()) {
            if (sql.starts_with("select")) text += plan(sql);
        }
        return text;
    }
    std::string plan(const std::string& sql) {
        sqlite3* connection = nullptr;
        sqlite3_open(database.c_str(), &connection);
        std::string text;
        const auto collect = [](void* out, int count, char** values, char**) {
            *static_cast<std::string*>(out) += std::string(values[count - 1]) + "\n";
            return 0;
        };
        CHECK(sqlite3_exec(connection, ("explain query plan " + sql).c_str(), collect, &text, nullptr) == SQLITE_OK);
        sqlite3_close(connection);
        return text;
    }
};

void check_searches(const std::string& plan, std::size_t steps) {
    INFO(plan);
    CHECK(plan.find("SCAN") == std::string::npos);
    CHECK(plan.find("TEMP B-TREE") == std::string::npos);
    CHECK(static_cast<std::size_t>(std::count(plan.begin(), plan.end(), '\n')) == steps);
}

TEST_CASE("walks search by the key they go on from and sort nothing") {
    PlannedFolder folder;
    Storage& storage = *folder.storage;
    const auto plan = [&](auto&& f) { return folder.plan_of(f); };
    check_searches(plan([&] { CHECK(storage.walk_entries({.after = EntryWalk::After{ns(), "k"}})); }), 1);
    check_searches(plan([&] { CHECK(storage.walk_versions({.after = VersionWalk::After{ns(), 1}})); }), 1);
    check_searches(plan([&] { CHECK(storage.walk_events({.after = EventWalk::After{ns(), 1}})); }), 1);
    check_searches(plan([&] { CHECK(storage.walk_audit_heads({.after = ns()})); }), 1);
    check_searches(plan([&] { CHECK(storage.walk_keys({.after = KeyWalk::After{KeyPurpose::data, ns(), 1}})); }), 3);
}

TEST_CASE("what is due is found by indexes and sorted by them") {
    PlannedFolder folder;
    Storage& storage = *folder.storage;
    using Kind = DueRange::Kind;
    for (const auto& [kind, index] : {std::pair{Kind::expired, "entries_expiring"}, {Kind::hidden, "entries_hidden"},
                                      {Kind::tombstones, "entries_forgettable"}, {Kind::generation, "entries_by_generation"},
                                      {Kind::all, "entries_by_key"}}) {
        const std::string plan = folder.plan_of([&, kind = kind] {
            CHECK(storage.scan_due({.kind = kind, .ns = ns(), .before = Time{}, .generation = 2, .after = DueRange::After{}}));
        });
        check_searches(plan, kind == Kind::generation ? 3 : 1);  // the row to go on behind is searched, too
        CHECK(plan.find(index) != std::string::npos);
    }
    const std::string plan = folder.plan_of([&] { CHECK(storage.scan_due_versions({.ns = ns(), .generation = 2})); });
    check_searches(plan, 3);
    CHECK(plan.find("versions_by_generation") != std::string::npos);
}

TEST_CASE("listings search by their place and sort nothing") {
    PlannedFolder folder;
    Storage& storage = *folder.storage;
    EntryRange range;
    range.ns = ns();
    range.ranges = {KeyRange{}};
    check_searches(folder.plan_of([&] { CHECK(storage.scan_entries(range)); }), 1);
    check_searches(folder.plan_of([&] { CHECK(storage.scan_versions({.entry_id = ns()})); }), 1);
    check_searches(folder.plan_of([&] { CHECK(storage.scan_events({.from = {{ns()}}})); }), 1);
    check_searches(folder.plan_of([&] { CHECK(storage.scan_namespaces({.application_id = "app"})); }), 1);
    for (const bool newest_first : {true, false}) {
        check_searches(folder.plan_of([&] { CHECK(storage.scan_audit({.newest_first = newest_first})); }), 3);
    }
}

TEST_CASE("what sinks need is searched for and not sorted") {
    PlannedFolder folder;
    Storage& storage = *folder.storage;
    const auto plan = [&](auto&& f) { return folder.plan_of(f); };
    check_searches(plan([&] { CHECK(storage.scan_events({.from = {{ns()}, {entry(1, "", "").id, 5}}})); }), 1);
    // Three searches for a namespace, two of which are announced by a line of their own.
    check_searches(plan([&] { CHECK(storage.scan_event_spans({.after = ns()})); }), 5);
    check_searches(plan([&] { CHECK(storage.scan_cursors({.after = CursorRange::After{"s", ns()}})); }), 1);
    check_searches(plan([&] { CHECK(storage.scan_cursors({.sink = "s", .after = CursorRange::After{"s", ns()}})); }), 1);
    const std::string of_namespace = plan([&] { CHECK(storage.scan_cursors({.ns = ns()})); });
    check_searches(of_namespace, 1);
    CHECK(of_namespace.find("sink_cursors_by_namespace (namespace_id=? AND sink>?)") != std::string::npos);
    const std::string backlog = plan([&] { CHECK(storage.scan_backlog({.sink = "s", .after = ns()})); });
    check_searches(backlog, 9);
    CHECK(backlog.find("SEARCH n USING INDEX sqlite_autoindex_namespaces_1 (id>?)") != std::string::npos);
    CHECK(backlog.find("SEARCH c USING PRIMARY KEY (sink=? AND namespace_id=?)") != std::string::npos);
    CHECK(backlog.find("SEARCH c USING PRIMARY KEY (sink=? AND namespace_id>?)") != std::string::npos);
}

}  // namespace
