#pragma once
#include <chrono>
#include <memory>
#include <string>

#include "storage/postgres_connection.h"

namespace kv::postgres {

// Who has the database open to write. Those who share it hold a lock of ours, in common, on every connection of their pool.
// Who must be alone holds the same lock for himself, on a connection beside his pool: so he notices the others, and keeps them
// out until he is done or gone. He also counts up a number: whoever opened the database before, lost his connections and
// comes back finds it changed, and is not let in, because the store he knows is not the one that is there now.
//
// The locks end with their connections. A database that lost one (its machine is gone) gives it up when it notices.
//
// Threads: enter() and check() any, the others before those.
class Presence {
public:
    // For each connection that shares the database. Throws Failure where somebody has it for himself, or had since settle().
    void enter(Connection& connection) const;
    // Makes the database ours alone, for as long as this lives. Errc::locked, saying who else has it open, unless those are
    // gone within a moment: the server notices a little later than they do.
    Result<void> claim(std::unique_ptr<Connection> connection);
    // Once the schema is there: notes the number, or counts it up where the database is ours alone.
    void settle(Connection& connection);
    // Throws Failure where the database is ours alone no more, because the connection that said so is lost.
    void check() const;

private:
    std::unique_ptr<Connection> claim_;
    bool is_settled_ = false;
    std::string uses_alone_;  // the number, as it was read
};

}  // namespace kv::postgres
