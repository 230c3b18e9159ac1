#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.h"
#include "plan.h"
#include "read_queue.h"

// The inside of reader.cpp and reader_lists.cpp; nobody else includes it.
namespace kv {

// A tag over what a list shows.
std::string list_etag(std::string_view epoch, const BytesWriter& shown);
void write_item(BytesWriter& shown, const Entry& entry);


// The reads of one batch.
class Reader::Run {
public:
    explicit Run(const Reader& reader)
        : storage_(reader.storage_), vault_(reader.vault_), settings_(reader.settings_), limits_(*reader.settings_.limits) {}

    void point(std::vector<ReadItem*>& items);
    void single(ReadItem& item);
    void refuse(ReadItem& item, Error error) { fail(item, nullptr, std::move(error)); }

private:
    // ---- what every read does ----
    Result<std::shared_ptr<const NamespaceRow>> find_namespace(const NamespaceRef& ref);
    Result<Found> find_one(const EntryRef& ref, Want want);
    Result<void> enter(const Actor& actor, const NamespaceRow* ns);
    Result<void> show_value(const NamespaceRow& ns, const EntryRow& row, Entry& entry);
    AuditRecord record(const ReadItem& item, const NamespaceRow* ns, std::string_view key_path) const;
    void record_entry(ReadItem& item, const NamespaceRow& ns, const Entry& entry);
    void fail(ReadItem& item, const NamespaceRow* ns, Error error);
    void defer_audit(ReadItem& item, const NamespaceRow& ns) const;
    std::string bind(const ReadItem& item, BytesWriter query) const;
    Result<std::string> position(const ReadItem& item, const Page& page, const BytesWriter& query) const;
    std::string cursor(const ReadItem& item, const BytesWriter& query, std::string_view position) const;
    std::size_t page_limit(const Page& page) const {
        return page.limit ? static_cast<std::size_t>(*page.limit) : limits_.page_items_max;
    }

    // ---- one each ----
    Result<Reply> get_entry(ReadItem& item, const GetEntry& request, const Found& found, Time now);
    Result<Reply> get_namespace(ReadItem& item, const GetNamespace& request, const NamespaceRow* ns);
    Result<Reply> run(ReadItem& item, const ListNamespaces& request);
    Result<Reply> run(ReadItem& item, const ListEntries& request);
    Result<Reply> run(ReadItem& item, const WatchEntries& request);
    Result<Reply> run(ReadItem& item, const ListVersions& request);
    Result<Reply> run(ReadItem& item, const BulkGet& request);
    Result<Reply> run(ReadItem& item, const ListAudit& request);
    Result<Reply> run(ReadItem& item, const ExportEntries& request);
    Result<Reply> run(ReadItem& item, const ListTokens& request);
    Result<Reply> run(ReadItem& item, const RecordRefusal& request);
    template <class R>
    Result<Reply> run(ReadItem&, const R&) {
        return Error{Errc::internal, "This request is not a read."};
    }

    Result<void> judge_keys(ReadItem& item, const BulkGet& request, const NamespaceRow* ns);
    Result<void> get_keys(ReadItem& item, const BulkGet& request, BulkGetReply& reply, Time now);
    Result<bool> may_see(const Actor& actor, const AuditRecord& record);
    Result<AuditRange> audit_range(ReadItem& item, const ListAudit& request);
    Result<void> check_export(const EntryPage& page) const;
    Result<std::vector<Entry>> open_page(ReadItem& item, const NamespaceRow& ns, const EntryPage& page, bool values);

    Storage& storage_;
    const Vault& vault_;
    const Settings& settings_;
    const Limits& limits_;
    std::shared_ptr<const NamespaceRow> ns_;                              // of the item at hand
    const NamespaceRow* intact_ = nullptr;                                // of a batch that shares its rows: judged already
    bool shares_rows_ = false;                                            // and keeps them until it ends
    std::map<NamespaceId, std::shared_ptr<const NamespaceRow>> seen_;     // by audit rows of a page
};

}  // namespace kv
