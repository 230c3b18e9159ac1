#include "kv/memory.h"
#include "kv/postgres.h"
#include "kv/sqlite.h"
#include "kv/store.h"
#include "out_of_memory.h"

namespace kv {
namespace {

constexpr std::string_view memory_uri = "memory:";
constexpr std::string_view sqlite_scheme = "sqlite:";
constexpr std::chrono::minutes patience_alone{1};  // with a statement for which nobody waits
constexpr std::size_t connections_beside_readers = 4;  // what writes, keeps house and looks after an unknown commit

Result<std::unique_ptr<Storage>> open_storage(std::string_view uri, Access access, std::size_t readers, Clock& clock) {
    if (uri == memory_uri) return make_memory_storage(clock);
    if (uri.starts_with(sqlite_scheme) && uri.size() > sqlite_scheme.size()) {
        SqliteOptions sqlite;
        sqlite.path = uri.substr(sqlite_scheme.size());
        sqlite.readers = readers;
        sqlite.read_only = access == Access::read_only;
        return open_sqlite_storage(sqlite, clock);
    }
    if (uri.starts_with("postgresql://") || uri.starts_with("postgres://")) {
        PostgresOptions postgres;
        postgres.uri = uri;
        postgres.connections = readers + connections_beside_readers;
        postgres.read_only = access == Access::read_only;
        postgres.alone = access == Access::alone;
        if (postgres.alone) postgres.statement_timeout = patience_alone;
        return open_postgres_storage(postgres);  // whose clock is the database's
    }
    Error error{Errc::invalid_request, "A storage is \"sqlite:PATH\", \"postgresql://HOST/DATABASE\" or \"memory:\"."};
    error.field = "storage";
    return error;
}

}  // namespace

Result<std::unique_ptr<Storage>> open_storage(std::string_view uri, Access access, Clock& clock) {
    return contain([&] { return open_storage(uri, access, Options{}.readers, clock); });
}

Result<std::unique_ptr<Store>> open(std::string_view uri, Options options) {
    return contain([&]() -> Result<std::unique_ptr<Store>> {
        std::unique_ptr<Clock> own_clock;
        if (options.clock == nullptr) own_clock = make_system_clock();
        Clock& clock = options.clock != nullptr ? *options.clock : *own_clock;
        std::unique_ptr<Storage> storage;
        if (uri == memory_uri && !options.keys) options.keys = make_fixed_key(generate_master_key());
        if (!options.keys) return Error{Errc::invalid_request, "A store needs Options::keys: the master key."};
        KV_TRY(storage, open_storage(uri, Access::read_write, options.readers, clock));
        return Store::open(std::move(own_clock), std::move(storage), std::move(options));
    });
}

}  // namespace kv
