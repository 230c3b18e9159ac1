#include <sys/stat.h>

#include "fixture.h"
#include "storage/fault_vfs.h"
#include "storage/sqlite_fixture.h"

// Databases that an earlier release left behind.
namespace {

using namespace kv;
using namespace kv::sqlite_fixture;
using Op = FaultVfs::Op;

std::string read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
}

std::vector<std::string> lines(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> all;
    for (std::string word; in >> word;) all.push_back(word);
    return all;
}

// Every row of every table, columns by name: two databases with the same rows give the same text.
std::string rows_of(const fs::path& file) {
    Shell shell(file);
    std::string text;
    for (const std::string& table : lines(shell.run("select name from sqlite_schema where type = 'table' order by name"))) {
        std::string columns;
        for (const std::string& column : lines(shell.run("select name from pragma_table_info('" + table + "') order by name"))) {
            columns += (columns.empty() ? "" : "||','||") + ("quote(" + column + ")");
        }
        text += table + ": " + shell.run("select " + columns + " || char(10) from " + table + " order by 1");
    }
    return text;
}

std::string tables_of(const fs::path& file) {
    Shell shell(file);
    return shell.run("select t.name, c.name, c.type, c.\"notnull\", c.dflt_value, c.pk, char(10) from sqlite_schema t,"
                     " pragma_table_info(t.name) c where t.type = 'table' order by t.name, c.name") +
           shell.run("select name, replace(replace(sql, ' ', ''), char(10), ''), char(10) from sqlite_schema"
                     " where type = 'index' order by name");
}

// A database of an old schema that lies among the vectors, and a clock of a day later.
struct OldFolder : Folder {
    explicit OldFolder(int schema = 1) : name(std::to_string(schema)) {
        std::string sql = read_file(fs::path(KV_TEST_DATA) / ("vectors/schema_" + name + ".sql"));
        CHECK(Shell(database).run(sql + "pragma journal_mode = wal;") == "wal ");
        clock.set(*parse_time("2026-11-24T10:00:00Z"));
    }
    fs::path copy() const { return database.string() + ".schema-" + name; }
    std::string version() { return Shell(database).run("pragma user_version"); }

    std::string name;
    test::SettableClock clock;
    Result<std::unique_ptr<Storage>> try_open(std::string vfs = {}) {
        return open_sqlite_storage({.path = database.string(), .vfs = std::move(vfs)}, clock);
    }
    std::unique_ptr<Storage> open() { return try_open().value(); }
};

TEST_CASE("a database of schema 1 is copied, migrated, and migrated once") {
    OldFolder folder;
    const std::string before = rows_of(folder.database);
    folder.open().reset();
    CHECK(folder.version() == "4 ");
    CHECK(Shell(folder.database).run("select value from meta where name = 'storage.schema_version'") == "4 ");
    CHECK(Shell(folder.database).run("pragma integrity_check") == "ok ");
    CHECK(Shell(folder.database).run("pragma auto_vacuum") == "2 ");
    CHECK(Shell(folder.database).run("select count(*) from audit where revision is not null") == "0 ");
    CHECK(Shell(folder.database).run("select distinct version_base from namespaces") == "0 ");

    CHECK(rows_of(folder.copy()) == before);
    CHECK(Shell(folder.copy()).run("pragma user_version") == "1 ");
    CHECK(Shell(folder.copy()).run("pragma application_id") == "1802914646 ");
    CHECK(Shell(folder.copy()).run("pragma integrity_check") == "ok ");
    struct stat status {};
    REQUIRE(::stat(folder.copy().c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
    CHECK_FALSE(fs::exists(folder.database.string() + ".copy"));

    const std::string after = rows_of(folder.database);
    fs::remove(folder.copy());
    folder.open().reset();
    CHECK_FALSE(fs::exists(folder.copy()));
    CHECK(rows_of(folder.database) == after);
}

TEST_CASE("a migrated database is made as a new one is") {
    Folder fresh;
    fresh.open().reset();
    for (const int schema : {1, 2, 3}) {
        OldFolder old(schema);
        old.open().reset();
        CHECK(tables_of(old.database) == tables_of(fresh.database));
    }
}

TEST_CASE("a database of schema 3 comes to know tokens, and keeps what it has") {
    OldFolder folder(3);
    const std::string before = rows_of(folder.database);
    auto storage = folder.open();
    CHECK(folder.version() == "4 ");
    CHECK(rows_of(folder.copy()) == before);
    CHECK(storage->scan_sinks().value().size() == 1);
    CHECK(storage->scan_tokens({}).value().empty());
    CHECK(storage->write([](StorageWriter& writer) {
        Changeset changes;
        changes.tokens.emplace_back();
        return writer.apply(changes);
    }));
    CHECK(storage->scan_tokens({}).value().size() == 1);
}

TEST_CASE("a database of schema 2 comes to know sinks, and keeps what it has") {
    OldFolder folder(2);
    const std::string before = rows_of(folder.database);
    auto storage = folder.open();
    CHECK(folder.version() == "4 ");
    CHECK(rows_of(folder.copy()) == before);
    CHECK(Shell(folder.copy()).run("pragma user_version") == "2 ");

    CHECK(storage->walk_events({}).value().size() == 8);
    const auto backlog = storage->scan_backlog({.sink = "s"}).value();
    REQUIRE(backlog.size() == 2);
    CHECK(backlog[0].newest + backlog[1].newest == 8);
    CHECK(storage->write([&](StorageWriter& writer) {
        Changeset changes;
        changes.sinks = {{"s", folder.clock.now(), "", {}, 0}};
        for (const Backlog& one : backlog) changes.cursors.push_back({"s", one.ns, one.application_id, one.newest});
        return writer.apply(changes);
    }));
    CHECK(storage->scan_backlog({.sink = "s"}).value().empty());
    storage.reset();

    Options options;
    options.keys = make_fixed_key(test::fixed_key());
    options.clock = &folder.clock;
    options.maintenance_interval = std::chrono::milliseconds(0);
    auto store = Store::open(folder.open(), std::move(options)).value();
    const Actor actor = Actor::trusted("tester");
    CHECK(store->in("app-1", "production", actor).get<std::string>("database/password").value() == "second-password");
    CHECK(store->in("app-1", "config", actor).get<std::int64_t>("database/port").value() == 5432);
}

TEST_CASE("what is still in the WAL of an old database is copied and migrated with it") {
    OldFolder folder;
    Shell writer(folder.database);
    CHECK(writer.run("update namespaces set description = 'late' where name = 'config'") == "");
    CHECK(fs::file_size(folder.database.string() + "-wal") > 0);
    auto storage = folder.open();
    CHECK(Shell(folder.copy()).run("select description from namespaces where name = 'config'") == "late ");
    CHECK(Shell(folder.database).run("select description from namespaces where name = 'config'") == "late ");
}

TEST_CASE("every row of a migrated database is there, its values open and its audit verifies") {
    OldFolder folder;
    auto storage = folder.open();
    auto keys = crypto::Keyring::open(test::fixed_key(), CryptoBackend::openssl, storage->internal_keys().value(),
                                      folder.clock.now());
    REQUIRE(keys);
    CHECK(test::audit_fault(*storage, **keys) == "");
    CHECK(storage->walk_entries({}).value().size() == 8);
    CHECK(storage->walk_versions({}).value().size() == 5);
    CHECK(storage->walk_events({}).value().size() == 14);
    CHECK(storage->walk_keys({}).value().size() == 6);
    CHECK(storage->walk_audit_heads({}).value().size() == 2);
    AuditRange everything;
    const auto rows = storage->scan_audit(everything).value().rows;
    CHECK(rows.size() == 24);
    for (const AuditRow& row : rows) CHECK_FALSE(row.record.revision);

    Options options;
    options.keys = make_fixed_key(test::fixed_key());
    options.clock = &folder.clock;
    options.maintenance_interval = std::chrono::milliseconds(0);
    auto store = Store::open(std::move(storage), std::move(options)).value();
    const Actor actor = Actor::trusted("tester");
    const auto read = [&](const char* name, const char* key) {
        const Result<std::string> text = store->in("app-1", name, actor).get<std::string>(key);
        return text ? *text : text == Errc::not_found ? "not found" : text.error().message;
    };
    CHECK(read("production", "database/password") == "second-password");
    CHECK(read("production", "long") == "expires late");
    CHECK(read("production", "short") == "not found");
    CHECK(read("config", "database/host") == "db.example");
    store.reset();
}

TEST_CASE("a full disk leaves an old database as it is, and room later migrates it") {
    FaultVfs vfs;
    OldFolder folder;
    const std::string before = rows_of(folder.database);
    bool migrated = false;
    for (int failing_call = 0; !migrated; ++failing_call) {
        int calls = 0;
        vfs.fault = [&](Op op, bool) { return op == Op::write && calls++ >= failing_call ? SQLITE_FULL : SQLITE_OK; };
        const auto refused = folder.try_open(FaultVfs::name());
        vfs.fault = {};
        migrated = folder.version() == "4 ";
        if (migrated) break;
        REQUIRE(refused == Errc::storage_full);
        CHECK(rows_of(folder.database) == before);
        CHECK_FALSE(fs::exists(folder.database.string() + ".copy"));
        if (failing_call == 0) {
            CHECK(refused.error().message ==
                  "the database could not be copied before its migration: the disk is full (sqlite 13)");
        }
    }
    CHECK(rows_of(folder.copy()) == before);
    CHECK(folder.try_open());
}

TEST_CASE("a migration that is interrupted anywhere begins again") {
    FaultVfs vfs;
    bool finished = false;
    int interruptions = 0;
    for (int failing_call = 0; !finished; ++failing_call) {
        OldFolder folder;
        const std::string before = rows_of(folder.database);
        int calls = 0;
        vfs.fault = [&](Op op, bool) { return op != Op::read && calls++ >= failing_call ? SQLITE_IOERR : SQLITE_OK; };
        finished = folder.try_open(FaultVfs::name()).has_value();
        const bool copied = fs::exists(folder.copy());
        if (copied) CHECK(rows_of(folder.copy()) == before);
        vfs.fault = {};
        if (finished) break;
        ++interruptions;
        // The machine stops here and starts again: what a later opening finds is one of the two, whole.
        OldFolder restarted;
        fs::remove(restarted.database);
        for (const fs::directory_entry& file : fs::directory_iterator(folder.path)) {
            if (file.path().extension() != ".db-shm") fs::copy(file.path(), restarted.path / file.path().filename());
        }
        restarted.open().reset();
        CHECK(restarted.version() == "4 ");
        CHECK(rows_of(restarted.copy()) == before);
        CHECK(Shell(restarted.database).run("pragma integrity_check") == "ok ");
        CHECK(Shell(restarted.database).run("select count(*) from audit") == "24 ");
    }
    CHECK(interruptions > 10);
}

}  // namespace
