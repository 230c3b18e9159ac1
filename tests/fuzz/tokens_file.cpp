#include "fuzz.h"
#include "json/json.h"
#include "kvd/auth/tokens.h"
#include "text.h"

// The tokens file, and grants as the command line gives them: what is refused is told in one line, what is accepted says again
// what it said.
using namespace kv;
using namespace kv::fuzz;

namespace {

void check_error(const Error& error) { KV_PROPERTY(!error.message.empty() && is_valid_utf8(error.message)); }

void try_file(std::string_view text) {
    const auto table = kvd::TokenTable::parse(text);
    if (!table) return check_error(table.error());
    const auto root = json::parse(text);
    KV_PROPERTY(root.has_value() && table->size() == root->items.size());
    for (const json::Node& token : root->items) {
        if (const json::Node* name = token.find("certificateName")) {
            const kvd::Credential* credential = table->find_certificate(name->text, Time::min());
            KV_PROPERTY(credential != nullptr && credential->user_id == token.find("userId")->text);
            continue;
        }
        const auto bytes = hex_decode(token.find("tokenSha256")->text);
        KV_PROPERTY(bytes.has_value() && bytes->size() == kvd::TokenHash().size());
        kvd::TokenHash hash{};
        std::copy_n(bytes->reveal().begin(), hash.size(), hash.begin());
        const kvd::Credential* credential = table->find(hash, Time::min());
        KV_PROPERTY(credential != nullptr && credential->user_id == token.find("userId")->text);
        KV_PROPERTY(credential->grants->size() == token.find("grants")->items.size());
        for (const Grant& grant : *credential->grants) KV_PROPERTY(!grant.permissions.empty() && !grant.keys.empty());
    }
    KV_PROPERTY(table->find(kvd::hash_token("no token"), Time::min()) == nullptr);
}

// A grant that reads makes a line of a file that reads.
void try_grant(std::string_view text) {
    const auto grant = kvd::parse_grant(text);
    if (!grant) return check_error(grant.error());
    const auto hash = kvd::hash_token("t");
    const auto table = kvd::TokenTable::parse("[" + kvd::token_line("ann", hash, "", {*grant}) + "]");
    KV_PROPERTY(table.has_value() && table->find(hash, Time::min()) != nullptr);
    const auto again = kvd::parse_grant(*grant);
    KV_PROPERTY(again.has_value() && *again == *grant);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::string text(input.rest());
    try_file(text);
    if (is_valid_utf8(text)) try_grant(text);  // an error may show what the command line said
    return 0;
}
