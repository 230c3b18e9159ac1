#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "json/json.h"
#include "kv/clock.h"
#include "kvd/amqp_job.h"
#include "kvd/amqp_settings.h"
#include "kvd/cloud_event.h"
#include "kvd/config.h"

using kv::SecretBytes;
using kvd::AmqpJob;
using kvd::AmqpUri;

namespace {

// What a URI comes to, or why it is none.
std::string read(const std::string& text) {
    const auto uri = AmqpUri::parse(text);
    if (!uri) return "no: " + uri.error().message.substr(uri.error().message.find("...: ") + 5);
    return std::string(uri->is_tls ? "tls " : "") + uri->host + " " + std::to_string(uri->port) + " [" + uri->vhost + "] " + uri->user.value_or("-") + " " +
           (uri->password ? std::string(uri->password->reveal()) : "-");
}

kv::Event event(std::uint8_t ns, std::uint64_t revision) {
    kv::Event made;
    made.ns = *kv::Uuid::parse("01900000-0000-7000-8000-00000000000" + std::to_string(ns));
    made.application_id = "default";
    made.revision = revision;
    made.entry_id = *kv::Uuid::parse("01900000-0000-7000-8000-0000000000ee");
    made.key_path = "config/database/host";
    made.kind = kv::EventKind::updated;
    made.version = 7;
    made.at = *kv::parse_time("2026-09-21T14:13:20.123Z");
    made.user_id = "alice";
    return made;
}

std::vector<kv::Event> events(std::uint8_t ns, std::uint64_t count) {
    std::vector<kv::Event> made;
    for (std::uint64_t revision = 1; revision <= count; ++revision) made.push_back(event(ns, revision));
    return made;
}

// Publishes what may go, with tags from `tag` on. How many.
std::uint64_t publish(AmqpJob& job, std::uint64_t& tag) {
    std::uint64_t count = 0;
    for (; job.next() != nullptr; ++count) job.published(++tag);
    return count;
}

std::string flags(const AmqpJob& job) {
    std::string shown;
    for (std::size_t i = 0; i < job.size(); ++i) shown += job.is_confirmed(i) ? '1' : '0';
    return shown;
}

kvd::Settings settings(const std::string& uri) {
    kvd::Settings made;
    made.amqp = uri;
    return made;
}

std::string refusal(const kvd::Settings& settings, const std::optional<SecretBytes>& password = {}) {
    const auto loaded = load_amqp(settings, password);
    return loaded ? "" : loaded.error().message;
}

}  // namespace

// ---- the URI ----

TEST_CASE("a URI says where RabbitMQ is, and who asks") {
    CHECK(read("amqp://kvd@rabbit.example") == "rabbit.example 5672 [/] kvd -");
    CHECK(read("amqps://kvd@rabbit.example") == "tls rabbit.example 5671 [/] kvd -");
    CHECK(read("amqp://localhost:5673/") == "localhost 5673 [] - -");
    CHECK(read("amqp://localhost/%2F") == "localhost 5672 [/] - -");
    CHECK(read("amqp://localhost/prod") == "localhost 5672 [prod] - -");
    CHECK(read("amqp://localhost/prod%2fevents") == "localhost 5672 [prod/events] - -");
    CHECK(read("amqp://user%40example:p%61ss%3Aw%40rd%2F@[::1]:1/v") == "::1 1 [v] user@example pass:w@rd/");
    CHECK(read("amqp://kvd:@localhost") == "localhost 5672 [/] kvd ");
    CHECK(read("amqp://kvd:a:b@localhost") == "localhost 5672 [/] kvd a:b");
    CHECK(read("amqp://127.0.0.1:65535") == "127.0.0.1 65535 [/] - -");
}

// Broken on purpose, and noticed: "%00" decoded, the last '@' taken for the end of the user, '?' let through.
TEST_CASE("a malformed URI is refused, whatever is in it") {
    const std::string planted = "pl4nted-s3cret";
    const std::vector<std::string> malformed = {
        "", "amqp", "amqp:", "amqp:/", "amqp://", "http://localhost", "AMQP://localhost", " amqp://localhost", "amqp://localhost ",
        "amqp://:5672", "amqp://localhost:", "amqp://localhost:0", "amqp://localhost:65536", "amqp://localhost:-1", "amqp://localhost:+1",
        "amqp://localhost:5672x", "amqp://localhost:99999999999999999999", "amqp://@localhost", "amqp://:x@localhost", "amqp://a@b@localhost",
        "amqp://a:b@c:d@localhost", "amqp://kvd:pa/ss@localhost", "amqp://kvd:pa ss@localhost", "amqp://kvd:pa%ss@localhost",
        "amqp://kvd:pass%@localhost", "amqp://kvd:pass%4@localhost", "amqp://kvd:p%00ss@localhost", "amqp://k%00d@localhost",
        "amqp://localhost/%00", "amqp://localhost/a/b", "amqp://localhost/%", "amqp://localhost/%GG", "amqp://localhost/v%ff", "amqp://k%ffd@localhost",
        "amqp://localhost/v%0Aw", "amqp://localhost/v?heartbeat=1", "amqp://localhost?x", "amqp://localhost#x", "amqp://local%68ost", "amqp://local\nhost",
        "amqp://[::1", "amqp://::1", "amqp://[::1]x", "amqp://[]", "amqp://[localhost]", "amqp://[::1]:", "amqp://a,b", "amqp://localhost,other:1",
        std::string("amqp://local\0host", 17), std::string("amqp://localhost\0", 17), "amqp://l\xc3\xb6" "calhost", "amqp://localhost/\xff",
        "amqp://localhost/" + std::string(256, 'v'), "amqp://" + std::string(256, 'h'), "amqp://" + std::string(256, 'u') + "@localhost",
        "amqp://localhost/" + std::string(5000, '%'), std::string(100'000, 'a'), "amqp://kvd:" + std::string(5000, 'p') + "@localhost"};
    for (std::string text : malformed) {
        CAPTURE(text);
        CHECK(read(text).starts_with("no: "));
        // Wherever a password stands by mistake, it is not told.
        for (std::size_t at : {text.size(), text.find("//"), std::size_t{0}}) {
            if (at == std::string::npos || text.size() > 4096) continue;
            std::string with = text;
            with.insert(at, planted);
            const auto uri = AmqpUri::parse(with);
            if (!uri) CHECK(uri.error().message.find(planted) == std::string::npos);
        }
    }
}

TEST_CASE("the password comes from one place, and is in no complaint") {
    CHECK(refusal(settings("amqp://kvd@localhost")) == "--amqp needs a password: KVD_AMQP_PASSWORD or --amqp-password-file");
    CHECK(refusal(settings("amqp://localhost"), SecretBytes("pl4nted")) == "--amqp names no user for the password");
    CHECK(refusal(settings("amqp://kvd:pl4nted@localhost"), SecretBytes("pl4nted")) ==
          "the password for --amqp is given twice: in the URI, KVD_AMQP_PASSWORD or --amqp-password-file");
    CHECK(refusal(settings("amqp://kvd@localhost"), SecretBytes(std::string_view("a\0b", 3))) == "KVD_AMQP_PASSWORD holds a NUL");
    const auto given = load_amqp(settings("amqp://kvd@localhost"), SecretBytes("pass word"));
    REQUIRE(given);
    CHECK((*given)->uri.password->reveal() == "pass word");
    const auto guest = load_amqp(settings("amqp://localhost"), {});
    REQUIRE(guest);
    CHECK(*(*guest)->uri.user == "guest");
    CHECK((*guest)->uri.password->reveal() == "guest");
    CHECK((*guest)->place() == "amqp://localhost:5672");
    CHECK(!*load_amqp(kvd::Settings{}, {}));
}

TEST_CASE("files for TLS need TLS, and each other") {
    kvd::Settings plain = settings("amqp://localhost");
    plain.amqp_ca = "/nonexistent";
    CHECK(refusal(plain) == "--amqp-ca, --amqp-cert and --amqp-key need an amqps:// URI in --amqp");
    kvd::Settings half = settings("amqps://localhost");
    half.amqp_certificate = "/nonexistent";
    CHECK(refusal(half) == "--amqp-cert and --amqp-key go together");
    half.amqp_key = "/nonexistent";
    CHECK(refusal(half) == "--amqp-cert: /nonexistent holds no certificate");
    half.amqp_ca = "/nonexistent";
    CHECK(refusal(half) == "--amqp-ca: /nonexistent holds no certificates");
}

// ---- what is sent ----

TEST_CASE("an event is a CloudEvent that names everything but the value") {
    const std::string written = kvd::write_cloud_event(event(1, 42), false);
    CHECK(written ==
          R"({"specversion":"1.0","id":"01900000-0000-7000-8000-000000000001-42","source":"/api/v1/kv/01900000-0000-7000-8000-000000000001",)"
          R"("type":"kv.entry.updated","subject":"config/database/host","time":"2026-09-21T14:13:20.123Z","datacontenttype":"application/json",)"
          R"("data":{"namespaceId":"01900000-0000-7000-8000-000000000001","applicationId":"default",)"
          R"("entryId":"01900000-0000-7000-8000-0000000000ee","keyPath":"config/database/host","version":7,"revision":42,"userId":"alice","kind":"updated"}})");
    const std::string hidden = kvd::write_cloud_event(event(1, 42), true);
    CHECK(hidden.find("config") == std::string::npos);
    CHECK(hidden.find("alice") == std::string::npos);
    CHECK(hidden.find("subject") == std::string::npos);
    CHECK(hidden.find(R"("revision":42)") != std::string::npos);
}

TEST_CASE("what was written into the database from outside is still JSON") {
    kv::Event odd = event(1, 1);
    odd.key_path = "a\"b\n\xff";
    odd.user_id = "\xed\xa0\x80";
    CHECK(kv::json::parse(kvd::write_cloud_event(odd, false)));
}

// Broken on purpose, and noticed: '.' left as it is.
TEST_CASE("no application id disturbs the words of a routing key") {
    const std::string rest = ".01900000-0000-7000-8000-000000000001.updated";
    kv::Event named = event(1, 1);
    const auto key = [&](const std::string& application) {
        named.application_id = application;
        return kvd::routing_key(named);
    };
    CHECK(key("App_1-x") == "kv.App_1-x" + rest);
    CHECK(key("my.app") == "kv.my%2Eapp" + rest);
    CHECK(key("#*%/ ") == "kv.%23%2A%25%2F%20" + rest);
    CHECK(key("\xc3\xa4") == "kv.%C3%A4" + rest);
    CHECK(key(std::string(255, 'a')).size() == 255);
    CHECK(key(std::string(255, '.')).size() == 3 + 207 / 3 * 3 + rest.size());
}

// ---- a delivery ----

TEST_CASE("a delivery is done when every message is confirmed, one by one or many at once") {
    AmqpJob job(events(1, 5), false, false, 256);
    std::uint64_t tag = 10;
    CHECK(publish(job, tag) == 5);
    CHECK(!job.is_done());
    CHECK(job.confirm(12, false, true).taken == 1);
    CHECK(flags(job) == "01000");
    CHECK(job.confirm(14, true, true).taken == 3);  // 11, 13 and 14
    CHECK(flags(job) == "11110");
    CHECK(job.confirm(99, false, true).taken == 0);
    CHECK(job.confirm(15, true, true).taken == 1);
    CHECK(job.is_done());
    CHECK(!job.has_refusals());
}

// Broken on purpose, and noticed: held_ left empty; the window left as it was.
TEST_CASE("behind a refused event nothing of its namespace goes, and others go one at a time") {
    std::vector<kv::Event> mixed = {event(1, 1), event(1, 2), event(2, 1), event(1, 3), event(2, 2), event(2, 3)};
    AmqpJob job(mixed, false, false, 2);
    std::uint64_t tag = 0;
    CHECK(publish(job, tag) == 2);  // 1-1 and 1-2
    CHECK(job.confirm(1, false, false).refused == 1);
    CHECK(publish(job, tag) == 0);  // 1-2 is under way
    CHECK(job.confirm(2, false, true).taken == 1);
    CHECK(publish(job, tag) == 1);  // 2-1
    CHECK(job.confirm(3, false, true).taken == 1);
    CHECK(publish(job, tag) == 1);  // 2-2
    CHECK(job.confirm(4, false, true).taken == 1);
    CHECK(publish(job, tag) == 1);
    CHECK(job.confirm(5, false, true).taken == 1);
    CHECK(job.is_done());
    CHECK(flags(job) == "011011");
    CHECK(job.has_refusals());
}

TEST_CASE("after a refusal the window opens as messages are taken") {
    AmqpJob job(events(1, 20), false, false, 1);
    std::uint64_t tag = 0;
    CHECK(publish(job, tag) == 1);
    job.confirm(tag, true, true);
    CHECK(publish(job, tag) == 2);
    job.confirm(tag, true, true);
    CHECK(publish(job, tag) == 4);
    job.confirm(tag, true, true);
    CHECK(publish(job, tag) == 8);
    CHECK(job.window() == 8);
}

// Broken on purpose, and noticed: a message that came back counted as taken.
TEST_CASE("what no queue takes is kept or dropped, as was said") {
    for (const bool drops : {false, true}) {
        AmqpJob job(events(1, 3), false, drops, 256);
        std::uint64_t tag = 0;
        publish(job, tag);
        const std::string* key = job.returned("01900000-0000-7000-8000-000000000001-2");
        REQUIRE(key != nullptr);
        CHECK(*key == "kv.default.01900000-0000-7000-8000-000000000001.updated");
        CHECK(job.returned("01900000-0000-7000-8000-000000000001-9") == nullptr);
        CHECK(job.confirm(3, true, true).taken == 2);
        CHECK(job.is_done());
        CHECK(flags(job) == (drops ? "111" : "101"));
        CHECK(job.has_refusals() == !drops);
        CHECK(job.has_arrived("kv.default."));
    }
}

TEST_CASE("a megabyte under way is enough") {
    std::vector<kv::Event> large = events(1, 256);
    for (kv::Event& one : large) one.key_path = std::string(20'000, 'k');
    AmqpJob job(large, false, false, 256);
    std::uint64_t tag = 0;
    CHECK(publish(job, tag) == 26);  // each has its key path twice
}
