#pragma once
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fault/failing_memory.h"
#include "fixture.h"
#include "storage/sqlite_fixture.h"

// A store whose memory fails, what it shows of itself, and what it may answer.
namespace kv::test {

enum class Backend { memory, sqlite };

// Ends the program if one step takes this long: a lost answer would otherwise be waited for without end.
class Watch {
public:
    static void begin(const std::string& what) {
        static const bool is_set = ::signal(SIGALRM, ring) != SIG_ERR;
        static_cast<void>(is_set);
        std::snprintf(text_, sizeof text_, "no answer within five minutes: %s\n", what.c_str());
        ::alarm(300);
    }
    static void end() { ::alarm(0); }

private:
    static void ring(int) {
        if (::write(STDERR_FILENO, text_, ::strnlen(text_, sizeof text_)) < 0) ::_exit(2);
        ::_exit(1);
    }
    static inline char text_[512];
};

// The answer of one operation, and how often it came.
class Answer {
public:
    Completion slot() {
        return [this](Result<Reply> reply) {
            if (times_.fetch_add(1) != 0) return;
            reply_ = std::move(reply);
            is_there_.store(true);
            is_there_.notify_all();
        };
    }
    Result<Reply> wait() {
        is_there_.wait(false);
        return std::move(reply_);
    }
    int times() const { return times_.load(); }

private:
    std::atomic<int> times_{0};
    std::atomic<bool> is_there_{false};
    Result<Reply> reply_ = Reply(Done{});
};

inline std::string text_of(const std::optional<SecretBytes>& value) { return value ? std::string(value->reveal()) : "-"; }

// What a reply tells, without ids, times and tags.
inline std::string show(const Reply& reply) {
    struct Show {
        std::string operator()(const Done&) { return "done"; }
        std::string operator()(const NamespaceReply& r) { return name(r.ns); }
        std::string operator()(const NamespaceList& r) {
            std::string out;
            for (const Namespace& ns : r.items) out += name(ns) + ";";
            return out;
        }
        std::string operator()(const EntryReply& r) { return entry(r.entry); }
        std::string operator()(const EntryList& r) { return entries(r.items); }
        std::string operator()(const VersionList& r) {
            std::string out;
            for (const Version& v : r.items) {
                out += std::string(to_string(v.reason)) + " v" + std::to_string(v.version) + " " + text_of(v.value) + ";";
            }
            return out;
        }
        std::string operator()(const TokenReply& r) { return r.token.name; }
        std::string operator()(const TokenList& r) {
            std::string out;
            for (const Token& token : r.items) out += token.name + ";";
            return out;
        }
        std::string operator()(const BulkGetReply& r) {
            return entries(r.entries) + " missing " + keys(r.missing) + " remaining " + keys(r.remaining);
        }
        std::string operator()(const BulkSetReply& r) {
            std::string out;
            for (const BulkSetResult& one : r.results) {
                out += one.key_path + " " + std::to_string(static_cast<int>(one.status)) + " v" + std::to_string(one.version) +
                       (one.error ? " " + std::string(code_name(one.error->code)) : "") + ";";
            }
            return out;
        }
        std::string operator()(const BulkDeleteReply& r) {
            return "deleted " + keys(r.deleted) + " missing " + keys(r.missing) + " failed " + std::to_string(r.failed.size());
        }
        std::string operator()(const AuditList& r) {
            std::string out;
            for (const AuditRecord& record : r.items) out += record.operation + " " + record.key_path + ";";
            return out;
        }
        std::string operator()(const ExportReply& r) { return std::string(r.text.reveal()); }
        std::string operator()(const WatchReply& r) { return "watch at r" + std::to_string(r.revision); }

        static std::string name(const Namespace& ns) {
            return ns.name + " v" + std::to_string(ns.version) + (ns.is_secret ? " secret " : " plain ") + ns.description;
        }
        static std::string entry(const Entry& e) {
            return e.key_path + " v" + std::to_string(e.version) + " " + text_of(e.value) + (e.error ? " !" : "") + " " + e.metadata;
        }
        static std::string entries(const std::vector<Entry>& all) {
            std::string out;
            for (const Entry& e : all) out += entry(e) + ";";
            return out;
        }
        static std::string keys(const std::vector<std::string>& all) {
            std::string out;
            for (const std::string& key : all) out += key + ",";
            return out;
        }
    };
    return std::visit(Show{}, reply);
}

// The folder of a run is "K" in what is compared, and what is drawn at random "*".
inline std::string anonymous(std::string text, const std::string& folder) {
    for (std::size_t at = text.find(folder); at != std::string::npos; at = text.find(folder, at)) text.replace(at, folder.size(), "K");
    constexpr std::size_t random_length = 32;
    std::string out;
    std::string word;
    const auto end_word = [&] { out += word.size() >= random_length ? "*" : word, word.clear(); };
    for (const char c : text) {
        if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
            word += c;
        } else {
            end_word();
            out += c;
        }
    }
    end_word();
    return out;
}

// A store for many runs of operations, each in a folder of its own.
class Ground {
public:
    Ground(Backend backend, Kind kind, Options options = each_denial_a_row())
        : kv(kind, with_few_readers(std::move(options)), [this, backend](Clock& clock) { return make(backend, clock); }) {}

    // A name that no run had before; all are of one length, and so take as much memory.
    std::string fresh() {
        char name[16];
        std::snprintf(name, sizeof name, "k%06u", ++runs_);
        return name;
    }

    // What is stored about a folder's keys and the namespace of its name: rows, history and events.
    std::string state(const std::string& folder) {
        std::string out;
        for (const char* leaf : {"/a", "/b", "/c", "/d"}) {
            const auto row = kv.entry_row(folder + leaf);
            if (!row) continue;
            out += kv.show(*row) + "\n";
            for (const VersionRow& version : kv.archived(row->id)) out += kv.show(row->key_path, version) + "\n";
        }
        for (const EventRow& event : kv.events(events_seen_)) {
            if (event.key_path.starts_with(folder)) {
                out += "event " + std::string(to_string(event.kind)) + " " + event.key_path + " v" + std::to_string(event.version) + "\n";
            }
        }
        NamespaceRange named;
        named.application_id = "app";
        named.name = folder;
        named.deleted = NamespaceRange::Deleted::both;
        for (const NamespaceRow& row : kv.storage->scan_namespaces(named).value()) {
            const KeyRef keys{KeyPurpose::data, row.id, {}};
            out += "namespace v" + std::to_string(row.version) + (row.is_secret ? " secret " : " plain ") + row.description +
                   (row.deleted_at ? " deleted" : "") + " keys " +
                   std::to_string(kv.storage->get_keys(std::span(&keys, 1)).value().size()) + "\n";
            const EntryRef inside{row.id, "a", {}};
            const auto found = kv.storage->find(std::span(&inside, 1), Want{true, true}).value();
            if (found.front().entry) out += kv.show(*found.front().entry) + "\n";
        }
        return anonymous(out, folder);
    }
    // From now on state() and audit() leave out what there is by now.
    void look_away() {
        audit();
        if (kv.namespace_row().revision > events_seen_ + 64) events_seen_ = kv.namespace_row().revision - 64;
    }
    // What was recorded about each request since the last time.
    std::map<std::string, std::string> audit() {
        std::map<std::string, std::string> out;
        for (const AuditRow& row : kv.audit_rows(audit_seen_)) {
            audit_seen_ = row.position;
            out[row.record.request_id] += Fixture::show(row.record) + "\n";
        }
        return out;
    }

    // Nothing is left counted as under way, the store serves, and everybody can be answered.
    std::string unfit(const std::string& folder) {
        const auto put = kv.put(folder + "/next", "next");
        if (!put) return "the next put: " + std::string(code_name(put.error().code)) + " " + put.error().message;
        if (kv.get(folder + "/next") != "next") return "the next get";
        if (!kv.store->ready()) return "not ready";
        if (!eventually([&] { return kv.store->stats().bytes_in_flight == 0; })) return "bytes in flight";
        return "";
    }
    // What a verification finds once the store is closed, and what the audit log lacks.
    std::string end() {
        kv.close();
        std::string faults = audit_fault(*kv.storage, *kv.keys);
        return faults + verify_fault(*kv.storage);
    }

private:
    static Options with_few_readers(Options options) {
        options.readers = 2;  // a place that is lost is missed soon
        options.disk_free_min = 0;
        return options;
    }
    std::unique_ptr<Storage> make(Backend backend, Clock& clock) {
        if (backend == Backend::memory) return make_memory_storage(clock);
        // Thousands of commits wait for a disk, and whether they do changes nothing here.
        const char* in_memory = "/dev/shm";
        if (std::getenv("TMPDIR") == nullptr && ::access(in_memory, W_OK) == 0) ::setenv("TMPDIR", in_memory, 0);
        folder_ = std::make_unique<sqlite_fixture::Folder>();
        return open_sqlite_storage({.path = folder_->database.string(), .readers = 2}, clock).value();
    }

    std::unique_ptr<sqlite_fixture::Folder> folder_;  // goes after the fixture
    unsigned runs_ = 0;
    std::uint64_t audit_seen_ = 0;
    std::uint64_t events_seen_ = 0;

public:
    Fixture kv;
};

inline bool is_clear(const std::string& code) {
    return code == "unavailable" || code == "outcome-unknown" || code == "overloaded" || code == "audit-unavailable";
}

// Numbers from 1 to `count`, all or so many of them, drawn by `seed`.
inline std::vector<std::uint64_t> points(std::uint64_t count, std::size_t most, std::uint64_t seed) {
    std::vector<std::uint64_t> all(count);
    for (std::uint64_t i = 0; i < count; ++i) all[i] = i + 1;
    std::mt19937_64 draw(seed);
    std::shuffle(all.begin(), all.end(), draw);
    if (all.size() > most) all.resize(most);
    std::sort(all.begin(), all.end());
    return all;
}

}  // namespace kv::test
