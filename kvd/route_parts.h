#pragma once
#include <cstdint>
#include <optional>

#include "kvd/query.h"
#include "kvd/routes.h"

// The two halves of a route, one pair for each operation: what the table in routes.cpp is made of.
namespace kvd::parse {

using Parse = kv::Result<kv::Request>(const RouteMatch& match, const HttpRequest& request);
Parse list_namespaces, create_namespace, get_namespace, update_namespace, delete_namespace, restore_namespace;
Parse list_entries, get_entry, put_entry, patch_entry, delete_entry, watch_entries;
Parse bulk_get, bulk_set, bulk_delete;
Parse rotate, list_versions, rollback;
Parse list_tokens, create_token, revoke_token;
Parse list_audit, export_entries;

}  // namespace kvd::parse

namespace kvd::render {

using Render = HttpResponse(const RouteMatch& match, const HttpRequest& request, kv::Reply reply);
Render namespace_list, namespace_created, namespace_one;
Render entry_list, entry_read, entry_written, watch;
Render bulk_got, bulk_set, bulk_deleted;
Render version_list, audit_list, exported;
Render token_list, token_created;
Render no_content;

// Routes that answer by themselves.
using Answer = HttpResponse(const RouteMatch& match, const HttpRequest& request);
Answer openapi, viewer;

}  // namespace kvd::render

namespace kvd {

// GET of an entry was asked for its bytes alone.
bool wants_bytes(const HttpRequest& request);
// Where a watch is to begin: behind the last event its client knows of, or behind `fromRevision`. Empty: now.
kv::Result<std::optional<std::uint64_t>> watch_position(const Query& query, const HttpRequest& request);

}  // namespace kvd
