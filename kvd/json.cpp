#include "kvd/json.h"

#include <algorithm>
#include <span>

#include "grants_json.h"
#include "json/json.h"
#include "kvd/admin.h"
#include "text.h"

namespace kvd {
namespace {

using kv::json::Kind;
using kv::json::Node;

constexpr std::size_t item_faults_max = 1000;  // told of one bulk
constexpr std::size_t key_shown_max = 1024;    // a longer one is no key path

// ---- reading ----

// One member of an object in a body.
struct Member {
    std::string_view name;
    const Node& node;
    std::string_view document;
};

kv::Error fault(std::string_view field, std::string message, kv::Errc code = kv::Errc::invalid_request) {
    kv::Error error{code, std::move(message)};
    error.field = std::string(field);
    return error;
}

kv::Result<void> read(const Member& member, std::string& into) {
    if (member.node.kind != Kind::string) return fault(member.name, "must be a string");
    into = member.node.text;
    return {};
}

kv::Result<void> read(const Member& member, bool& into) {
    if (member.node.kind != Kind::boolean) return fault(member.name, "must be true or false");
    into = member.node.text == "true";
    return {};
}

kv::Result<void> read(const Member& member, std::int64_t& into) {
    std::optional<std::int64_t> number;
    if (member.node.kind == Kind::number) number = kv::json::to_integer(member.node);
    if (!number) return fault(member.name, "must be an integer");
    into = *number;
    return {};
}

kv::Result<void> read(const Member& member, std::uint64_t& into) {
    std::int64_t number = 0;
    KV_CHECK(read(member, number));
    if (number < 0) return fault(member.name, "must not be negative");
    into = static_cast<std::uint64_t>(number);
    return {};
}

kv::Result<void> read(const Member& member, std::uint32_t& into) {
    std::uint64_t number = 0;
    KV_CHECK(read(member, number));
    if (number > UINT32_MAX) return fault(member.name, "is too large");
    into = static_cast<std::uint32_t>(number);
    return {};
}

kv::Result<void> read(const Member& member, kv::Ttl& into) {
    if (member.node.kind == Kind::null) {
        into = kv::Ttl::never();
        return {};
    }
    std::int64_t seconds = 0;
    KV_CHECK(read(member, seconds));
    into = kv::Ttl::after(seconds);
    return {};
}

kv::Result<void> read(const Member& member, std::vector<std::string>& into) {
    if (member.node.kind != Kind::array) return fault(member.name, "must be an array of strings");
    into.reserve(member.node.items.size());
    for (const Node& item : member.node.items) {
        if (item.kind != Kind::string) return fault(member.name, "must be an array of strings");
        into.push_back(item.text);
    }
    return {};
}

template <class T>
kv::Result<void> read(const Member& member, std::optional<T>& into) {
    return read(member, into.emplace());
}

template <class T>
kv::Result<void> read(const Member& member, kv::Change<T>& into) {
    into.emplace();
    return member.node.kind == Kind::null ? kv::Result<void>{} : read(member, into->emplace());
}

// Readers by pointer to member, for the tables below.
template <auto field, class T>
kv::Result<void> into(const Member& member, T& target) {
    return read(member, target.*field);
}

// The same where null means what absence means.
template <auto field, class T>
kv::Result<void> into_or_null(const Member& member, T& target) {
    return member.node.kind == Kind::null ? kv::Result<void>{} : read(member, target.*field);
}

// A member that only answers carry, in the text form libkv compares.
template <class T>
kv::Result<void> echo(const Member& member, T& target) {
    if (member.node.kind == Kind::array || member.node.kind == Kind::object) {
        return fault(member.name, "must be as answers give it");
    }
    std::optional<std::string> text;
    if (member.node.kind != Kind::null) text = member.node.text;
    target.echoed.push_back({std::string(member.name), std::move(text)});
    return {};
}

// The members of one kind of object: what may stand in it, and where it goes.
template <class T>
struct MemberReader {
    std::string_view name;
    kv::Result<void> (*read)(const Member& member, T& target);
};
template <class T>
using MemberTable = std::span<const MemberReader<T>>;

template <class T>
kv::Result<void> read_object(const Node& object, std::string_view document, MemberTable<T> table, T& target) {
    for (std::size_t i = 0; i < object.items.size(); ++i) {
        const std::string& name = object.names[i];
        auto reader = std::find_if(table.begin(), table.end(), [&](const auto& known) { return known.name == name; });
        if (reader == table.end()) return fault(name.substr(0, 64), "this body does not know the member");
        KV_CHECK(reader->read({reader->name, object.items[i], document}, target));
    }
    return {};
}

template <class T>
kv::Result<void> read_document(std::string_view body, MemberTable<T> table, T& target) {
    KV_TRY(Node root, kv::json::parse(body));
    if (root.kind != Kind::object) return kv::Error{kv::Errc::invalid_request, "the body must be a JSON object"};
    return read_object(root, body, table, target);
}

// `version` and `expectedVersion` ask for the same thing.
struct VersionAsked {
    std::optional<std::uint64_t> version;
    std::optional<std::uint64_t> expected_version;
};

kv::Result<void> settle_version(const VersionAsked& asked, kv::Precondition& precondition) {
    if (asked.version && asked.expected_version && *asked.version != *asked.expected_version) {
        return fault("expectedVersion", "version and expectedVersion differ");
    }
    precondition.expected_version = asked.expected_version ? asked.expected_version : asked.version;
    return {};
}

// ---- values ----

struct ValueRead {
    std::optional<kv::ValueInput> input;
    std::optional<kv::ValueType> type;
};

kv::Result<void> read(const Member& member, ValueRead& into) {
    switch (member.node.kind) {
        case Kind::null: return fault(member.name, "a value cannot be null", kv::Errc::invalid_value);
        case Kind::boolean: into.input = kv::ValueInput::boolean(member.node.text == "true"); break;
        case Kind::number: into.input = kv::ValueInput::number(member.node.text); break;
        case Kind::string: into.input = kv::ValueInput::text(member.node.text); break;
        case Kind::array:
        case Kind::object: into.input = kv::ValueInput::json(member.node.source(member.document)); break;
    }
    return {};
}

template <class T>
kv::Result<void> read_value_type(const Member& member, T& target) {
    if (member.node.kind == Kind::string) target.value.type = kv::parse_value_type(member.node.text);
    if (!target.value.type) return fault(member.name, "must be STRING, JSON, NUMBER, BOOLEAN or BINARY");
    return {};
}

kv::Result<kv::ValueInput> settle_value(ValueRead read) {
    if (!read.input) return fault("value", "is missing");
    read.input->type = read.type;
    return *std::move(read.input);
}

kv::Result<void> read_metadata_object(const Member& member, std::string& into) {
    if (member.node.kind != Kind::object) return fault(member.name, "must be an object");
    into = member.node.source(member.document);
    return {};
}

kv::Result<void> read(const Member& member, std::vector<kv::Grant>& into) {
    KV_TRY(into, kv::read_grants(member.node, std::string(member.name)));
    return {};
}

// ---- the tables ----

constexpr MemberReader<kv::CreateToken> create_token_members[] = {
    {"name", into<&kv::CreateToken::name>},
    {"userId", into<&kv::CreateToken::user_id>},
    {"grants", into<&kv::CreateToken::grants>},
    {"ttlSeconds", into_or_null<&kv::CreateToken::ttl_seconds>},
};

constexpr MemberReader<kv::CreateNamespace> create_namespace_members[] = {
    {"name", into<&kv::CreateNamespace::name>},
    {"description", into_or_null<&kv::CreateNamespace::description>},
    {"applicationId", into<&kv::CreateNamespace::application_id>},
    {"isSecretNamespace", into<&kv::CreateNamespace::is_secret>},
    {"defaultTtlSeconds", into_or_null<&kv::CreateNamespace::default_ttl_seconds>},
    {"keepsHistory", into<&kv::CreateNamespace::keeps_history>},
    {"historyLimit", into<&kv::CreateNamespace::history_limit>},
    {"deletionProtection", into<&kv::CreateNamespace::deletion_protection>},
};

struct UpdateNamespaceBody : kv::UpdateNamespace, VersionAsked {};

constexpr MemberReader<UpdateNamespaceBody> update_namespace_members[] = {
    {"id", echo},
    {"name", into<&UpdateNamespaceBody::name>},
    {"description", into<&UpdateNamespaceBody::description>},
    {"applicationId", into<&UpdateNamespaceBody::application_id>},
    {"isSecretNamespace", into<&UpdateNamespaceBody::is_secret>},
    {"defaultTtlSeconds", into<&UpdateNamespaceBody::default_ttl_seconds>},
    {"keepsHistory", into<&UpdateNamespaceBody::keeps_history>},
    {"historyLimit", into<&UpdateNamespaceBody::history_limit>},
    {"deletionProtection", into<&UpdateNamespaceBody::deletion_protection>},
    {"sealing", echo},
    {"version", into<&UpdateNamespaceBody::version>},
    {"expectedVersion", into<&UpdateNamespaceBody::expected_version>},
    {"revision", echo},
    {"createdAt", echo},
    {"createdBy", echo},
    {"updatedAt", echo},
    {"updatedBy", echo},
};

// The body of a PUT, and one item of a bulk set, which alone has `key`.
struct EntryBody : VersionAsked {
    std::optional<std::string> key_path;
    std::optional<std::string> key;
    ValueRead value;
    kv::Ttl ttl;
    std::string metadata = "{}";
    std::string comment;
    std::vector<kv::EchoedMember> echoed;
};

constexpr MemberReader<EntryBody> bulk_item_members[] = {
    {"key", into<&EntryBody::key>},
    {"keyPath", into<&EntryBody::key_path>},
    {"value", into<&EntryBody::value>},
    {"valueType", read_value_type},
    {"ttlSeconds", into<&EntryBody::ttl>},
    {"metadata", [](const Member& member, EntryBody& body) { return read_metadata_object(member, body.metadata); }},
    {"expectedVersion", into<&EntryBody::expected_version>},
    {"version", into<&EntryBody::version>},
    {"comment", into<&EntryBody::comment>},
    {"id", echo},
    {"namespaceId", echo},
    {"revision", echo},
    {"expiresAt", echo},
    {"createdAt", echo},
    {"createdBy", echo},
    {"updatedAt", echo},
    {"updatedBy", echo},
};
constexpr MemberTable<EntryBody> entry_members = MemberTable<EntryBody>(bulk_item_members).subspan(1);

struct PatchBody : kv::PatchEntry, VersionAsked {};

kv::Result<void> read_metadata_patch(const Member& member, PatchBody& body) {
    body.metadata.emplace("null");
    return member.node.kind == Kind::null ? kv::Result<void>{} : read_metadata_object(member, *body.metadata);
}

constexpr MemberReader<PatchBody> patch_members[] = {
    {"ttlSeconds", into<&PatchBody::ttl>},
    {"metadata", read_metadata_patch},
    {"expectedVersion", into<&PatchBody::expected_version>},
};

constexpr MemberReader<kv::Generate> generate_members[] = {
    {"length", into<&kv::Generate::length>},
    {"alphabet",
     [](const Member& member, kv::Generate& generate) -> kv::Result<void> {
         using Alphabet = kv::Generate::Alphabet;
         const std::string& name = member.node.text;
         if (member.node.kind == Kind::string && name == "alphanumeric") generate.alphabet = Alphabet::alphanumeric;
         else if (member.node.kind == Kind::string && name == "hex") generate.alphabet = Alphabet::hex;
         else if (member.node.kind == Kind::string && name == "base64url") generate.alphabet = Alphabet::base64url;
         else if (member.node.kind == Kind::string && name == "ascii") generate.alphabet = Alphabet::ascii;
         else return fault(member.name, "must be alphanumeric, hex, base64url or ascii");
         return {};
     }},
};

struct RotateBody : VersionAsked {
    ValueRead value;
    std::optional<kv::Generate> generate;
    kv::Ttl ttl;
    std::string comment;
};

kv::Result<void> read(const Member& member, kv::Generate& into) {
    if (member.node.kind != Kind::object) return fault(member.name, "must be an object");
    return read_object(member.node, member.document, MemberTable<kv::Generate>(generate_members), into);
}

constexpr MemberReader<RotateBody> rotate_members[] = {
    {"value", into<&RotateBody::value>},
    {"valueType", read_value_type},
    {"generate", [](const Member& member, RotateBody& body) { return read(member, body.generate.emplace()); }},
    {"ttlSeconds", into<&RotateBody::ttl>},
    {"comment", into<&RotateBody::comment>},
    {"expectedVersion", into<&RotateBody::expected_version>},
};

struct RollbackBody : VersionAsked {
    std::optional<std::uint64_t> version_wanted;
    kv::Ttl ttl;
    std::string comment;
};

constexpr MemberReader<RollbackBody> rollback_members[] = {
    {"version", into<&RollbackBody::version_wanted>},
    {"ttlSeconds", into<&RollbackBody::ttl>},
    {"comment", into<&RollbackBody::comment>},
    {"expectedVersion", into<&RollbackBody::expected_version>},
};

constexpr MemberReader<kv::Precondition> delete_members[] = {
    {"expectedVersion", into<&kv::Precondition::expected_version>},
};

struct BulkGetBody {
    std::optional<std::vector<std::string>> keys;
};
constexpr MemberReader<BulkGetBody> bulk_get_members[] = {
    {"keys", into<&BulkGetBody::keys>},
};

struct BulkDeleteBody {
    std::optional<std::vector<std::string>> keys;
    bool atomic = true;
    bool purge = false;
};
constexpr MemberReader<BulkDeleteBody> bulk_delete_members[] = {
    {"keys", into<&BulkDeleteBody::keys>},
    {"atomic", into<&BulkDeleteBody::atomic>},
    {"purge", into<&BulkDeleteBody::purge>},
};

kv::Result<kv::EntryWrite> settle_entry(EntryBody body) {
    kv::EntryWrite write;
    KV_TRY(write.value, settle_value(std::move(body.value)));
    KV_CHECK(settle_version(body, write.precondition));
    write.ttl = body.ttl;
    write.metadata = std::move(body.metadata);
    write.comment = std::move(body.comment);
    write.echoed = std::move(body.echoed);
    return write;
}

kv::Result<kv::EntryWrite> read_bulk_item(const Node& item, std::string_view document) {
    if (item.kind != Kind::object) return kv::Error{kv::Errc::invalid_request, "must be an object"};
    EntryBody body;
    KV_CHECK(read_object(item, document, MemberTable<EntryBody>(bulk_item_members), body));
    if (!body.key_path && !body.key) return fault("keyPath", "is missing");
    if (body.key_path && body.key && *body.key_path != *body.key) return fault("key", "key and keyPath differ");
    std::string key_path = body.key_path ? *std::move(body.key_path) : *std::move(body.key);
    KV_TRY(kv::EntryWrite write, settle_entry(std::move(body)));
    write.key_path = std::move(key_path);
    return write;
}

// Says which item was wrong: by its key if that can be read, always by its place.
kv::Error name_item(kv::Error error, const Node& item, std::size_t index) {
    std::string place = "entries[" + std::to_string(index) + "]";
    error.field = error.field.empty() ? place : place + "." + error.field;
    for (std::string_view name : {"keyPath", "key"}) {
        const Node* key = item.kind == Kind::object ? item.find(name) : nullptr;
        if (!key || key->kind != Kind::string || key->text.size() > key_shown_max) continue;
        if (error.key_path.empty()) error.key_path = key->text;
    }
    return error;
}

struct BulkSetBody {
    std::optional<std::vector<kv::EntryWrite>> entries;
    bool atomic = true;
    std::vector<kv::Error> faults;
};

// Goes on after a faulty item, so that the caller hears of all of them at once.
kv::Result<void> read_bulk_items(const Member& member, BulkSetBody& body) {
    if (member.node.kind != Kind::array) return fault(member.name, "must be an array of objects");
    body.entries.emplace().reserve(member.node.items.size());
    for (std::size_t i = 0; i < member.node.items.size() && body.faults.size() < item_faults_max; ++i) {
        const Node& item = member.node.items[i];
        kv::Result<kv::EntryWrite> write = read_bulk_item(item, member.document);
        if (write) body.entries->push_back(*std::move(write));
        else body.faults.push_back(name_item(std::move(write).error(), item, i));
    }
    return {};
}

constexpr MemberReader<BulkSetBody> bulk_set_members[] = {
    {"entries", read_bulk_items},
    {"atomic", into<&BulkSetBody::atomic>},
};

kv::Result<void> read(const Member& member, kv::StreamId& into) {
    std::string text;
    KV_CHECK(read(member, text));
    const std::optional<kv::StreamId> id = kv::StreamId::parse(text);
    if (!id) return fault(member.name, "must be a UUID");
    into = *id;
    return {};
}

kv::Result<void> read(const Member& member, kv::Mac& into) {
    std::string text;
    KV_CHECK(read(member, text));
    const std::optional<kv::SecretBytes> bytes = kv::hex_decode(text);
    if (!bytes || bytes->size() != into.size()) return fault(member.name, "must be 64 hex digits");
    std::copy_n(bytes->reveal().begin(), into.size(), into.begin());
    return {};
}

constexpr MemberReader<kv::AuditHead> anchor_members[] = {
    {"stream", into<&kv::AuditHead::stream>},
    {"sequence", into<&kv::AuditHead::sequence>},
    {"mac", into<&kv::AuditHead::mac>},
};

kv::Result<void> read(const Member& member, std::vector<kv::AuditHead>& into) {
    if (member.node.kind != Kind::array) return fault(member.name, "must be an array of objects");
    into.reserve(member.node.items.size());
    for (const Node& item : member.node.items) {
        if (item.kind != Kind::object || item.items.size() != std::size(anchor_members))
            return fault(member.name, "must be an array of objects with stream, sequence and mac");
        KV_CHECK(read_object(item, member.document, MemberTable<kv::AuditHead>(anchor_members), into.emplace_back()));
    }
    return {};
}

constexpr MemberReader<StartVerification> start_verification_members[] = {
    {"anchors", into<&StartVerification::anchors>},
};
constexpr MemberReader<ForgetMasterKey> forget_master_key_members[] = {
    {"keyId", into<&ForgetMasterKey::key_id>},
};

struct EmptyBody {};

template <class T>
BodyMembers names_of(std::string_view schema, MemberTable<T> table) {
    BodyMembers members{schema, {}};
    for (const MemberReader<T>& member : table) members.names.push_back(member.name);
    return members;
}

}  // namespace

kv::Result<void> read_body(std::string_view body, kv::CreateNamespace& create) {
    return read_document(body, MemberTable<kv::CreateNamespace>(create_namespace_members), create);
}

kv::Result<void> read_body(std::string_view body, kv::CreateToken& create) {
    return read_document(body, MemberTable<kv::CreateToken>(create_token_members), create);
}

kv::Result<void> read_body(std::string_view body, kv::UpdateNamespace& update) {
    UpdateNamespaceBody read;
    KV_CHECK(read_document(body, MemberTable<UpdateNamespaceBody>(update_namespace_members), read));
    KV_CHECK(settle_version(read, read.precondition));
    update = std::move(read);
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::EntryWrite& write) {
    EntryBody read;
    KV_CHECK(read_document(body, entry_members, read));
    if (read.key_path) read.echoed.push_back({"keyPath", std::move(read.key_path)});
    KV_TRY(write, settle_entry(std::move(read)));
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::PatchEntry& patch) {
    PatchBody read;
    KV_CHECK(read_document(body, MemberTable<PatchBody>(patch_members), read));
    KV_CHECK(settle_version(read, read.precondition));
    patch = std::move(read);
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::BulkGet& get) {
    BulkGetBody read;
    KV_CHECK(read_document(body, MemberTable<BulkGetBody>(bulk_get_members), read));
    if (!read.keys) return fault("keys", "is missing");
    get.keys = *std::move(read.keys);
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::BulkSet& set) {
    BulkSetBody read;
    KV_CHECK(read_document(body, MemberTable<BulkSetBody>(bulk_set_members), read));
    if (!read.faults.empty()) {
        kv::Error error{read.faults.front().code, "some items are not well-formed; nothing was written"};
        error.items = std::move(read.faults);
        return error;
    }
    if (!read.entries) return fault("entries", "is missing");
    set.entries = *std::move(read.entries);
    set.atomic = read.atomic;
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::BulkDelete& remove) {
    BulkDeleteBody read;
    KV_CHECK(read_document(body, MemberTable<BulkDeleteBody>(bulk_delete_members), read));
    if (!read.keys) return fault("keys", "is missing");
    remove.keys = *std::move(read.keys);
    remove.atomic = read.atomic;
    remove.purge = read.purge;
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::RotateEntry& rotate) {
    RotateBody read;
    KV_CHECK(read_document(body, MemberTable<RotateBody>(rotate_members), read));
    if (read.generate && read.value.input) return fault("generate", "takes the place of value: give one of them");
    if (read.generate && read.value.type) return fault("valueType", "does not go with generate");
    if (read.generate) {
        rotate.value = *read.generate;
    } else {
        KV_TRY(rotate.value, settle_value(std::move(read.value)));
    }
    rotate.ttl = read.ttl;
    rotate.comment = std::move(read.comment);
    rotate.precondition.expected_version = read.expected_version;
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::RollbackEntry& rollback) {
    RollbackBody read;
    KV_CHECK(read_document(body, MemberTable<RollbackBody>(rollback_members), read));
    rollback.version = read.version_wanted;
    rollback.ttl = read.ttl;
    rollback.comment = std::move(read.comment);
    rollback.precondition.expected_version = read.expected_version;
    return {};
}

kv::Result<void> read_body(std::string_view body, kv::Precondition& precondition) {
    return read_document(body, MemberTable<kv::Precondition>(delete_members), precondition);
}

kv::Result<void> read_body(std::string_view body, StartVerification& verification) {
    return read_document(body, MemberTable<StartVerification>(start_verification_members), verification);
}

kv::Result<void> read_body(std::string_view body, ForgetMasterKey& forget) {
    KV_CHECK(read_document(body, MemberTable<ForgetMasterKey>(forget_master_key_members), forget));
    if (forget.key_id.empty()) return fault("keyId", "is missing");
    return {};
}

kv::Result<void> read_empty_body(std::string_view body) {
    EmptyBody empty;
    return read_document(body, MemberTable<EmptyBody>(), empty);
}

std::vector<BodyMembers> body_members() {
    return {
        names_of("NamespaceCreate", MemberTable<kv::CreateNamespace>(create_namespace_members)),
        names_of("NamespaceUpdate", MemberTable<UpdateNamespaceBody>(update_namespace_members)),
        names_of("EntryWrite", entry_members),
        names_of("EntryPatch", MemberTable<PatchBody>(patch_members)),
        names_of("DeleteRequest", MemberTable<kv::Precondition>(delete_members)),
        names_of("BulkGetRequest", MemberTable<BulkGetBody>(bulk_get_members)),
        names_of("BulkSetRequest", MemberTable<BulkSetBody>(bulk_set_members)),
        names_of("BulkSetItem", MemberTable<EntryBody>(bulk_item_members)),
        names_of("BulkDeleteRequest", MemberTable<BulkDeleteBody>(bulk_delete_members)),
        names_of("RotateRequest", MemberTable<RotateBody>(rotate_members)),
        names_of("Generate", MemberTable<kv::Generate>(generate_members)),
        names_of("RollbackRequest", MemberTable<RollbackBody>(rollback_members)),
        names_of("TokenCreate", MemberTable<kv::CreateToken>(create_token_members)),
        names_of("VerifyRequest", MemberTable<StartVerification>(start_verification_members)),
        names_of("Anchor", MemberTable<kv::AuditHead>(anchor_members)),
        names_of("ForgetMasterKeyRequest", MemberTable<ForgetMasterKey>(forget_master_key_members)),
    };
}

}  // namespace kvd
