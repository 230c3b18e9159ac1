#include <cstring>
#include <optional>
#include <span>

#include "authorize.h"
#include "fuzz.h"
#include "json/json.h"
#include "kvd/json.h"
#include "kvd/query.h"
#include "kvd/routes.h"
#include "text.h"

// A path on its way to a row: the key that is judged, the key in the audit log and the key in the store are the one that the
// path spells when it is decoded once, or the request is refused.
// Broken on purpose: a key decoded twice (found by the corpus).
using namespace kv;
using namespace kv::fuzz;

namespace {

constexpr std::string_view base = "/api/v1/kv/";
constexpr std::string_view name_of_namespace = "a~n";

// ---- the rules once more, as HTTP.md says them ----

std::optional<std::string> decode_once(std::string_view raw) {
    const auto digit = [](char c) { return std::string_view("0123456789abcdef").find(c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c); };
    std::string out;
    while (!raw.empty()) {
        if (raw.front() != '%') {
            out += raw.front();
            raw.remove_prefix(1);
            continue;
        }
        if (raw.size() < 3) return std::nullopt;
        const std::size_t high = digit(raw[1]);
        const std::size_t low = digit(raw[2]);
        if (high == std::string_view::npos || low == std::string_view::npos) return std::nullopt;
        out += static_cast<char>(high * 16 + low);
        raw.remove_prefix(3);
    }
    return out;
}

bool is_key(std::string_view key) {
    if (key.empty() || key.size() > 1024 || !is_valid_utf8(key)) return false;
    for (std::size_t i = 0; i < key.size(); ++i) {
        const auto byte = static_cast<std::uint8_t>(key[i]);
        if (byte < 0x20 || byte == 0x7f) return false;
        if (byte == 0xc2 && static_cast<std::uint8_t>(key[i + 1]) < 0xa0) return false;  // U+0080 to U+009F
    }
    std::string_view last;
    for (std::string_view rest = key;;) {
        const std::size_t slash = rest.find('/');
        last = rest.substr(0, slash);
        if (last.empty() || last == "." || last == ".." || last.size() > 255) return false;
        if (slash == std::string_view::npos) break;
        rest.remove_prefix(slash + 1);
    }
    return last != "rotate" && last != "rollback" && last != "versions";
}

struct Spelled {
    std::optional<std::string> ns;
    std::optional<std::string> key;
};

// What a path says of an entry; nothing if it is not that of one.
std::optional<Spelled> read_path(std::string_view path) {
    if (!path.starts_with(base)) return std::nullopt;
    path.remove_prefix(base.size());
    const std::size_t slash = path.find('/');
    constexpr std::string_view entries = "/entries/";
    if (slash == std::string_view::npos || !path.substr(slash).starts_with(entries)) return std::nullopt;
    return Spelled{decode_once(path.substr(0, slash)), decode_once(path.substr(slash + entries.size()))};
}

bool fits(std::string_view pattern, std::string_view key) {
    if (pattern == "*") return true;
    if (pattern.ends_with("/**")) {
        const std::string_view folder = pattern.substr(0, pattern.size() - 2);
        return key.size() > folder.size() && key.starts_with(folder);
    }
    return pattern == key;
}

// A spelling of the key in which bytes are escaped as `how` says, and those that must be.
std::string spell(std::string_view key, std::string_view how) {
    std::string out;
    for (std::size_t i = 0; i < key.size(); ++i) {
        const auto byte = static_cast<std::uint8_t>(key[i]);
        const bool must = byte <= 0x20 || byte >= 0x7f || std::strchr("%?#+&", key[i]) != nullptr;
        if (must || (!how.empty() && how[i % how.size()] % 3 == 0)) {
            out += "%" + hex_encode({&key[i], 1});
        } else {
            out += key[i];
        }
    }
    return out;
}

// ---- the server ----

class Server {
public:
    Server() : id_(small_.make_namespace("n", true)), client_(*small_.store), router_(client_) { new_audit(); }

    bool is_worn() const { return position_ > 4000; }

    // The status, and the body.
    std::pair<unsigned, std::string> ask(std::string_view method, std::string_view path, const Actor& actor, std::string_view body = {},
                                         std::string_view query = {}) {
        auto matched = kvd::match_route(method, path);
        auto* match = std::get_if<kvd::RouteMatch>(&matched);
        if (match == nullptr) return {404, {}};
        kvd::HttpRequest request;
        request.method = method;
        request.path = path;
        request.query = query;
        request.body = body;
        std::pair<unsigned, std::string> answer{0, {}};
        int answers = 0;
        router_.handle(std::move(*match), std::move(request), Actor(actor), [&](kvd::HttpResponse response) {
            answer = {response.status, response.body};
            ++answers;
        });
        KV_PROPERTY(answers == 1);
        return answer;
    }

    std::vector<std::string> stored_keys() {
        std::vector<std::string> keys;
        EntryWalk walk;
        walk.values = false;
        const auto rows = small_.storage->walk_entries(walk).value();
        for (const EntryRow& row : rows) {
            if (!row.is_tombstone) keys.push_back(row.key_path);
        }
        return keys;
    }

    // The keys of the rows that were recorded since the last time.
    std::vector<std::string> new_audit() {
        AuditRange range;
        range.newest_first = false;
        range.after = position_;
        const auto rows = small_.storage->scan_audit(range).value().rows;
        std::vector<std::string> keys;
        for (const AuditRow& row : rows) {
            keys.push_back(row.record.key_path);
            position_ = row.position;
        }
        return keys;
    }

    NamespaceRow row() {
        const EntryRef ref{id_, "", {}};
        return *small_.storage->find(std::span(&ref, 1), {}).value().front().ns;
    }
    bool is_ours(std::string_view ns) const {
        const auto id = Uuid::parse(ns);
        return id ? *id == id_ : ns == name_of_namespace;
    }

private:
    SmallStore small_;
    NamespaceId id_;
    WaitingClient client_;
    kvd::Router router_;
    std::uint64_t position_ = 0;
};

// ---- what must hold ----

Actor make_actor(std::string_view patterns, std::vector<std::string>& accepted) {
    Grant grant;
    grant.permissions = {Permission::entry_read, Permission::entry_write, Permission::entry_delete, Permission::secret_rotate,
                         Permission::namespace_read};
    grant.keys.clear();
    while (!patterns.empty()) {
        const std::size_t end = std::min(patterns.find(' '), patterns.size());
        const std::string text(patterns.substr(0, end));
        patterns.remove_prefix(std::min(end + 1, patterns.size()));
        if (auto pattern = KeyPattern::parse(text)) {
            grant.keys.push_back(*pattern);
            accepted.push_back(text);
        }
    }
    return Actor::with_grants("ann", {grant});
}

// Lists ask by ranges what single requests ask by patterns. Only of what can be a key: the range of a/** begins at "a/", which
// it does not match and which is none.
void check_ranges(const Actor& actor, const NamespaceRow& ns, std::string_view key, bool is_allowed) {
    const Rights rights(actor, ns);
    KV_PROPERTY(rights.allows(Permission::entry_write, key) == is_allowed);
    bool is_in_range = false;
    for (const KeyRange& range : rights.ranges(Permission::entry_write)) {
        if (key >= range.from && (range.to.empty() || key < range.to)) is_in_range = true;
    }
    KV_PROPERTY(is_in_range == is_allowed);
}

std::string key_in(std::string_view body) {
    const auto root = json::parse(body);
    KV_PROPERTY(root.has_value());
    const json::Node* key = root->find("keyPath");
    KV_PROPERTY(key != nullptr);
    return key->text;
}

// The key was written: every other way to it leads to the same row.
void check_written(Server& server, const Actor& actor, std::string_view path, const std::string& key, std::string_view how) {
    KV_PROPERTY(server.stored_keys() == std::vector<std::string>{key});
    const std::string prefix = std::string(base) + std::string(name_of_namespace) + "/entries/";
    for (const std::string& other : {std::string(path), prefix + spell(key, how), prefix + spell(key, {})}) {
        const auto [status, body] = server.ask("GET", other, actor);
        KV_PROPERTY(status == 200 && key_in(body) == key);
        KV_PROPERTY(server.new_audit() == std::vector<std::string>{key});
    }
    const auto listed = server.ask("GET", std::string(base) + std::string(name_of_namespace) + "/entries", actor, {}, "prefix=" + spell(key, how));
    const auto list = json::parse(listed.second);
    KV_PROPERTY(listed.first == 200 && list.has_value() && list->find("items")->items.size() == 1);
    KV_PROPERTY(list->find("items")->items.front().find("keyPath")->text == key);
    const auto removed = server.ask("DELETE", path, actor, {}, "purge=true");
    KV_PROPERTY(removed.first == 204 && server.stored_keys().empty());
    server.new_audit();
}

}  // namespace

// Patterns in the first line, the path in the second, how to spell it otherwise behind it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static std::unique_ptr<Server> server = std::make_unique<Server>();
    if (server->is_worn()) server = std::make_unique<Server>();

    Input input(data, size);
    std::vector<std::string> patterns;
    const Actor actor = make_actor(input.up_to('\n'), patterns);
    const std::string path(input.up_to('\n'));
    const std::string_view how = input.rest();
    // The rest never gets so far: framing refuses it.
    const bool is_visible = std::all_of(path.begin(), path.end(), [](char c) { return c > 0x20 && c < 0x7f && c != '?' && c != '#'; });
    if (!path.starts_with('/') || !is_visible) return 0;

    const auto spelled = read_path(path);
    const auto [status, body] = server->ask("PUT", path, actor, R"({"value":"v"})");
    if (!spelled) {
        KV_PROPERTY(status >= 400 && server->stored_keys().empty());
        server->new_audit();
        return 0;
    }
    const bool is_valid = spelled->ns && spelled->key && is_key(*spelled->key);
    const std::string key = spelled->key.value_or("");
    const bool is_allowed = std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) { return fits(pattern, key); });
    if (is_key(key)) check_ranges(actor, server->row(), key, is_allowed);
    unsigned expected = 201;
    if (!is_valid) expected = 400;
    else if (!server->is_ours(*spelled->ns) || patterns.empty()) expected = 404;
    else if (!is_allowed) expected = 403;
    KV_PROPERTY(status == expected);

    const std::vector<std::string> recorded = server->new_audit();
    KV_PROPERTY(recorded.size() == 1);
    KV_PROPERTY(recorded.front() == key || (!is_valid && recorded.front().empty()));
    if (status == 201) {
        KV_PROPERTY(key_in(body) == key);
        check_written(*server, actor, path, key, how);
    } else {
        KV_PROPERTY(server->stored_keys().empty());
    }
    return 0;
}
