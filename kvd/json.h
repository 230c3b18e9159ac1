#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kv/admin.h"
#include "kv/events.h"
#include "kv/request.h"

namespace kvd {

struct StartVerification;
struct ForgetMasterKey;

// JSON <-> kv types, as HTTP.md lists the members. A body is read strictly: what is no JSON is Errc::malformed_body; an unknown member
// or one of the wrong type Errc::invalid_request naming it. Rules about values belong to libkv.

// Each fills what the body says into a request whose other members the caller sets.
kv::Result<void> read_body(std::string_view body, kv::CreateNamespace& create);
kv::Result<void> read_body(std::string_view body, kv::CreateToken& create);
kv::Result<void> read_body(std::string_view body, kv::UpdateNamespace& update);
kv::Result<void> read_body(std::string_view body, kv::EntryWrite& write);
kv::Result<void> read_body(std::string_view body, kv::PatchEntry& patch);
kv::Result<void> read_body(std::string_view body, kv::BulkGet& get);
kv::Result<void> read_body(std::string_view body, kv::BulkSet& set);
kv::Result<void> read_body(std::string_view body, kv::BulkDelete& remove);
kv::Result<void> read_body(std::string_view body, kv::RotateEntry& rotate);
kv::Result<void> read_body(std::string_view body, kv::RollbackEntry& rollback);
// {"expectedVersion": N}, all that a DELETE may carry.
kv::Result<void> read_body(std::string_view body, kv::Precondition& precondition);
kv::Result<void> read_body(std::string_view body, StartVerification& verification);
kv::Result<void> read_body(std::string_view body, ForgetMasterKey& forget);
// {} and nothing else.
kv::Result<void> read_empty_body(std::string_view body);

// What a body may carry, by the name of its schema in the API document.
struct BodyMembers {
    std::string_view schema;
    std::vector<std::string_view> names;
};
std::vector<BodyMembers> body_members();

// Text that a JSON writer takes: a key at fault may be bytes that are no UTF-8 (that is one way for it to be at fault), and so
// may be what somebody wrote into the database. What is no UTF-8 becomes U+FFFD.
std::string printable(std::string_view text);

std::string write_json(const kv::Namespace& ns);
std::string write_json(const kv::NamespaceList& list);
std::string write_json(const kv::TokenReply& made);  // the caller wipes it
std::string write_json(const kv::TokenList& list);
std::string write_json(const kv::Entry& entry);
// `with_prefixes`: the request had a delimiter, so that the answer has `prefixes`, be it empty.
std::string write_json(const kv::EntryList& list, bool with_prefixes);
std::string write_json(const kv::VersionList& list);
std::string write_json(const kv::BulkGetReply& reply);
std::string write_json(const kv::BulkSetReply& reply);
std::string write_json(const kv::BulkDeleteReply& reply);
std::string write_json(const kv::AuditList& list);

std::string write_json(const kv::VerifyReport& report);
// One row as a line of JSON without its end, with the members that AuditList has.
std::string write_json(const kv::AuditRecord& record);
// The same of one event.
std::string write_json(const kv::Event& event);

// The members of an RFC 9457 problem. Error::detail is never shown.
std::string write_problem(const kv::Error& error, unsigned status, std::string_view request_id);

}  // namespace kvd
