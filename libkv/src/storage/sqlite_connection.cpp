#include "storage/sqlite_connection.h"

#include <soci/soci.h>
#include <soci/sqlite3/soci-sqlite3.h>

#include <cstring>
#include <new>
#include <unordered_map>

#include "out_of_memory.h"

namespace kv::sqlite {
namespace {

using namespace sqlite_api;

void check(int code) {
    if (code != SQLITE_OK) throw Failure{code};
}

// SOCI's exceptions print every bound value: only the number leaves this function.
template <class F>
auto through_soci(F&& f) {
    try {
        return f();
    } catch (const soci::sqlite3_soci_error& error) {
        throw Failure{error.result()};
    } catch (const soci::soci_error&) {
        throw Failure{SQLITE_ERROR};
    }
}

// SOCI's library does not export the type information that a sanitizer would check these casts against.
#define KV_NO_VPTR_CHECK __attribute__((no_sanitize("vptr")))

KV_NO_VPTR_CHECK sqlite3* handle_of(soci::session& session) {
    return static_cast<soci::sqlite3_session_backend*>(session.get_backend())->conn_;
}
KV_NO_VPTR_CHECK sqlite3* exchange_handle(soci::session& session, sqlite3* handle) {
    return std::exchange(static_cast<soci::sqlite3_session_backend*>(session.get_backend())->conn_, handle);
}
KV_NO_VPTR_CHECK sqlite3_stmt* handle_of(soci::statement& statement) {
    return static_cast<soci::sqlite3_statement_backend*>(statement.get_backend())->stmt_;
}

// SOCI reads a connection string through a stream, which without memory never comes to its end, and SOCI reads on for ever.
// So it opens something that needs none, and is given the connection that is meant.
void open_in_place(soci::session& session, const std::string& path, const std::string& vfs, Role role) {
    sqlite3* opened = nullptr;
    const int access = role == Role::read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    // A connection of ours is in one thread's hands at a time: a lock of its own would only be in the way.
    const int code = sqlite3_open_v2(path.c_str(), &opened, access | SQLITE_OPEN_NOMUTEX, vfs.empty() ? nullptr : vfs.c_str());
    if (code != SQLITE_OK) {
        sqlite3_close(opened);
        throw Failure{code};
    }
    sqlite3_close(exchange_handle(session, opened));
}

int count_wal_pages(void* pages, sqlite3*, const char*, int count) {
    *static_cast<std::size_t*>(pages) = static_cast<std::size_t>(count);
    return SQLITE_OK;
}

Errc errc_of(int code) {
    switch (code & 0xff) {
        case SQLITE_FULL: return Errc::storage_full;
        case SQLITE_IOERR:
        case SQLITE_CANTOPEN:
        case SQLITE_READONLY:
        case SQLITE_PERM:
        case SQLITE_AUTH:
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
        case SQLITE_PROTOCOL:
        case SQLITE_NOMEM: return Errc::unavailable;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB: return Errc::integrity;
        default: return Errc::internal;
    }
}

const char* words_of(int code) {
    switch (code & 0xff) {
        case SQLITE_FULL: return "the disk is full";
        case SQLITE_IOERR: return "the database file could not be read or written";
        case SQLITE_CANTOPEN: return "the database file could not be opened";
        case SQLITE_READONLY:
        case SQLITE_PERM:
        case SQLITE_AUTH: return "the database file may not be written";
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
        case SQLITE_PROTOCOL: return "another program is using the database";
        case SQLITE_NOMEM: return "the database ran out of memory";
        case SQLITE_CORRUPT: return "the database file is damaged";
        case SQLITE_NOTADB: return "the file is not a database";
        case SQLITE_CONSTRAINT: return "the database refused a row";
        case SQLITE_TOOBIG: return "a row is too large for the database";
        default: return "a database statement failed";
    }
}

}  // namespace

Error translate(int code) noexcept {
    try {
        return {errc_of(code), std::string(words_of(code)) + " (sqlite " + std::to_string(code) + ")", sqlite3_errstr(code)};
    } catch (const std::bad_alloc&) {
        return make_error(errc_of(code), words_of(code));
    }
}

Error translate_current_exception() noexcept {
    try {
        throw;
    } catch (const Failure& failure) {
        return translate(failure.code);
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    } catch (...) {
        return make_error(Errc::internal, "the storage met an unexpected exception");
    }
}

Result<void> check_library() {
    constexpr int strict_tables = 3037000;
    if (sqlite3_libversion_number() >= strict_tables && sqlite3_threadsafe() != 0) return {};
    return Error{Errc::unsupported, "SQLite must be 3.37 or newer, and built for threads"};
}

bool is_disk_full(int code) { return (code & 0xff) == SQLITE_FULL; }
bool is_taken_name(int code) { return code == SQLITE_CONSTRAINT_UNIQUE; }

// ---- Run ----

namespace {

// A column that reads as nothing is empty, or there was no memory to show it.
void check_memory(sqlite3_stmt* statement) {
    const int code = sqlite3_errcode(sqlite3_db_handle(statement));
    if (code == SQLITE_NOMEM) throw Failure{code};
}

}  // namespace

bool Run::next() {
    const int code = sqlite3_step(statement_);
    index_ = 0;
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    throw Failure{code};
}

// What reset() returns is the failure of the step before it, which was thrown already.
void Run::reset() noexcept {
    if (statement_) sqlite3_reset(statement_);
}

void Run::bind_null() { check(sqlite3_bind_null(statement_, ++index_)); }
void Run::bind_integer(std::int64_t value) { check(sqlite3_bind_int64(statement_, ++index_, value)); }
void Run::bind_text(std::string_view text) {
    const char* data = text.data() ? text.data() : "";  // a null pointer would bind NULL
    check(sqlite3_bind_text64(statement_, ++index_, data, text.size(), SQLITE_STATIC, SQLITE_UTF8));
}
void Run::bind_blob(const void* data, std::size_t size) {
    check(sqlite3_bind_blob64(statement_, ++index_, data ? data : "", size, SQLITE_STATIC));
}

bool Run::is_null() const { return sqlite3_column_type(statement_, index_) == SQLITE_NULL; }
std::int64_t Run::next_integer() { return sqlite3_column_int64(statement_, index_++); }
std::string_view Run::next_text() { return text(index_++); }
std::string_view Run::next_blob() { return text(index_++); }
void Run::next_bytes(std::uint8_t* data, std::size_t size) {
    const std::string_view bytes = next_blob();
    if (bytes.size() == size) {
        std::memcpy(data, bytes.data(), size);
    } else {
        std::memset(data, 0, size);
    }
}

std::int64_t Run::integer(int column) const { return sqlite3_column_int64(statement_, column); }
// As a BLOB, because to make a text end in a zero SQLite copies it.
std::string_view Run::text(int column) const {
    const void* data = sqlite3_column_blob(statement_, column);
    if (!data) check_memory(statement_);
    if (!data) return {};
    return {static_cast<const char*>(data), static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

// ---- Connection ----

struct Connection::Impl {
    Impl(const std::string& path, const std::string& vfs, Role role)
        : session(through_soci([&] { return soci::session(soci::sqlite3, ":memory:"); })) {
        open_in_place(session, path, vfs, role);
        handle = handle_of(session);
    }

    soci::session session;
    sqlite3* handle = nullptr;
    std::size_t wal_pages = 0;
    std::unordered_map<const char*, soci::statement> statements;  // die before the session
};

Connection::Connection(const std::string& path, const std::string& vfs, Role role)
    : impl_(std::make_unique<Impl>(path, vfs, role)) {
    sqlite3* handle = impl_->handle;
    check(sqlite3_extended_result_codes(handle, 1));
    wait_for_locks(lock_patience);
    check(sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr));
    check(sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr));
    // A file that others changed must not bring in code of its own.
    check(sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr));
    check(sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr));
    check(sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_FKEY, 0, nullptr));
    check(sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr));
    execute("pragma wal_autocheckpoint = 0");
    // Walks every cell of every page that is loaded, and readers load theirs again after each commit: two fifths of what
    // finding an entry costs. So it is for the connection that changes pages, and for the tools that look for damage.
    if (role != Role::reader) execute("pragma cell_size_check = on");
    if (role == Role::writer) {
        sqlite3_wal_hook(handle, count_wal_pages, &impl_->wal_pages);
        execute("pragma synchronous = full");
        execute("pragma secure_delete = on");
        execute("pragma cache_size = -65536");
    } else {
        execute("pragma query_only = on");
    }
}

Connection::~Connection() = default;

sqlite3_stmt* Connection::prepare(const char* sql) {
    auto found = impl_->statements.find(sql);
    if (found == impl_->statements.end()) {
        found = through_soci([&] {
            soci::statement statement(impl_->session);
            statement.alloc();
            statement.prepare(sql);
            return impl_->statements.emplace(sql, statement).first;
        });
    }
    return handle_of(found->second);
}

std::string Connection::ask(const char* sql) {
    Run answer = run(sql);
    return answer.next() ? std::string(answer.text(0)) : std::string();
}

std::int64_t Connection::ask_integer(const char* sql) {
    Run answer = run(sql);
    return answer.next() ? answer.integer(0) : 0;
}

void Connection::execute_script(const char* sql) {
    check(sqlite3_exec(impl_->handle, sql, nullptr, nullptr, nullptr));
}

std::uint32_t Connection::data_version() const {
    std::uint32_t version = 0;
    check(sqlite3_file_control(impl_->handle, "main", SQLITE_FCNTL_DATA_VERSION, &version));
    return version;
}

int Connection::changes() const { return sqlite3_changes(impl_->handle); }
bool Connection::in_transaction() const { return sqlite3_get_autocommit(impl_->handle) == 0; }
bool Connection::is_idle() const {
    return !in_transaction() && sqlite3_txn_state(impl_->handle, nullptr) == SQLITE_TXN_NONE;
}

void Connection::wait_for_locks(std::chrono::milliseconds patience) {
    check(sqlite3_busy_timeout(impl_->handle, static_cast<int>(patience.count())));
}

std::size_t Connection::wal_pages() const { return impl_->wal_pages; }

bool Connection::checkpoint_passive() {
    int pages = 0;
    int done = 0;
    check(sqlite3_wal_checkpoint_v2(impl_->handle, nullptr, SQLITE_CHECKPOINT_PASSIVE, &pages, &done));
    return pages == done;
}

bool Connection::checkpoint_truncate(std::chrono::milliseconds patience) {
    wait_for_locks(patience);
    const int code = sqlite3_wal_checkpoint_v2(impl_->handle, nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
    wait_for_locks(lock_patience);
    if (code == SQLITE_BUSY) return false;
    check(code);
    impl_->wal_pages = 0;
    return true;
}

void Connection::allow_checkpoint_on_close() {
    check(sqlite3_db_config(impl_->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr));
}

ReadTransaction::~ReadTransaction() {
    try {
        connection_.execute("commit");
    } catch (...) {
        // The pool looks at is_idle() and drops the connection.
    }
}

}  // namespace kv::sqlite

namespace kv {

bool configure_sqlite() {
    using namespace sqlite_api;
    // Pages of which a connection takes memory at once: as many as one that reads keeps. One by one each costs a call of
    // malloc and free after every commit, because a commit empties the page cache of whoever reads.
    constexpr int pages_at_once = 500;
    return sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) == SQLITE_OK &&
           sqlite3_config(SQLITE_CONFIG_PAGECACHE, nullptr, 0, pages_at_once) == SQLITE_OK;
}

}  // namespace kv
