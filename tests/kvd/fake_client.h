#pragma once
#include <utility>
#include <vector>

#include "kv/store.h"

// A client that notes what it is asked, and answers what it was told to.
class FakeClient final : public kv::Client {
public:
    void submit(kv::Actor actor, kv::Request request, kv::Completion done) override {
        actors.push_back(std::move(actor));
        requests.push_back(std::move(request));
        done(answer);
    }
    kv::Result<kv::Reply> wait(const kv::Actor&, kv::Request) override { return answer; }

    std::vector<kv::Actor> actors;
    std::vector<kv::Request> requests;
    kv::Result<kv::Reply> answer = kv::Reply(kv::Done{});
};
