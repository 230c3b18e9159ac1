#include "cursor.h"

#include <functional>

#include "crypto/keyring.h"
#include "fuzz.h"

// Cursors: one opens only for the query and the user it was made for, and only as it was given out.
// Broken on purpose: the MAC not compared (found by the corpus).
using namespace kv;
using namespace kv::fuzz;

namespace {

constexpr std::string_view epoch = "epoch";

const crypto::Keyring& keyring() {
    static const std::unique_ptr<crypto::Keyring> keys = crypto::Keyring::open(fixed_key(), CryptoBackend::openssl, {}, StillClock().now()).value();
    return *keys;
}

// Any text, for any binding.
void try_any_text(Input& input) {
    const std::string binding(input.up_to('\n'));
    const std::string text(input.rest());
    const auto position = read_cursor(keyring(), epoch, binding, text);
    if (!position) {
        KV_PROPERTY(position.error().code == Errc::invalid_cursor);
    } else {
        KV_PROPERTY(make_cursor(keyring(), epoch, binding, *position) == text);
    }
}

// A cursor of ours, edited or held against another binding.
void try_edited(Input& input) {
    const std::string binding(input.up_to('\n'));
    const std::string other_binding(input.up_to('\n'));
    const std::string position(input.up_to('\n'));
    const std::string cursor = make_cursor(keyring(), epoch, binding, position);
    std::string edited = cursor;
    while (!input.empty()) edit(edited, input);
    const auto read = read_cursor(keyring(), epoch, other_binding, edited);
    KV_PROPERTY(read.has_value() == (binding == other_binding && cursor == edited));
    if (read) KV_PROPERTY(*read == position);
    KV_PROPERTY(!read_cursor(keyring(), "another", binding, cursor));
}

// ---- through a store ----

struct Query {
    Actor actor;
    std::function<Request(Page page)> make;
};

class Queries {
public:
    Queries() {
        const NamespaceId ns = small_.make_namespace("ns", true);
        const NamespaceId other = small_.make_namespace("other", false);
        for (const NamespaceId& each : {ns, other}) {
            for (const char* key : {"a", "b/c", "b/d", "e"}) {
                small_.put(each, key, "1");
                small_.put(each, key, "2");
            }
        }
        for (const char* user : {"ann", "bob"}) add_user(Actor::trusted(user), ns, other);
        for (std::size_t i = 0; i < queries_.size(); ++i) {
            const auto cursor = ask(i, {});
            KV_PROPERTY(cursor.has_value() && cursor->has_value());
            cursors_.push_back(**cursor);
        }
    }

    std::size_t size() const { return queries_.size(); }
    const std::string& cursor(std::size_t query) const { return cursors_[query]; }
    bool is_worn() const { return asked_ > 3000; }

    // The next cursor, if there is one.
    Result<std::optional<std::string>> ask(std::size_t query, const std::string& cursor) {
        ++asked_;
        Page page;
        page.limit = 1;
        page.cursor = cursor;
        const auto reply = small_.store->wait(queries_[query].actor, queries_[query].make(page));
        if (!reply) return reply.error();
        return std::visit([](const auto& list) { return next_cursor(list); }, *reply);
    }

private:
    template <class List>
    static std::optional<std::string> next_cursor(const List& list) {
        if constexpr (requires { list.next_cursor; }) {
            return list.next_cursor;
        } else {
            return std::nullopt;
        }
    }

    void add_user(const Actor& actor, const NamespaceId& ns, const NamespaceId& other) {
        const auto add = [&](auto request) {
            queries_.push_back({actor, [request](Page page) {
                                    auto asked = request;
                                    asked.page = std::move(page);
                                    return Request(asked);
                                }});
        };
        ListEntries entries;
        entries.ns = ns;
        add(entries);
        entries.prefix = "b/";
        add(entries);
        entries.prefix = "";
        entries.include_values = true;
        add(entries);
        entries.fold_folders = true;
        add(entries);
        entries.ns = other;
        add(entries);
        ListVersions versions;
        versions.ns = ns;
        versions.key_path = "a";
        add(versions);
        versions.key_path = "e";
        add(versions);
        versions.include_values = true;
        add(versions);
        add(ListNamespaces{});
        ListNamespaces of_application;
        of_application.application_id = "a";
        add(of_application);
        ListAudit audit;
        add(audit);
        audit.newest_first = false;
        add(audit);
        audit.success = true;
        add(audit);
    }

    SmallStore small_;
    std::vector<Query> queries_;
    std::vector<std::string> cursors_;
    int asked_ = 0;
};

void try_store(Input& input) {
    static std::unique_ptr<Queries> queries = std::make_unique<Queries>();
    if (queries->is_worn()) queries = std::make_unique<Queries>();  // its audit log grows
    const std::size_t from = input.u8() % queries->size();
    const std::size_t to = input.u8() % queries->size();
    std::string cursor = queries->cursor(from);
    while (!input.empty()) edit(cursor, input);
    if (cursor.empty()) return;  // no cursor at all
    const auto page = queries->ask(to, cursor);
    KV_PROPERTY(page.has_value() == (from == to && cursor == queries->cursor(from)));
    if (!page) KV_PROPERTY(page.error().code == Errc::invalid_cursor);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    switch (input.u8() % 3) {
        case 0: try_any_text(input); break;
        case 1: try_edited(input); break;
        case 2: try_store(input); break;
    }
    return 0;
}
