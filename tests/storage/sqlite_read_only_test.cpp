#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "storage/sqlite_fixture.h"

// Reading a database next to whoever serves it, or after nobody does any more.
namespace {

using namespace kv;
using namespace kv::sqlite_fixture;

Result<std::unique_ptr<Storage>> try_read(Folder& folder) {
    return open_sqlite_storage({.path = folder.database.string(), .read_only = true}, folder.clock);
}

std::string bytes_of(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
}

// Writes "key" = "one", is killed, and leaves its WAL behind.
void write_and_die(Folder& folder) {
    int done[2];
    REQUIRE(::pipe(done) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        auto storage = folder.try_open(folder.database);
        const bool is_put = storage && put(**storage, {entry(1, "key", "one")});
        (void)!::write(done[1], is_put ? "y" : "n", 1);
        ::pause();
        ::_exit(0);
    }
    char byte = 0;
    CHECK(::read(done[0], &byte, 1) == 1);
    CHECK(byte == 'y');
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    for (const int fd : done) ::close(fd);
}

TEST_CASE("a database is read while another opener serves it, and every new commit is seen") {
    Folder folder;
    auto served = folder.open();
    CHECK(put(*served, {entry(1, "key", "one")}));
    auto reading = try_read(folder).value();
    CHECK(value(*reading) == "one");
    CHECK(put(*served, {entry(1, "key", "two")}));
    CHECK(value(*reading) == "two");
    served->idle();
    CHECK(served->stats().wal_bytes == 0);  // who only reads holds nothing back
    CHECK(value(*reading) == "two");
    served.reset();
    CHECK(value(*reading) == "two");
    served = folder.open();
    CHECK(put(*served, {entry(1, "key", "three")}));
    CHECK(value(*reading) == "three");
}

TEST_CASE("who only reads can change nothing and holds no lock") {
    Folder folder;
    CHECK(put(*folder.open(), {entry(1, "key", "one")}));
    const std::string before = folder.bytes();
    {
        auto reading = try_read(folder).value();
        const auto refused = put(*reading, {entry(1, "key", "two")});
        REQUIRE(refused == Errc::unsupported);
        CHECK(refused.error().message == "the storage was opened for reading alone");
        CHECK(reading->is_shared());
        CHECK(reading->hold_back(1 << 20));
        reading->idle();
        CHECK(value(*reading) == "one");
        CHECK(folder.open());
        CHECK(try_read(folder));
        CHECK(reading->stats().database_bytes == before.size());
    }
    CHECK(folder.bytes() == before);
    CHECK_FALSE(fs::exists(folder.database.string() + ".reserve"));
}

TEST_CASE("a snapshot of a database that another opener serves stays as it was") {
    Folder folder;
    auto served = folder.open();
    CHECK(put(*served, {entry(1, "key", "one")}));
    auto reading = try_read(folder).value();
    auto snapshot = reading->snapshot().value();
    for (int i = 0; i < 3; ++i) CHECK(put(*served, {entry(1, "key", "two")}));
    served->idle();
    CHECK(value(*snapshot) == "one");
    served.reset();
    served = folder.open();
    CHECK(value(*snapshot) == "one");
    CHECK(value(*reading) == "two");
}

TEST_CASE("what a killed process left in its WAL is read, and stays in it") {
    Folder folder;
    write_and_die(folder);
    const std::string file = folder.bytes();
    const std::string wal = bytes_of(folder.database.string() + "-wal");
    CHECK_FALSE(wal.empty());
    SUBCASE("with its -shm") {}
    SUBCASE("without its -shm") { fs::remove(folder.database.string() + "-shm"); }
    for (int i = 0; i < 2; ++i) CHECK(value(*try_read(folder).value()) == "one");
    CHECK(folder.bytes() == file);
    CHECK(bytes_of(folder.database.string() + "-wal") == wal);
    auto served = folder.open();
    CHECK(value(*served) == "one");
    CHECK(put(*served, {entry(1, "key", "two")}));
}

TEST_CASE("reading a database that is not there makes none") {
    Folder folder;
    const auto missing = try_read(folder);
    REQUIRE(missing == Errc::not_found);
    CHECK(missing.error().message == "there is no database at that path");
    CHECK(fs::is_empty(folder.path));
    std::ofstream(folder.database).close();
    CHECK(try_read(folder) == Errc::not_found);
    CHECK(fs::file_size(folder.database) == 0);
    CHECK(open_sqlite_storage({.path = folder.path.string(), .read_only = true}, folder.clock) == Errc::unavailable);
}

TEST_CASE("another schema or another program's database is not read") {
    Folder folder;
    folder.open().reset();
    Shell(folder.database).run("pragma user_version = 5");
    CHECK(try_read(folder) == Errc::newer_schema);
    Shell(folder.database).run("pragma user_version = 1");
    const auto older = try_read(folder);
    REQUIRE(older == Errc::unsupported);
    CHECK(older.error().message ==
          "the database has schema 1, older than 4 of this library: opening it for writing migrates it");
    Shell(folder.database).run("pragma application_id = 7");
    CHECK(try_read(folder) == Errc::integrity);
}

TEST_CASE("reading in a folder that may not be written says what to do") {
    Folder folder;
    CHECK(put(*folder.open(), {entry(1, "key", "one")}));
    const uid_t somebody = ::geteuid() == 0 ? 65534 : ::geteuid();  // root may write everywhere
    for (const fs::path& path : {folder.path, folder.database}) REQUIRE(::chown(path.c_str(), somebody, gid_t(-1)) == 0);
    REQUIRE(::chmod(folder.path.c_str(), 0500) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        if (::geteuid() != somebody && ::seteuid(somebody) != 0) ::_exit(2);
        const auto refused = try_read(folder);
        const bool is_told = refused == Errc::unavailable &&
                             refused.error().message.find("read a copy in another folder") != std::string::npos;
        ::_exit(is_told ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(::chmod(folder.path.c_str(), 0700) == 0);
    CHECK(status == 0);
}

}  // namespace
