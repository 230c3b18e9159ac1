#include "validate.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "text.h"
#include "value.h"

namespace kv {
namespace {

constexpr std::uint32_t generated_length_min = 16;
constexpr std::uint32_t generated_length_max = 1024;
constexpr std::size_t token_grants_max = 100;
constexpr std::size_t operation_bytes_max = 64;
// Versions are stored as signed 64-bit numbers.
constexpr std::uint64_t version_max = std::numeric_limits<std::int64_t>::max();

constexpr std::int64_t wait_seconds_max = 300;

Error invalid(std::string field, std::string message, Errc code = Errc::invalid_request) {
    Error error{code, std::move(message)};
    error.field = std::move(field);
    return error;
}

Error out_of_range(std::string field, std::uint64_t min, std::uint64_t max) {
    Error error = invalid(field, field + " is a number from " + std::to_string(min) + " to " + std::to_string(max));
    error.limit = max;
    return error;
}

Error too_long(std::string field, std::size_t bytes_max) {
    Error error = invalid(field, field + " is longer than " + std::to_string(bytes_max) + " bytes");
    error.limit = bytes_max;
    return error;
}

// A key that can stand in an error: valid UTF-8, and no longer than a key.
std::string shown_key(std::string_view key_path) {
    const bool can_show = key_path.size() <= key_path_bytes_max && is_valid_utf8(key_path);
    return can_show ? std::string(key_path) : std::string();
}

// ---- texts ----

// One line of text: valid UTF-8 without control characters.
Result<void> check_line(const char* field, std::string_view text, std::size_t bytes_max) {
    if (text.size() > bytes_max) return too_long(field, bytes_max);
    if (!is_valid_utf8(text)) return invalid(field, std::string(field) + " is not valid UTF-8");
    if (has_control_character(text)) return invalid(field, std::string(field) + " holds a control character");
    return {};
}

// Text of any lines. A NUL is refused because not every database can keep it in a text.
Result<void> check_prose(const char* field, std::string_view text, std::size_t bytes_max) {
    if (text.size() > bytes_max) return too_long(field, bytes_max);
    if (!is_valid_utf8(text)) return invalid(field, std::string(field) + " is not valid UTF-8");
    if (text.find('\0') != std::string_view::npos) return invalid(field, std::string(field) + " holds a NUL");
    return {};
}

Result<void> check_identifier(const char* field, std::string_view text, std::string_view forbidden) {
    if (text.empty()) return invalid(field, std::string(field) + " is empty");
    KV_CHECK(check_line(field, text, name_bytes_max));
    for (const char c : forbidden) {
        if (text.find(c) != std::string_view::npos) return invalid(field, std::string(field) + " holds a " + c);
    }
    return {};
}

Result<void> check_name(std::string_view name) { return check_identifier("name", name, "~/"); }
Result<void> check_application_id(std::string_view id) { return check_identifier("applicationId", id, "/"); }

template <class Check, class Text>
Result<void> check_if_given(const std::optional<Text>& text, Check check) {
    if (!text) return {};
    return check(*text);
}

// ---- keys ----

Error invalid_key(std::string_view key_path, std::string message, Errc code = Errc::invalid_key) {
    Error error = invalid("keyPath", std::move(message), code);
    error.key_path = shown_key(key_path);
    return error;
}

// What keys and folders have in common; null if it is well formed.
const char* path_fault(std::string_view path) {
    if (path.empty()) return "is empty";
    if (path.size() > key_path_bytes_max) return "is longer than 1024 bytes";
    if (!is_valid_utf8(path)) return "is not valid UTF-8";
    if (has_control_character(path)) return "holds a control character";
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        const std::string_view segment = path.substr(begin, end - begin);
        if (segment.empty()) return "has an empty segment";
        if (segment == "." || segment == "..") return "has a segment that is . or ..";
        if (segment.size() > key_segment_bytes_max) return "has a segment longer than 255 bytes";
        begin = end + 1;
    }
    return nullptr;
}

Result<void> check_folder(std::string_view folder) {
    if (folder.empty()) return {};
    if (folder.ends_with('/')) folder.remove_suffix(1);
    if (const char* fault = path_fault(folder)) return invalid("prefix", std::string("prefix ") + fault);
    return {};
}

// ---- numbers ----

template <class T>
Result<void> check_range(const char* field, T value, T min, T max) {
    if (value >= min && value <= max) return {};
    return out_of_range(field, static_cast<std::uint64_t>(min), static_cast<std::uint64_t>(max));
}

Result<void> check_ttl(const Ttl& ttl) {
    if (ttl.kind != Ttl::Kind::seconds) return {};
    return check_range<std::int64_t>("ttlSeconds", ttl.seconds, 1, ttl_seconds_max);
}

Result<void> check_default_ttl(std::int64_t seconds) {
    return check_range<std::int64_t>("defaultTtlSeconds", seconds, 1, ttl_seconds_max);
}

Result<void> check_history_limit(const Change<std::uint64_t>& limit) {
    if (!limit || !*limit) return {};
    return check_range<std::uint64_t>("historyLimit", **limit, 1, history_limit_max);
}

Result<void> check_version(std::optional<std::uint64_t> version) {
    if (!version) return {};
    return check_range<std::uint64_t>("version", *version, 1, version_max);
}

Result<void> check_precondition(const Precondition& precondition) {
    if (!precondition.expected_version) return {};
    return check_range<std::uint64_t>("expectedVersion", *precondition.expected_version, 0, version_max);
}

Result<void> check_page(const Page& page, const Limits& limits) {
    if (!page.limit) return {};
    return check_range<std::uint64_t>("limit", *page.limit, 1, limits.page_items_max);
}

// ---- who and where ----

// A name that no namespace can have is one that does not exist. This comes last: what is wrong with the rest of the
// request is told first.
Result<void> check_namespace(const NamespaceRef& ref) {
    const auto* name = std::get_if<NamespaceName>(&ref);
    if (name == nullptr || (check_application_id(name->application_id) && check_name(name->name))) return {};
    return Error{Errc::not_found, "no such namespace"};
}

// ---- bulk ----

Result<void> check_count(const char* field, std::size_t count, const Limits& limits) {
    if (count != 0 && count <= limits.bulk_items_max) return {};
    Error error = invalid(field, std::string(field) + " has 1 to " + std::to_string(limits.bulk_items_max) + " items");
    error.limit = limits.bulk_items_max;
    return error;
}

std::string_view key_of(const std::string& key_path) { return key_path; }
std::string_view key_of(const EntryWrite& write) { return write.key_path; }

template <class Item>
Result<void> check_distinct(const char* field, const std::vector<Item>& items) {
    std::vector<std::string_view> keys;
    keys.reserve(items.size());
    for (const Item& item : items) keys.push_back(key_of(item));
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice == keys.end()) return {};
    Error error = invalid(field, std::string(field) + " names one key twice");
    error.key_path = shown_key(*twice);
    return error;
}

// Judges each item; the answer names all that are wrong and carries the code of the first.
template <class Item, class Check>
Result<void> check_items(const char* field, const std::vector<Item>& items, Check check) {
    std::vector<Error> faults;
    for (std::size_t i = 0; i < items.size(); ++i) {
        Result<void> checked = check(items[i]);
        if (checked) continue;
        Error& fault = faults.emplace_back(std::move(checked).error());
        fault.key_path = shown_key(key_of(items[i]));
        if (fault.key_path.empty()) fault.message += " (item " + std::to_string(i + 1) + ")";
    }
    if (faults.empty()) return {};
    Error error = invalid(field, std::to_string(faults.size()) + " of " + std::to_string(items.size()) + " items are not valid",
                          faults.front().code);
    error.key_path = faults.front().key_path;
    error.items = std::move(faults);
    return error;
}

template <class Item, class Check>
Result<void> check_bulk(const char* field, const std::vector<Item>& items, bool judge_items, const Limits& limits, Check check) {
    KV_CHECK(check_count(field, items.size(), limits));
    if (judge_items) KV_CHECK(check_items(field, items, check));
    return check_distinct(field, items);
}

// ---- one per operation ----

struct Validator {
    const Limits& limits;

    Result<void> operator()(const ListNamespaces& request) const {
        KV_CHECK(check_if_given(request.application_id, check_application_id));
        KV_CHECK(check_if_given(request.name, check_name));
        return check_page(request.page, limits);
    }

    Result<void> operator()(const GetNamespace& request) const { return check_namespace(request.ns); }

    Result<void> operator()(const CreateNamespace& request) const {
        KV_CHECK(check_name(request.name));
        KV_CHECK(check_application_id(request.application_id));
        KV_CHECK(check_prose("description", request.description, description_bytes_max));
        KV_CHECK(check_if_given(request.default_ttl_seconds, check_default_ttl));
        return check_history_limit(request.history_limit);
    }

    Result<void> operator()(const UpdateNamespace& request) const {
        KV_CHECK(check_if_given(request.name, check_name));
        KV_CHECK(check_if_given(request.application_id, check_application_id));
        if (request.description && *request.description) {
            KV_CHECK(check_prose("description", **request.description, description_bytes_max));
        }
        if (request.default_ttl_seconds) KV_CHECK(check_if_given(*request.default_ttl_seconds, check_default_ttl));
        KV_CHECK(check_history_limit(request.history_limit));
        KV_CHECK(check_precondition(request.precondition));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const DeleteNamespace& request) const {
        KV_CHECK(check_precondition(request.precondition));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const RestoreNamespace&) const { return {}; }

    Result<void> operator()(const RotateDataKey& request) const { return check_namespace(request.ns); }

    Result<void> operator()(const GetEntry& request) const {
        KV_CHECK(check_key_path(request.key_path));
        KV_CHECK(check_version(request.version));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const PutEntry& request) const {
        KV_CHECK(validate_write(request.write, limits));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const PatchEntry& request) const {
        KV_CHECK(check_key_path(request.key_path));
        KV_CHECK(check_ttl(request.ttl));
        if (request.metadata && *request.metadata != "null") {
            KV_CHECK(check_metadata(*request.metadata, limits.metadata_bytes_max));
        }
        KV_CHECK(check_precondition(request.precondition));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const DeleteEntry& request) const {
        KV_CHECK(check_key_path(request.key_path));
        KV_CHECK(check_precondition(request.precondition));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const ListEntries& request) const {
        KV_CHECK(check_prefix(request.prefix));
        KV_CHECK(check_page(request.page, limits));
        if (request.wait_seconds < 1 || request.wait_seconds > wait_seconds_max) {
            return invalid("timeoutSeconds", "A wait lasts 1 to 300 seconds.");
        }
        if (request.wait_revision && !request.page.cursor.empty()) {
            return invalid("waitRevision", "Only the first page of a list can be waited for.");
        }
        return check_namespace(request.ns);
    }

    Result<void> operator()(const WatchEntries& request) const {
        KV_CHECK(check_prefix(request.prefix));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const BulkGet& request) const {
        KV_CHECK(check_bulk("keys", request.keys, true, limits, check_key_path));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const BulkSet& request) const {
        const auto check = [this](const EntryWrite& write) { return validate_write(write, limits); };
        KV_CHECK(check_bulk("entries", request.entries, request.atomic, limits, check));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const BulkDelete& request) const {
        KV_CHECK(check_bulk("keys", request.keys, request.atomic, limits, check_key_path));
        return check_namespace(request.ns);
    }

    Result<void> operator()(const RotateEntry& request) const {
        KV_CHECK(check_key_path(request.key_path));
        if (const auto* generate = std::get_if<Generate>(&request.value)) {
            KV_CHECK(check_range("length", generate->length, generated_length_min, generated_length_max));
        }
        return check_rewrite(request);
    }

    Result<void> operator()(const RollbackEntry& request) const {
        KV_CHECK(check_key_path(request.key_path));
        KV_CHECK(check_version(request.version));
        return check_rewrite(request);
    }

    Result<void> operator()(const ListVersions& request) const {
        KV_CHECK(check_key_path(request.key_path));
        KV_CHECK(check_page(request.page, limits));
        return check_namespace(request.ns);
    }

    // The filters look for what was recorded, and refused requests are recorded too: any line of text will do.
    Result<void> operator()(const ListAudit& request) const {
        const auto line = [](const char* field, std::size_t bytes_max) {
            return [=](std::string_view text) { return check_line(field, text, bytes_max); };
        };
        KV_CHECK(check_if_given(request.key_path, line("keyPath", key_path_bytes_max)));
        KV_CHECK(check_if_given(request.user_id, line("userId", name_bytes_max)));
        KV_CHECK(check_if_given(request.credential_id, line("credentialId", name_bytes_max)));
        KV_CHECK(check_if_given(request.operation, line("operation", operation_bytes_max)));
        KV_CHECK(check_page(request.page, limits));
        return check_if_given(request.ns, check_namespace);
    }

    Result<void> operator()(const CreateToken& request) const {
        for (const auto& [field, text] : {std::pair("name", &request.name), {"userId", &request.user_id}}) {
            if (text->empty()) return invalid(field, std::string(field) + " is empty");
            KV_CHECK(check_line(field, *text, name_bytes_max));
        }
        if (request.grants.empty() || request.grants.size() > token_grants_max) return invalid("grants", "A token has 1 to 100 grants.");
        for (std::size_t i = 0; i < request.grants.size(); ++i) {
            const Grant& grant = request.grants[i];
            const std::string field = "grants[" + std::to_string(i) + "]";
            if (grant.permissions.empty()) return invalid(field, "A grant has one permission at least.");
            if (grant.keys.empty() || grant.keys.size() > token_grants_max) return invalid(field, "A grant has 1 to 100 key patterns.");
            KV_CHECK(check_line("applicationId", grant.application_id, name_bytes_max));
        }
        return check_if_given(request.ttl_seconds, [](std::int64_t seconds) { return check_ttl(Ttl::after(seconds)); });
    }

    Result<void> operator()(const ListTokens& request) const { return check_page(request.page, limits); }

    Result<void> operator()(const RevokeToken&) const { return {}; }

    Result<void> operator()(const ExportEntries& request) const {
        KV_CHECK(check_folder(request.prefix));
        return check_namespace(request.ns);
    }

    // The key may be the very thing that was refused: it need not be well formed, only storable.
    Result<void> operator()(const RecordRefusal& request) const {
        if (request.operation.empty()) return invalid("operation", "operation is empty");
        KV_CHECK(check_line("operation", request.operation, operation_bytes_max));
        return check_line("keyPath", request.key_path, key_path_bytes_max);
    }

    // What a rotation and a rollback have in common.
    template <class Rewrite>
    Result<void> check_rewrite(const Rewrite& request) const {
        KV_CHECK(check_ttl(request.ttl));
        KV_CHECK(check_prose("comment", request.comment, comment_bytes_max));
        KV_CHECK(check_precondition(request.precondition));
        return check_namespace(request.ns);
    }
};

}  // namespace

Result<void> check_key_path(std::string_view key_path) {
    if (const char* fault = path_fault(key_path)) return invalid_key(key_path, std::string("the key path ") + fault);
    const std::string_view last = key_path.substr(key_path.rfind('/') + 1);  // npos + 1 is 0
    if (last == "rotate" || last == "rollback" || last == "versions") {
        return invalid_key(key_path, "the last segment names an operation", Errc::reserved_key_segment);
    }
    return {};
}

Result<void> check_actor(const Actor& actor) {
    KV_CHECK(check_line("userId", actor.user_id, name_bytes_max));
    KV_CHECK(check_line("credentialId", actor.credential_id, name_bytes_max));
    KV_CHECK(check_line("applicationId", actor.application_id, name_bytes_max));
    KV_CHECK(check_line("peer", actor.peer, name_bytes_max));
    if (actor.request_id.size() > request_id_bytes_max) return too_long("requestId", request_id_bytes_max);
    const bool is_visible = std::all_of(actor.request_id.begin(), actor.request_id.end(), [](char c) { return c > ' ' && c < 127; });
    if (!is_visible) return invalid("requestId", "requestId holds other than visible ASCII characters");
    return {};
}

Result<void> check_prefix(std::string_view prefix) { return check_line("prefix", prefix, key_path_bytes_max); }

Result<void> validate_write(const EntryWrite& write, const Limits& limits) {
    KV_CHECK(check_key_path(write.key_path));
    KV_CHECK(check_ttl(write.ttl));
    KV_CHECK(check_metadata(write.metadata, limits.metadata_bytes_max));
    KV_CHECK(check_prose("comment", write.comment, comment_bytes_max));
    return check_precondition(write.precondition);
}

Result<void> validate(const Actor& actor, const Request& request, const Limits& limits) {
    KV_CHECK(check_actor(actor));
    return std::visit(Validator{limits}, request);
}

}  // namespace kv
