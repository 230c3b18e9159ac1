// What a host outside our tree does with an installed libkv. argv[1]: a directory to keep the database in.
#include <kv/kv.h>

#include <iostream>
#include <string>

namespace {

template <class T>
T require(const char* what, kv::Result<T> result) {
    if (!result) {
        std::cerr << what << ": " << kv::code_name(result.error().code) << ": " << result.error().message << "\n";
        std::exit(1);
    }
    return *std::move(result);
}

void check(bool holds, const char* what) {
    if (holds) return;
    std::cerr << "not so: " << what << "\n";
    std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
    check(argc == 2, "one argument");
    const std::string uri = std::string("sqlite:") + argv[1] + "/kv.db";
    kv::Options options;
    options.keys = kv::make_fixed_key(kv::generate_master_key());
    const kv::Actor actor = kv::Actor::trusted("package-test");
    {
        auto store = require("open", kv::open(uri, options));
        kv::CreateNamespace create;
        create.name = "production";
        create.application_id = "app-123";
        create.is_secret = true;
        require("create", store->call(actor, create));

        auto secrets = store->in("app-123", "production", actor);
        require("put", secrets.put("database/password", "one"));
        check(require("get", secrets.get<std::string>("database/password")) == "one", "the value put is the value got");
        const kv::Entry rotated = require("rotate", secrets.rotate("database/password", kv::ValueInput::text("two")));
        check(rotated.version == 2, "a rotation makes version 2");
        check(secrets.get<std::string>("database/host") == kv::Errc::not_found, "what was not put is not found");
    }
    {
        auto store = require("open again", kv::open(uri, options));
        auto secrets = store->in("app-123", "production", actor);
        check(require("get", secrets.get<std::string>("database/password")) == "two", "the rotated value was kept");
        try {
            secrets.get<std::string>("database/host").value();
            check(false, "value() throws");
        } catch (const kv::Exception& exception) {
            check(exception.error().code == kv::Errc::not_found, "value() throws the error across the library's border");
        }
    }
    kv::Options other;
    other.keys = kv::make_fixed_key(kv::generate_master_key());
    check(kv::open(uri, other) == kv::Errc::wrong_key, "another master key is refused");
    std::cout << "libkv " << KV_VERSION << " works\n";
}
