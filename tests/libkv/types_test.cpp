#include "kv/types.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "kv/clock.h"
#include "kv/request.h"
#include "kv/result.h"
#include "kv/secret.h"
#include "kv/storage.h"

namespace {

using namespace std::string_literals;
using kv::Errc;
using kv::Error;
using kv::Result;
using kv::SecretBytes;

// A namespace reference as text.
std::string referred(std::string_view text) {
    auto ref = kv::parse_namespace_ref(text);
    if (!ref) return "none";
    if (const auto* id = std::get_if<kv::NamespaceId>(&*ref)) return "id " + id->to_string();
    const auto& name = std::get<kv::NamespaceName>(*ref);
    return "application " + name.application_id + " name " + name.name;
}

std::string reformatted(std::string_view text) {
    auto time = kv::parse_time(text);
    return time ? kv::format_time(*time) : "none";
}

Result<int> half_of(int number) {
    if (number % 2 != 0) return Error{Errc::invalid_value, "odd"};
    return number / 2;
}

Result<int> quarter_of(int number) {
    KV_TRY(const int half, half_of(number));
    return half_of(half);
}

Result<void> require_even(int number) {
    KV_CHECK(half_of(number));
    return {};
}

}  // namespace

TEST_CASE("an id is written in lower case and read in any") {
    const std::string text = "018f1e2a-7b3c-7def-8123-456789abcdef";
    auto id = kv::Uuid::parse("018F1E2A-7b3c-7DEF-8123-456789ABCDEF");
    REQUIRE(id);
    CHECK(id->to_string() == text);
    CHECK(*id == kv::Uuid::parse(text));
    CHECK_FALSE(id->is_nil());
    CHECK(kv::Uuid{}.is_nil());
    CHECK(kv::Uuid{}.to_string() == "00000000-0000-0000-0000-000000000000");
}

TEST_CASE("only the 36-character form is an id") {
    for (const char* text : {"", "018f1e2a7b3c7def8123456789abcdef", "{018f1e2a-7b3c-7def-8123-456789abcdef}", "018f1e2a-7b3c-7def-8123-456789abcde",
                             "018f1e2a-7b3c-7def-8123-456789abcdefa", "018f1e2a-7b3c-7def-8123-456789abcdeg", "018f1e2a07b3c-7def-8123-456789abcdef",
                             "018f1e2-a7b3c-7def-8123-456789abcdef", "018f1e2a-7b3c-7def-8123-456789abcd f"}) {
        CAPTURE(text);
        CHECK_FALSE(kv::Uuid::parse(text));
    }
}

TEST_CASE("ids sort by their bytes, and so by the time they were made") {
    CHECK(*kv::Uuid::parse("018f1e2a-0000-7000-8000-000000000000") < *kv::Uuid::parse("018f1e2b-0000-7000-8000-000000000000"));
    CHECK(*kv::Uuid::parse("7fffffff-ffff-7fff-8fff-ffffffffffff") < *kv::Uuid::parse("80000000-0000-7000-8000-000000000000"));
}

TEST_CASE("a namespace is referred to by id or by application and name") {
    CHECK(referred("018F1E2A-7b3c-7def-8123-456789abcdef") == "id 018f1e2a-7b3c-7def-8123-456789abcdef");
    CHECK(referred("default~app") == "application default name app");
    CHECK(referred("team~a~app") == "application team~a name app");  // names hold no tilde, application ids may
    for (const char* text : {"", "app", "~app", "default~", "~", "018f1e2a-7b3c-7def-8123-456789abcdeg"}) {
        CAPTURE(text);
        CHECK(referred(text) == "none");
    }
}

TEST_CASE("every named thing has one name and is found by it") {
    for (const char* name : {"STRING", "JSON", "NUMBER", "BOOLEAN", "BINARY"}) {
        REQUIRE(kv::parse_value_type(name));
        CHECK(kv::to_string(*kv::parse_value_type(name)) == name);
    }
    for (const char* name : {"READ", "WRITE", "DELETE", "ROTATE", "ROLLBACK"}) {
        REQUIRE(kv::parse_audit_action(name));
        CHECK(kv::to_string(*kv::parse_audit_action(name)) == name);
    }
    for (int i = 0; i < kv::permission_count; ++i) {
        const auto permission = static_cast<kv::Permission>(i);
        CHECK(kv::parse_permission(kv::to_string(permission)) == permission);
    }
    CHECK(kv::to_string(kv::Permission::secret_rotate) == "kv-secret:rotate");
    CHECK(kv::to_string(kv::Permission::admin) == "kv-admin");
    CHECK(kv::to_string(kv::Reason::create) == "CREATE");
    CHECK(kv::to_string(kv::Reason::expiry) == "EXPIRY");
    CHECK(kv::to_string(kv::EventKind::created) == "created");
    CHECK(kv::to_string(kv::EventKind::rolled_back) == "rolled_back");
    CHECK(kv::to_string(kv::EventKind::touched) == "touched");
    CHECK(kv::to_string(kv::AuditAction::delete_) == "DELETE");
    for (const char* name : {"", "string", "STRING ", "STR"}) CHECK_FALSE(kv::parse_value_type(name));
    CHECK_FALSE(kv::parse_audit_action("LIST"));
    CHECK_FALSE(kv::parse_permission("kv-entry"));
}

TEST_CASE("a set of permissions holds what was put in it") {
    const kv::PermissionSet set = {kv::Permission::entry_read, kv::Permission::admin};
    CHECK(set.contains(kv::Permission::entry_read));
    CHECK(set.contains(kv::Permission::admin));
    CHECK_FALSE(set.contains(kv::Permission::entry_write));
    CHECK(kv::PermissionSet().empty());
    kv::PermissionSet every;
    for (int i = 0; i < kv::permission_count; ++i) every.add(static_cast<kv::Permission>(i));
    CHECK(every == kv::PermissionSet::all());
}

TEST_CASE("a key pattern is one key, what is below a folder, or everything") {
    const auto matches = [](std::string_view pattern, std::string_view key) {
        auto parsed = kv::KeyPattern::parse(pattern);
        REQUIRE(parsed);
        return parsed->matches(key);
    };
    CHECK(matches("*", "anything/at/all"));
    CHECK(matches("db/host", "db/host"));
    CHECK_FALSE(matches("db/host", "db/host/x"));
    CHECK_FALSE(matches("db/host", "db/hosts"));
    CHECK_FALSE(matches("db/host", "DB/host"));
    CHECK(matches("db/**", "db/host"));
    CHECK(matches("db/**", "db/a/b"));
    CHECK_FALSE(matches("db/**", "db"));
    CHECK_FALSE(matches("db/**", "db2/host"));
    CHECK_FALSE(matches("db/**", "db/"));
    CHECK_FALSE(matches("db/**", "x/db/host"));
}

TEST_CASE("a key pattern that could be understood in two ways is refused") {
    for (const char* text : {"", "/", "**", "/**", "a/*", "a*", "*/a", "a/**/b", "/a", "a/", "a//b", "a//**", "**/**", "***"}) {
        CAPTURE(text);
        CHECK_FALSE(kv::KeyPattern::parse(text));
    }
}

TEST_CASE("a trusted actor needs no grants, another has just those it was given") {
    CHECK(kv::Actor::trusted("host").is_trusted);
    CHECK(kv::Actor::trusted("host").user_id == "host");
    const kv::Actor actor = kv::Actor::with_grants("user", {kv::Grant{{kv::Permission::entry_read}, "*", {}, {}}});
    CHECK_FALSE(actor.is_trusted);
    REQUIRE(actor.grants);
    CHECK(actor.grants->size() == 1);
    CHECK_FALSE(kv::Actor{}.is_trusted);
}

TEST_CASE("a value input says what form its data has") {
    CHECK(kv::ValueInput::text("x").form == kv::ValueInput::Form::text);
    CHECK(kv::ValueInput::number("1").form == kv::ValueInput::Form::number);
    CHECK(kv::ValueInput::json("{}").form == kv::ValueInput::Form::json);
    CHECK(kv::ValueInput::bytes("x").form == kv::ValueInput::Form::bytes);
    CHECK(kv::ValueInput::boolean(true).data.reveal() == "true");
    CHECK(kv::ValueInput::boolean(false).data.reveal() == "false");
    CHECK_FALSE(kv::ValueInput::text("x").type);
}

TEST_CASE("times are written in UTC with milliseconds") {
    CHECK(reformatted("2024-01-15T10:00:00Z") == "2024-01-15T10:00:00.000Z");
    CHECK(reformatted("1970-01-01T00:00:00Z") == "1970-01-01T00:00:00.000Z");
    CHECK(reformatted("1969-12-31T23:59:59.999Z") == "1969-12-31T23:59:59.999Z");
    CHECK(reformatted("9999-12-31T23:59:59.999999Z") == "9999-12-31T23:59:59.999Z");
    CHECK(kv::format_time(kv::Time(std::chrono::microseconds(-1))) == "1969-12-31T23:59:59.999Z");
    CHECK(reformatted("2031-12-29T13:58:47.065Z") == "2031-12-29T13:58:47.065Z");
    CHECK(reformatted("0007-03-04T05:06:07.008Z") == "0007-03-04T05:06:07.008Z");
    CHECK(kv::format_time(kv::Time(std::chrono::sys_days(std::chrono::year(10000) / 1 / 1))) == "10000-01-01T00:00:00.000Z");
}

TEST_CASE("times are read with any fraction and any offset") {
    CHECK(reformatted("2024-01-15T10:00:00.1Z") == "2024-01-15T10:00:00.100Z");
    CHECK(reformatted("2024-01-15T10:00:00.123456789012345678901234567890Z") == "2024-01-15T10:00:00.123Z");
    CHECK(kv::parse_time("1970-01-01T00:00:00.000001Z") == kv::Time(std::chrono::microseconds(1)));
    CHECK(reformatted("2024-01-15t10:00:00z") == "2024-01-15T10:00:00.000Z");
    CHECK(reformatted("2024-01-15T01:30:00+02:30") == "2024-01-14T23:00:00.000Z");
    CHECK(reformatted("2024-12-31T23:30:00-01:00") == "2025-01-01T00:30:00.000Z");
    CHECK(reformatted("2024-02-29T00:00:00Z") == "2024-02-29T00:00:00.000Z");
    CHECK(reformatted("2016-12-31T23:59:60Z") == "2017-01-01T00:00:00.000Z");  // a leap second
}

TEST_CASE("what is no time is not taken for one") {
    for (const char* text : {"", "2024-01-15", "2024-01-15T10:00:00", "2024-01-15T10:00Z", "2024-13-15T10:00:00Z", "2024-00-15T10:00:00Z",
                             "2024-02-30T10:00:00Z", "2023-02-29T10:00:00Z", "2024-01-15T24:00:00Z", "2024-01-15T10:60:00Z", "2024-01-15T10:00:61Z",
                             "2024-01-15T10:00:00.Z", "2024-01-15T10:00:00+0200", "2024-01-15T10:00:00+24:00", "2024-01-15T10:00:00+02:60",
                             "2024-01-15T10:00:00Z ", " 2024-01-15T10:00:00Z", "24-01-15T10:00:00Z", "2024-1-15T10:00:00Z", "+2024-01-15T10:00:00Z",
                             "2024-01-15X10:00:00Z", "1705312800"}) {
        CAPTURE(text);
        CHECK_FALSE(kv::parse_time(text));
    }
}

TEST_CASE("the system clock never goes back") {
    auto clock = kv::make_system_clock();
    kv::Time before = clock->now();
    CHECK(before > *kv::parse_time("2020-01-01T00:00:00Z"));
    for (int i = 0; i < 1000; ++i) {
        const kv::Time now = clock->now();
        CHECK(now >= before);
        before = now;
    }
}

TEST_CASE("a result is a value or an error") {
    CHECK(half_of(4).has_value());
    CHECK(*half_of(4) == 2);
    CHECK(half_of(4).value() == 2);
    CHECK_FALSE(half_of(3));
    CHECK(half_of(3) == Errc::invalid_value);
    CHECK_FALSE(half_of(3) == Errc::invalid_key);
    CHECK_FALSE(half_of(4) == Errc::invalid_value);
    CHECK(half_of(3).value_or(7) == 7);
    CHECK(half_of(4).value_or(7) == 2);
    CHECK(half_of(3).error().message == "odd");
}

TEST_CASE("the first failure is the answer of the function that met it") {
    CHECK(*quarter_of(8) == 2);
    CHECK(quarter_of(3) == Errc::invalid_value);
    CHECK(quarter_of(6) == Errc::invalid_value);
    CHECK(require_even(2));
    CHECK(require_even(3) == Errc::invalid_value);
}

TEST_CASE("a host that asks for a value that is not there gets an exception") {
    try {
        (void)half_of(3).value();
        FAIL("no exception");
    } catch (const kv::Exception& exception) {
        CHECK(exception.error() == Errc::invalid_value);
        CHECK(exception.what() == "odd"s);
    }
    CHECK_THROWS_AS(require_even(3).value(), kv::Exception);
    CHECK_NOTHROW(require_even(2).value());
}

TEST_CASE("a result can hold what cannot be copied") {
    Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
    REQUIRE(result);
    std::unique_ptr<int> taken = *std::move(result);
    CHECK(*taken == 5);
}

TEST_CASE("codes are named with hyphens, each differently") {
    CHECK(kv::code_name(Errc::version_conflict) == "version-conflict");
    CHECK(kv::code_name(Errc::reserved_key_segment) == "reserved-key-segment");
    std::vector<std::string_view> names;
    for (int code = 1; code < 100; ++code) {
        const std::string_view name = kv::code_name(static_cast<Errc>(code));
        if (name == "internal" && code != static_cast<int>(Errc::internal)) continue;  // a number no code has
        CHECK(std::find(names.begin(), names.end(), name) == names.end());
        CHECK(name.find('_') == std::string_view::npos);
        names.push_back(name);
    }
    CHECK(names.size() == 43);
}

TEST_CASE("secret bytes are copied, moved and compared only where they are revealed") {
    const SecretBytes original("s3cr3t\0x"s);
    SecretBytes copy = original;
    CHECK(copy.reveal() == "s3cr3t\0x"s);
    CHECK(copy.reveal().data() != original.reveal().data());
    SecretBytes moved = std::move(copy);
    CHECK(moved.reveal() == original.reveal());
    CHECK(copy.empty());  // NOLINT: what moving leaves behind is part of the contract
    CHECK(copy.reveal().empty());
    const SecretBytes& same = moved;
    moved = same;
    CHECK(moved.size() == 8);
    copy = moved;
    CHECK(copy.reveal() == moved.reveal());
    CHECK_FALSE(std::is_convertible_v<SecretBytes, std::string_view>);
    CHECK_FALSE(std::is_convertible_v<std::string_view, SecretBytes>);
}

TEST_CASE("secret bytes of a size are zeros to be filled") {
    SecretBytes bytes = SecretBytes::of_size(4);
    CHECK(bytes.reveal() == "\0\0\0\0"s);
    bytes.mutable_data()[1] = 'x';
    CHECK(bytes.reveal() == "\0x\0\0"s);
    CHECK(SecretBytes::of_size(0).empty());
    CHECK(SecretBytes().reveal().data() != nullptr);
    CHECK(SecretBytes("").empty());
}

TEST_CASE("cutting secret bytes short wipes what is cut off") {
    SecretBytes bytes("0123456789");
    const char* const memory = bytes.reveal().data();
    bytes.truncate(4);
    CHECK(bytes.reveal() == "0123");
    CHECK(std::string_view(memory, 10) == "0123\0\0\0\0\0\0"s);
    bytes.truncate(4);
    CHECK(bytes.reveal() == "0123");
    bytes.truncate(0);
    CHECK(bytes.empty());
    bytes.reset();
    CHECK(bytes.reveal().empty());
}

TEST_CASE("wiping overwrites memory") {
    std::string text = "secret";
    kv::secure_wipe(text.data(), text.size());
    CHECK(text == std::string(6, '\0'));
    kv::secure_wipe(nullptr, 0);
}

TEST_CASE("a changeset is empty until something is in it") {
    kv::Changeset changes;
    CHECK(changes.empty());
    changes.erase_namespaces.emplace_back();
    CHECK_FALSE(changes.empty());
}
