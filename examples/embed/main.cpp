// A host program that keeps its configuration in libkv.
#include <kv/kv.h>

#include <iostream>

int main() {
    kv::Options options;
    options.keys = kv::make_fixed_key(kv::generate_master_key());  // a real host keeps its key: kv::read_master_key_file
    auto store = kv::open("memory:", options).value();             // or "sqlite:kv.db"

    const kv::Actor actor = kv::Actor::trusted("worker");
    kv::CreateNamespace production;
    production.application_id = "app-123";
    production.name = "production";
    store->call(actor, production).value();

    auto config = store->in("app-123", "production", actor);
    config.put("database/port", 5432).value();
    std::cout << config.get<std::string>("database/host").value_or("localhost") << ":"
              << config.get<std::int64_t>("database/port").value() << "\n";
}
