#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/request.h"
#include "kv/storage.h"

namespace kv {

// One request on its way through the store. Everything random is drawn before planning, so that planning is pure and
// planning again gives the same.
struct Operation {
    Actor actor;
    Request request;

    std::vector<Uuid> fresh_ids;               // for a namespace or entries that the request may create
    std::vector<Result<Value>> values;         // normalised: of a put, or one per item of a bulk set
    std::optional<Error> fault;                // of a bulk's items: told only to those who may write them
    std::optional<SecretBytes> generated;      // of a rotation that asks for one
    std::optional<KeyRow> data_key;            // for a namespace that becomes secret; drawn once its id is known
    std::optional<Result<SecretBytes>> opened; // value of the version that a rollback restores
    std::optional<SecretBytes> token;          // that is to be made
    Mac token_hash{};
    SecretBytes rotated;                       // the rotation's value, fitted to the entry's type
};

// How an operation stands in the audit log.
struct Description {
    AuditAction action;
    std::string_view operation;
    std::string_view key_path = {};
};
Description describe(const Request& request);
bool is_write(const Request& request);
// Roughly the memory a request holds on to.
std::size_t request_bytes(const Request& request);
// The same for what a reply carries beyond its fixed parts.
std::size_t reply_bytes(const Result<Reply>& reply);
// What removes more than it adds, and so may still be done on a disk that is nearly full.
bool makes_room(const Request& request);

// Who changes things when nobody asked: expiry, maintenance, the audit log's own rows.
const Actor& system_actor();

// A row of the audit log for `operation`; stream and sequence come when it is chained.
AuditRecord make_record(const Actor& actor, const Description& what, Time now, const NamespaceRow* ns);

}  // namespace kv
