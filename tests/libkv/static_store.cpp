#include <memory>

#include "kv/kv.h"

// A store in a static variable goes when the main thread's own objects are gone already, and closes its audit stream then. The
// sanitizers see what that touches.
// Broken on purpose: the buffer of audit_mac() a plain thread_local variable (use after free).
namespace {

std::unique_ptr<kv::Store> store;

bool put_one() {
    kv::CreateNamespace create;
    create.name = "ns";
    create.is_secret = true;
    const kv::Actor actor = kv::Actor::trusted("tester");
    return store->call(actor, create) && store->in("default", "ns", actor).put("key", "value");
}

}  // namespace

int main() {
    auto opened = kv::open("memory:", {});
    if (!opened) return 1;
    store = *std::move(opened);
    return put_one() ? 0 : 1;
}
