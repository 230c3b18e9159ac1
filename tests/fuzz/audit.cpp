#include <map>

#include "audit.h"
#include "audit_archive.h"
#include "fault/forwarding_storage.h"
#include "fuzz.h"
#include "json/json.h"
#include "text.h"

// The audit log against its verifier: whatever is done to the rows and heads of a log, it is found, and nothing is found in a
// log that nobody touched. And what reads heads and writes rows outside the database.
// Broken on purpose: the peer left out of the canonical row (found by the corpus).
using namespace kv;
using namespace kv::fuzz;

namespace {

// ---- a log with a past ----

// Lets go of a storage without closing it, as a process does that is killed.
class Borrowed final : public test::Passing {
public:
    using Passing::Passing;
    Result<void> write(const std::function<Result<void>(StorageWriter&)>& body) override {
        if (is_gone) return Error{Errc::unavailable, "gone"};
        return inner_.write(body);
    }
    bool is_gone = false;
};

struct Past {
    Past() : storage(make_memory_storage(clock)) {
        NamespaceId ns;
        for (int life = 0; life < 3; ++life) live(life, ns);
        audit_key = export_audit_key(*storage, *make_fixed_key(fixed_key())).value();
        AuditRange range;
        range.newest_first = false;
        rows = storage->scan_audit(range).value().rows;
        heads = storage->walk_audit_heads({}).value();
    }

    void live(int life, NamespaceId& ns) {
        Options options;
        options.keys = make_fixed_key(fixed_key());
        options.clock = &clock;
        options.maintenance_interval = std::chrono::milliseconds(0);
        options.denial_window = std::chrono::seconds(0);
        auto borrowed = std::make_unique<Borrowed>(*storage);
        Borrowed& hold = *borrowed;
        auto store = Store::open(std::move(borrowed), options).value();
        const Actor actor = Actor::trusted("ann");
        if (life == 0) {
            CreateNamespace create;
            create.name = "ns";
            create.is_secret = true;
            ns = store->call(actor, create)->ns.id;
        }
        clock.pass(std::chrono::seconds(1));
        PutEntry put;
        put.ns = ns;
        put.write.key_path = "key" + std::to_string(life);
        put.write.value = ValueInput::text("value");
        KV_PROPERTY(store->call(actor, put).has_value());
        GetEntry get;
        get.ns = ns;
        get.key_path = put.write.key_path;
        KV_PROPERTY(store->call(actor, get).has_value());
        KV_PROPERTY(!store->call(Actor::with_grants("eve", {}), get).has_value());
        hold.is_gone = life == 1;
    }

    StillClock clock;
    std::unique_ptr<Storage> storage;
    SecretBytes audit_key;
    std::vector<AuditRow> rows;
    std::vector<AuditHead> heads;
};

const Past& past() {
    static const Past once;
    return once;
}

// ---- the log, edited ----

class EditedStorage final : public test::Passing {
public:
    EditedStorage(Storage& inner, std::vector<AuditRow> rows, std::vector<AuditHead> heads)
        : Passing(inner), rows_(std::move(rows)), heads_(std::move(heads)) {
        for (std::size_t i = 0; i < rows_.size(); ++i) rows_[i].position = i + 1;
    }

    Result<AuditPage> scan_audit(const AuditRange& range) override { return test::page_of(rows_, range); }
    Result<std::vector<AuditHead>> walk_audit_heads(const HeadWalk& walk) override {
        return walk.after ? std::vector<AuditHead>() : heads_;
    }

private:
    std::vector<AuditRow> rows_;
    std::vector<AuditHead> heads_;
};

void edit_id(Uuid& id, std::uint8_t which, std::uint8_t byte) { id.bytes[which % 16] ^= byte; }

template <class T>
void edit_optional(std::optional<T>& value, std::uint8_t byte) {
    if (!value) value.emplace();
    else if (byte % 4 == 0) value.reset();
    if (!value) return;
    if constexpr (std::is_same_v<T, Uuid>) edit_id(*value, byte >> 4, byte);
    else *value ^= byte;
}

void edit_row(AuditRow& row, Input& input) {
    AuditRecord& record = row.record;
    const std::uint8_t field = input.u8();
    const std::uint8_t byte = input.u8();
    switch (field % 20) {
        case 0: edit_id(record.stream, field / 20, byte); break;
        case 1: record.sequence ^= byte; break;
        case 2: record.timestamp += std::chrono::microseconds(byte); break;
        case 3: edit_optional(record.namespace_id, byte); break;
        case 4: edit_optional(record.entry_id, byte); break;
        case 5: edit(record.key_path, input); break;
        case 6: record.action = static_cast<AuditAction>(byte % 6); break;
        case 7: edit(record.operation, input); break;
        case 8: edit(record.user_id, input); break;
        case 9: edit(record.credential_id, input); break;
        case 10: edit(record.application_id, input); break;
        case 11: edit(record.peer, input); break;
        case 12: edit(record.request_id, input); break;
        case 13: record.success = byte % 2 != 0; break;
        case 14: edit(record.reason, input); break;
        case 15: edit_optional(record.version, byte); break;
        case 16: edit_optional(record.revision, byte); break;
        case 17: record.count ^= byte; break;
        case 18: row.mac[field / 20 * 3 % 32] ^= byte; break;
        case 19:  // what a forger would try first
            record.operation = byte % 3 == 0 ? audit_checkpoint : byte % 3 == 1 ? audit_closed : audit_unclosed;
            record.user_id = "system";
            record.success = true;
            break;
    }
}

void edit_log(std::vector<AuditRow>& rows, std::vector<AuditHead>& heads, Input& input) {
    const std::uint8_t kind = input.u8();
    const std::uint8_t a = input.u8();
    const std::uint8_t b = input.u8();
    const auto row_at = [&](std::uint8_t i) { return rows.begin() + i % static_cast<std::ptrdiff_t>(rows.size()); };
    const auto head_at = [&](std::uint8_t i) { return heads.begin() + i % static_cast<std::ptrdiff_t>(heads.size()); };
    if (rows.empty() || heads.empty()) return;
    switch (kind % 8) {
        case 0: edit_row(*row_at(a), input); break;
        case 1: rows.erase(row_at(a), row_at(a) + std::min<std::ptrdiff_t>(b % 4, rows.end() - row_at(a))); break;
        case 2: std::swap(*row_at(a), *row_at(b)); break;
        case 3: {
            const AuditRow copy = *row_at(a);
            rows.insert(row_at(b), copy);
            break;
        }
        case 4:
            if (b % 2 == 0) head_at(a)->sequence ^= b / 2;
            else head_at(a)->mac[b / 2 % 32] ^= b;
            break;
        case 5: heads.erase(head_at(a)); break;
        case 6: edit_id(head_at(a)->stream, b, b); break;
        case 7: std::erase_if(rows, [id = row_at(a)->record.stream](const AuditRow& row) { return row.record.stream == id; }); break;
    }
}

// Rows by stream: what one stream says of another's place in the log no MAC tells.
auto all_of(const AuditRow& row) {
    const AuditRecord& r = row.record;
    return std::make_tuple(r.sequence, r.timestamp, r.namespace_id, r.entry_id, r.key_path, r.action, r.operation, r.user_id, r.credential_id,
                           r.application_id, r.peer, r.request_id, r.success, r.reason, r.version, r.revision, r.count, row.mac);
}

auto by_stream(const std::vector<AuditRow>& rows) {
    std::map<StreamId, std::vector<decltype(all_of(rows.front()))>> streams;
    for (const AuditRow& row : rows) streams[row.record.stream].push_back(all_of(row));
    return streams;
}

auto by_stream(const std::vector<AuditHead>& heads) {
    std::vector<std::tuple<StreamId, std::uint64_t, Mac>> list;
    for (const AuditHead& head : heads) list.emplace_back(head.stream, head.sequence, head.mac);
    std::sort(list.begin(), list.end());
    return list;
}

void check_line(const AuditRow& row) {
    const std::string line = audit_line(row);
    const AuditRecord& record = row.record;
    for (const std::string* text : {&record.key_path, &record.operation, &record.user_id, &record.credential_id, &record.application_id,
                                    &record.peer, &record.request_id, &record.reason}) {
        if (!is_valid_utf8(*text)) return;
    }
    const auto root = json::parse(line);
    KV_PROPERTY(root.has_value() && line.find('\n') == std::string::npos);
    KV_PROPERTY(root->find("keyPath")->text == record.key_path && root->find("userId")->text == record.user_id);
    KV_PROPERTY(root->find("sequence")->text == std::to_string(record.sequence));
}

void try_edited_log(Input& input) {
    std::vector<AuditRow> rows = past().rows;
    std::vector<AuditHead> heads = past().heads;
    for (int edits = 0; edits < 8 && !input.empty(); ++edits) edit_log(rows, heads, input);
    for (const AuditRow& row : rows) check_line(row);
    for (const AuditRow& row : rows) read_head_record(row.record);
    const bool is_same = by_stream(rows) == by_stream(past().rows) && by_stream(heads) == by_stream(past().heads);
    EditedStorage storage(*past().storage, rows, heads);
    VerifyOptions options;
    options.anchors = past().heads;
    const auto report = verify_audit(storage, past().audit_key, options);
    KV_PROPERTY(report.has_value() || (!is_same && report.error().code == Errc::wrong_key));
    if (!report) return;
    KV_PROPERTY(!report->is_sound() || is_same);
    const auto is_same_row = [](const AuditRow& a, const AuditRow& b) { return a.record.stream == b.record.stream && all_of(a) == all_of(b); };
    const bool is_untouched = is_same && std::equal(rows.begin(), rows.end(), past().rows.begin(), past().rows.end(), is_same_row);
    KV_PROPERTY(!is_untouched || report->is_sound());
    for (const Finding& finding : report->findings) {
        KV_PROPERTY(is_valid_utf8(finding.message) && !has_control_character(finding.message));
    }
}

// Logs of a server, in which anything may stand.
void try_anchors(Input& input) {
    const auto hex = [](const Mac& mac) { return hex_encode({reinterpret_cast<const char*>(mac.data()), mac.size()}); };
    std::string text;
    const auto heads = parse_anchors(input.rest());
    for (const AuditHead& head : heads) {
        text += "audit-head stream=" + head.stream.to_string() + " sequence=" + std::to_string(head.sequence) + " mac=" + hex(head.mac) + "\n";
    }
    KV_PROPERTY(by_stream(parse_anchors(text)) == by_stream(heads));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    input.u8() % 4 == 3 ? try_anchors(input) : try_edited_log(input);
    return 0;
}
