#include <doctest/doctest.h>

#include "kv/kv.h"

using namespace kv;

TEST_CASE("what was put is what is read, and both are on record") {
    auto store = kv::open("memory:", {});
    REQUIRE(store);
    const Actor actor = Actor::trusted("tester");
    CreateNamespace create;
    create.name = "production";
    create.application_id = "app-123";
    create.is_secret = true;
    REQUIRE((*store)->call(actor, create));
    auto cfg = (*store)->in("app-123", "production", actor);
    auto put = cfg.put("database/host", "localhost");
    REQUIRE_MESSAGE(put, put.error().message);
    auto got = cfg.get<std::string>("database/host");
    REQUIRE_MESSAGE(got, got.error().message);
    CHECK(*got == "localhost");
    auto audit = (*store)->call(actor, ListAudit{});
    REQUIRE(audit);
    CHECK(audit->items.size() == 4);
}
