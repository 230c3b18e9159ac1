#include "kvd/watch_stream.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <utility>
#include <vector>

#include "text.h"

namespace {

using std::chrono::milliseconds;

// Notes what it is asked, and tells what it is given.
class FakeWatch final : public kv::Watch {
public:
    void next(milliseconds patience, Done done) override {
        CHECK(!done_);
        patiences.push_back(patience);
        done_ = std::move(done);
    }
    void tell(kv::Result<kv::WatchBatch> batch) {
        REQUIRE(done_);
        std::exchange(done_, nullptr)(std::move(batch));
    }

    std::vector<milliseconds> patiences;

private:
    Done done_;
};

kv::Event event(std::uint64_t revision, kv::EventKind kind) {
    kv::Event event;
    event.ns = *kv::Uuid::parse("0190a3c0-1111-7222-8333-444455556666");
    event.application_id = "app";
    event.revision = revision;
    event.key_path = "a\nb";  // no key is like this, and if one were
    event.kind = kind;
    return event;
}

std::string data_of(std::uint64_t revision, const std::string& kind) {
    const std::string number = std::to_string(revision);
    return "{\"id\":\"0190a3c0-1111-7222-8333-444455556666-" + number +
           "\",\"namespaceId\":\"0190a3c0-1111-7222-8333-444455556666\",\"applicationId\":\"app\",\"entryId\":\"" + kv::Uuid{}.to_string() +
           "\",\"keyPath\":\"a\\nb\",\"kind\":\"" + kind + "\",\"version\":0,\"revision\":" + number +
           ",\"at\":\"1970-01-01T00:00:00.000Z\",\"userId\":null}";
}

// A watch as an answer, read piece by piece.
struct Answered {
    explicit Answered(milliseconds heartbeat, const std::optional<kvd::Standing>& standing = {}) {
        auto terms = std::make_shared<kvd::WatchTerms>();
        terms->pace.heartbeat = heartbeat;
        if (standing) terms->standing.emplace(*standing);
        response = kvd::watch_response(watch, 7, std::move(terms));
    }
    void ask() {
        piece.reset();
        response.source->next([this](kv::Result<kvd::BodySource::Piece> given) {
            CHECK(!piece);
            piece.emplace(std::move(given));
        });
    }
    // What there is; "..." while there is nothing, and what comes behind the last piece is "(end)".
    std::string text() const {
        if (!piece) return "...";
        REQUIRE(*piece);
        return (*piece)->bytes + ((*piece)->is_last ? "(end)" : "");
    }

    std::shared_ptr<FakeWatch> watch = std::make_shared<FakeWatch>();
    kvd::HttpResponse response;
    std::optional<kv::Result<kvd::BodySource::Piece>> piece;
};

constexpr milliseconds hour = std::chrono::hours(1);

}  // namespace

TEST_CASE("a watch is answered with where it begins, and asked only when its reader wants more") {
    Answered answer(hour);
    CHECK(answer.response.body == "retry: 1000\nid: 7\n\n");
    CHECK(answer.response.content_type == "text/event-stream");
    CHECK(answer.response.is_endless);
    CHECK(answer.watch->patiences.empty());
    answer.ask();
    CHECK(answer.text() == "...");
    answer.watch->tell(kv::WatchBatch{{event(8, kv::EventKind::created), event(9, kv::EventKind::rolled_back)}, 9, false});
    CHECK(answer.text() == "id: 8\nevent: created\ndata: " + data_of(8, "created") + "\n\nid: 9\nevent: rolled_back\ndata: " +
                               data_of(9, "rolled_back") + "\n\n");
    CHECK(answer.watch->patiences.size() == 1);
    answer.ask();
    CHECK(answer.watch->patiences.size() == 2);
}

TEST_CASE("a watch is asked again while there is nothing to tell, and never for longer than a credential is trusted") {
    Answered answer(hour);
    answer.ask();
    answer.watch->tell(kv::WatchBatch{{}, 12, false});
    CHECK(answer.text() == "...");
    CHECK(answer.watch->patiences == std::vector<milliseconds>(2, std::chrono::seconds(1)));
}

TEST_CASE("a heartbeat tells how far the watch is, once") {
    Answered answer(milliseconds(0));
    answer.ask();
    answer.watch->tell(kv::WatchBatch{{}, 7, false});
    CHECK(answer.text() == ": heartbeat\n\n");
    answer.ask();
    answer.watch->tell(kv::WatchBatch{{}, 12, false});
    CHECK(answer.text() == ": heartbeat\nid: 12\n\n");
    answer.ask();
    answer.watch->tell(kv::WatchBatch{{}, 12, false});
    CHECK(answer.text() == ": heartbeat\n\n");
    CHECK(answer.watch->patiences == std::vector<milliseconds>(3, milliseconds(0)));
}

TEST_CASE("a gap names the place from which to go on") {
    Answered answer(hour);
    answer.ask();
    answer.watch->tell(kv::WatchBatch{{}, 5, true});
    CHECK(answer.text() == "id: 5\nevent: gap\ndata: {\"revision\":5}\n\n");
}

TEST_CASE("a watch that ends says why") {
    for (const auto& [code, text] : {std::pair(kv::Errc::not_found, "not-found"), std::pair(kv::Errc::shutting_down, "shutting-down")}) {
        Answered answer(hour);
        answer.ask();
        answer.watch->tell(kv::Error{code, "words"});
        CHECK(answer.text() == "event: end\ndata: {\"code\":\"" + std::string(text) + "\"}\n\n(end)");
    }
}

TEST_CASE("a watch whose reader is gone tells nobody") {
    Answered answer(hour);
    answer.ask();
    answer.response.source.reset();
    answer.watch->tell(kv::WatchBatch{{event(8, kv::EventKind::created)}, 8, false});
    CHECK(answer.text() == "...");
}

TEST_CASE("a watch ends with what its token stood for, before anything more is told") {
    std::string path = "/tmp/kvd_watch_test_XXXXXX";
    const int file = mkstemp(path.data());
    REQUIRE(file >= 0);
    ::close(file);
    const kvd::TokenHash hash = kvd::hash_token("the-token");
    const auto write = [&](const std::string& user, const std::string& key) {
        std::ofstream(path) << R"([{"userId":")" << user << R"(","tokenSha256":")"
                            << kv::hex_encode({reinterpret_cast<const char*>(hash.data()), hash.size()})
                            << R"(","grants":[{"permissions":["*"],"applicationId":"a","namespaceId":"a~n","keys":[")" << key << R"("]}]}])";
    };
    write("ann", "a/**");
    auto tokens = kvd::TokenStore::open({.path = path, .root_token = {}});
    REQUIRE(tokens);
    const kvd::Authenticator authenticator({.tokens = tokens->get()});
    const kvd::Peer peer{.address = "127.0.0.1"};
    kvd::Authenticator::Finding found;
    authenticator.identify({.authorization = "Bearer the-token", .peer = &peer}, found);
    REQUIRE(!found.refusal);
    Answered answer(hour, kvd::Standing(authenticator, found.identity, found.actor));
    const kv::WatchBatch news{{event(8, kv::EventKind::created)}, 8, false};

    // The same once more is no change.
    REQUIRE((*tokens)->reload());
    answer.ask();
    answer.watch->tell(news);
    CHECK(answer.text().starts_with("id: 8"));
    answer.ask();
    SUBCASE("taken away") {
        std::ofstream(path) << "[]";
        REQUIRE((*tokens)->reload());
        answer.watch->tell(news);
        CHECK(answer.text() == "event: end\ndata: {\"code\":\"unauthenticated\"}\n\n(end)");
    }
    SUBCASE("other grants") {
        write("ann", "b/**");
        REQUIRE((*tokens)->reload());
        answer.watch->tell(news);
        CHECK(answer.text() == "event: end\ndata: {\"code\":\"credential-changed\"}\n\n(end)");
    }
    SUBCASE("another user, while the reader took his time") {
        answer.watch->tell(news);
        write("bob", "a/**");
        REQUIRE((*tokens)->reload());
        answer.ask();
        CHECK(answer.text() == "event: end\ndata: {\"code\":\"credential-changed\"}\n\n(end)");
        CHECK(answer.watch->patiences.size() == 2);
    }
    ::unlink(path.c_str());
}
