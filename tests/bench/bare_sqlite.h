#pragma once
#include <cstdint>
#include <string>

struct sqlite3;
struct sqlite3_stmt;

namespace kv::bench {

// Which table a host without libkv would have made.
enum class BareTable : std::uint8_t {
    usual,          // create table settings (key_path text primary key, value blob)
    without_rowid,  // the same, one search shorter
};

// SQLite with nothing around it: one table, statements prepared once, every change on disk before it returns. The same journal and page cache
// as libkv's. Any failure ends the program. Threads: one.
class BareSqlite {
public:
    BareSqlite(const std::string& path, BareTable table);
    ~BareSqlite();
    BareSqlite(const BareSqlite&) = delete;
    BareSqlite& operator=(const BareSqlite&) = delete;

    static const char* version();

    void fill(std::uint64_t entries);
    std::string get(const std::string& key_path);
    void put(const std::string& key_path, const std::string& value);

private:
    sqlite3_stmt* prepare(const std::string& sql);
    void execute(const char* sql);
    void check(int code);

    std::string table_;
    sqlite3* database_ = nullptr;
    sqlite3_stmt* select_ = nullptr;
    sqlite3_stmt* update_ = nullptr;
};

}  // namespace kv::bench
