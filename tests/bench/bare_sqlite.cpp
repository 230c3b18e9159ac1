#include "bare_sqlite.h"

#include <sqlite3.h>

#include <cstdio>
#include <cstdlib>

#include "entries.h"

namespace kv::bench {

BareSqlite::BareSqlite(const std::string& path, BareTable table)
    : table_(table == BareTable::usual ? "settings" : "settings_without_rowid") {
    // A connection for one thread, like those of libkv's readers, needs no lock of its own.
    check(sqlite3_open_v2(path.c_str(), &database_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr));
    execute("pragma journal_mode = wal");
    execute("pragma synchronous = full");
    const std::string end = table == BareTable::usual ? "" : " without rowid";
    execute(("create table if not exists " + table_ + " (key_path text not null primary key, value blob not null)" + end).c_str());
    select_ = prepare("select value from " + table_ + " where key_path = ?1");
    update_ = prepare("update " + table_ + " set value = ?2 where key_path = ?1");
}

BareSqlite::~BareSqlite() {
    sqlite3_finalize(select_);
    sqlite3_finalize(update_);
    sqlite3_close(database_);
}

const char* BareSqlite::version() { return sqlite3_libversion(); }

void BareSqlite::fill(std::uint64_t entries) {
    sqlite3_stmt* insert = prepare("insert into " + table_ + " (key_path, value) values (?1, ?2)");
    execute("begin");
    for (std::uint64_t number = 0; number < entries; ++number) {
        const std::string key_path = key_of(number);
        const std::string value = value_of(number);
        check(sqlite3_bind_text(insert, 1, key_path.data(), static_cast<int>(key_path.size()), SQLITE_STATIC));
        check(sqlite3_bind_blob(insert, 2, value.data(), static_cast<int>(value.size()), SQLITE_STATIC));
        if (sqlite3_step(insert) != SQLITE_DONE) check(sqlite3_errcode(database_));
        check(sqlite3_reset(insert));
    }
    execute("commit");
    sqlite3_finalize(insert);
    execute("pragma wal_checkpoint(truncate)");
}

std::string BareSqlite::get(const std::string& key_path) {
    check(sqlite3_bind_text(select_, 1, key_path.data(), static_cast<int>(key_path.size()), SQLITE_STATIC));
    if (sqlite3_step(select_) != SQLITE_ROW) check(SQLITE_NOTFOUND);
    const void* data = sqlite3_column_blob(select_, 0);
    std::string value(static_cast<const char*>(data), static_cast<std::size_t>(sqlite3_column_bytes(select_, 0)));
    check(sqlite3_reset(select_));
    return value;
}

void BareSqlite::put(const std::string& key_path, const std::string& value) {
    check(sqlite3_bind_text(update_, 1, key_path.data(), static_cast<int>(key_path.size()), SQLITE_STATIC));
    check(sqlite3_bind_blob(update_, 2, value.data(), static_cast<int>(value.size()), SQLITE_STATIC));
    if (sqlite3_step(update_) != SQLITE_DONE) check(sqlite3_errcode(database_));
    if (sqlite3_changes(database_) != 1) check(SQLITE_NOTFOUND);
    check(sqlite3_reset(update_));
}

sqlite3_stmt* BareSqlite::prepare(const std::string& sql) {
    sqlite3_stmt* statement = nullptr;
    check(sqlite3_prepare_v2(database_, sql.c_str(), -1, &statement, nullptr));
    return statement;
}

void BareSqlite::execute(const char* sql) { check(sqlite3_exec(database_, sql, nullptr, nullptr, nullptr)); }

void BareSqlite::check(int code) {
    if (code == SQLITE_OK) return;
    std::fprintf(stderr, "kv_bench_process: bare SQLite: %s\n", sqlite3_errstr(code));
    std::exit(1);
}

}  // namespace kv::bench
