#include "storage/postgres_presence.h"

#include <thread>
#include <utility>

namespace kv::postgres {
namespace {

constexpr std::chrono::seconds leaving_patience{3};
constexpr std::chrono::milliseconds look_again{20};

#define KV_PRESENCE "(hashtext('kv presence'), hashtext(current_schema()))"

// A role without any schema has no lock either: what it lacks is said later.
bool is_granted(Rows rows) {
    bool granted = false;
    if (rows.next()) rows.read(granted);
    return granted;
}

std::string read_uses_alone(Connection& connection) {
    Rows rows = connection.run("select value from meta where name = 'storage.uses_alone'");
    std::string number;
    if (rows.next()) rows.read(number);
    return number;
}

// What the server says of them to this role: of other roles it may keep their addresses to itself.
Error others(Connection& connection) {
    Rows rows = connection.run(
        "select count(*), coalesce(string_agg(distinct case when a.client_port = -1 then 'a local socket'"
        " else coalesce(host(a.client_addr), 'an address that this role is not told') end, ', '), 'nowhere')"
        " from pg_locks l left join pg_stat_activity a on a.pid = l.pid where l.locktype = 'advisory' and l.granted"
        " and l.classid = hashtext('kv presence')::oid and l.objid = hashtext(current_schema())::oid and l.objsubid = 2"
        " and l.database = (select d.oid from pg_database d where d.datname = current_database())");
    std::int64_t connections = 0;
    std::string places;
    if (rows.next()) rows.read(connections, places);
    return {Errc::locked, "the database is in use: " + std::to_string(connections) + " connections that write, from " + places +
                              ". Stop every kvd and every program that serves it, and try again. A connection that is left of one"
                              " that is gone ends when the server notices, or by pg_terminate_backend()"};
}

}  // namespace

void Presence::enter(Connection& connection) const {
    if (!is_granted(connection.run("select coalesce(pg_try_advisory_lock_shared" KV_PRESENCE ", true)"))) {
        throw Failure(is_settled_ ? state_no_connection : state_in_use,
                      "the database is taken by one program alone, as for a restore or a new epoch");
    }
    if (is_settled_ && read_uses_alone(connection) != uses_alone_) {
        throw Failure(state_no_connection, "the store was restored or began a new epoch since it was opened: start this program anew");
    }
}

// Never waited for in the server's own queue: there it would keep out those that serve the database and come back.
Result<void> Presence::claim(std::unique_ptr<Connection> connection) {
    const SteadyTime deadline = std::chrono::steady_clock::now() + leaving_patience;
    while (!is_granted(connection->run("select coalesce(pg_try_advisory_lock" KV_PRESENCE ", true)"))) {
        if (std::chrono::steady_clock::now() >= deadline) return others(*connection);
        std::this_thread::sleep_for(look_again);
    }
    claim_ = std::move(connection);
    return {};
}

void Presence::settle(Connection& connection) {
    if (claim_) {
        connection.run(
            "insert into meta (name, value) values ('storage.uses_alone', '1')"
            " on conflict (name) do update set value = (meta.value::bigint + 1)::text");
    } else {
        uses_alone_ = read_uses_alone(connection);
    }
    is_settled_ = true;
}

void Presence::check() const {
    if (!claim_) return;
    try {
        claim_->run("select 1");
    } catch (const Failure&) {
        throw Failure(state_connection_lost, "the connection that kept others away from the database was lost");
    }
}

}  // namespace kv::postgres
