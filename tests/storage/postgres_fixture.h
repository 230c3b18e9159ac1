#pragma once
#include <atomic>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include <soci/postgresql/soci-postgresql.h>
#include <soci/soci.h>

#include "kv/postgres.h"

// A PostgreSQL to test with: KV_TEST_POSTGRES is the URI of a database whose role may make schemas in it. Each test has a
// schema of its own there.
namespace kv::conformance {

inline std::string postgres_uri() {
    const char* uri = std::getenv("KV_TEST_POSTGRES");
    if (uri == nullptr) throw std::runtime_error("KV_TEST_POSTGRES is not set: run this by tests/postgres/with_postgres.py");
    return uri;
}

// A connection beside the storage that is tested. Threads: one at a time.
class Sql {
public:
    // SOCI wants an '=' in it.
    explicit Sql(const std::string& uri)
        : session_(soci::postgresql, uri + (uri.find('?') == std::string::npos ? "?" : "&") + "application_name=test") {
        handle_ = static_cast<soci::postgresql_session_backend*>(session_.get_backend())->conn_;
    }
    // The first column of the first row.
    std::string run(const std::string& sql) {
        std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQexec(handle_, sql.c_str()), PQclear);
        const auto status = PQresultStatus(result.get());
        if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) throw std::runtime_error(PQresultErrorMessage(result.get()));
        return PQntuples(result.get()) > 0 && PQnfields(result.get()) > 0 ? PQgetvalue(result.get(), 0, 0) : "";
    }

private:
    soci::session session_;
    PGconn* handle_;
};

struct Postgres {
    Postgres() : sql(postgres_uri()) {
        static std::atomic<int> made = 0;
        schema = "kv_test_" + sql.run("select pg_backend_pid()") + "_" + std::to_string(++made);
        sql.run("set client_min_messages = warning; create schema " + schema);
        sql.run("set search_path = " + schema);
    }
    ~Postgres() { sql.run("drop schema " + schema + " cascade"); }
    Postgres(const Postgres&) = delete;

    std::string uri() const {
        const std::string base = postgres_uri();
        return base + (base.find('?') == std::string::npos ? "?" : "&") + "options=-csearch_path%3D" + schema;
    }
    PostgresOptions options(Clock* clock = nullptr) const {
        PostgresOptions options;
        options.uri = uri();
        options.clock = clock;
        return options;
    }
    std::unique_ptr<Storage> open(Clock& clock) { return open_postgres_storage(options(&clock)).value(); }

    Sql sql;  // in the schema of the test
    std::string schema;
};

}  // namespace kv::conformance

// What tests compiled with this in front are run against.
#define KV_BACKENDS Postgres
#define KV_TEST_ON_POSTGRES
