#include <algorithm>
#include <cassert>

#include "crypto/wrap.h"
#include "verify.h"

namespace kv::verification {
namespace {

constexpr std::size_t batch_rows = 2048;
constexpr std::size_t gaps_max = 64;  // that one stream may keep as a question; more of them are no work of retention
constexpr std::uint64_t malformed_max = 10'000;  // beyond them it is the file that is damaged
constexpr std::size_t walk_rows = 50'000;

std::string number(std::uint64_t value) { return std::to_string(value); }

std::string rows(std::uint64_t from, std::uint64_t to) {
    return from == to ? "row " + number(from) : "rows " + number(from) + " to " + number(to);
}

bool is_right(const crypto::Key& key, const Mac& before, const AuditRow& row) {
    return crypto::equal(audit_mac(key, before, row.record), row.mac);
}

// When a stream of ours was begun: version 7 ids begin with their time.
Time time_of(const StreamId& id) {
    std::int64_t milliseconds = 0;
    for (std::size_t i = 0; i < 6; ++i) milliseconds = milliseconds << 8 | id.bytes[i];
    return Time(std::chrono::milliseconds(milliseconds));
}

// Where retention took all that was before its own row, that one tells what it continues from: only who has the key could
// make it.
bool proves_itself(const crypto::Key& key, const AuditRow& row) {
    if (row.record.operation != audit_checkpoint) return false;
    const auto named = read_head_record(row.record);
    return named && named->stream == row.record.stream && named->sequence + 1 == row.record.sequence && is_right(key, named->mac, row);
}

AuditHead head_of(const StreamId& stream, std::uint64_t sequence, const Mac& mac) { return {stream, sequence, mac, HeadState::open}; }

}  // namespace

AuditLog::AuditLog(StorageReader& storage, SecretBytes audit_key, const std::vector<AuditHead>& anchors, Ledger& ledger,
                   Findings& findings, const Progress& progress)
    : storage_(storage), audit_key_(std::move(audit_key)), ledger_(ledger), findings_(findings), progress_(progress), page_rows_(batch_rows) {
    for (const AuditHead& anchor : anchors) {
        // A head without a row says nothing: its stream was not begun.
        if (anchor.sequence > 0) anchors_[anchor.stream].push_back({anchor.sequence, anchor.mac});
    }
    for (auto& [stream, list] : anchors_) {
        std::sort(list.begin(), list.end());
        list.erase(std::unique(list.begin(), list.end()), list.end());
    }
}

// ---- reading ----

Result<std::uint64_t> AuditLog::newest_position() {
    AuditRange range;
    range.limit = range.walk = 1;
    KV_TRY(const AuditPage page, storage_.scan_audit(range));
    return page.rows.empty() ? std::uint64_t{0} : page.rows.front().position;
}

Result<AuditPage> AuditLog::read_page() {
    AuditRange range;
    range.newest_first = false;
    range.after = position_;
    range.limit = range.walk = page_rows_;
    return storage_.scan_audit(range);
}

Result<std::optional<AuditRow>> AuditLog::row_at(std::uint64_t position) {
    AuditRange range;
    range.newest_first = false;
    range.after = position - 1;
    range.limit = range.walk = 1;
    KV_TRY(AuditPage page, storage_.scan_audit(range));
    if (page.rows.empty() || page.rows.front().position != position) return std::optional<AuditRow>();
    return std::optional<AuditRow>(std::move(page.rows.front()));
}

// A row whose columns cannot even be read stops the question that comes across it: one row at a time finds it.
void AuditLog::skip_malformed() {
    if (page_rows_ > 1) {
        page_rows_ = 1;
        return;
    }
    ++position_;
    ++malformed_;
    findings_.add(kind::audit_row, about_stream({}, {}, "the audit row at position " + number(position_) + " cannot be read: its columns are malformed"));
    page_rows_ = batch_rows;
}

// Whether rows behind `after` went before they were read.
Result<void> AuditLog::note_overtaking(std::uint64_t after) {
    AuditRange range;
    range.newest_first = false;
    range.limit = range.walk = 1;
    auto oldest = storage_.scan_audit(range);
    if (!oldest) return oldest == Errc::integrity ? Result<void>{} : Result<void>(std::move(oldest).error());
    if (oldest->rows.empty()) return {};
    const AuditRow& row = oldest->rows.front();
    if (oldest_stream_.is_nil()) oldest_stream_ = row.record.stream;
    if (after > 0 && row.position > after + 1) was_overtaken_ = true;
    return {};
}

Result<void> AuditLog::advance() {
    auto newest = newest_position();
    // An unreadable newest row is met on the way.
    if (!newest && !(newest == Errc::integrity)) return std::move(newest).error();
    const std::uint64_t end = newest ? *newest : UINT64_MAX;
    bool is_more = true;
    while (is_more && position_ < end) {
        KV_TRY(is_more, read_on());
        KV_CHECK(progress_.tell("audit", findings_.report.audit_rows));
    }
    return {};
}

Result<bool> AuditLog::read_on() {
    Result<AuditPage> page = read_page();
    if (page == Errc::integrity && malformed_ < malformed_max) {
        skip_malformed();
        return true;
    }
    if (!page) return std::move(page).error();
    KV_CHECK(note_overtaking(position_));
    for (const AuditRow& row : page->rows) {
        take(row);
        position_ = row.position;
    }
    findings_.report.audit_rows += page->rows.size();
    if (page->resume) position_ = std::max(position_, *page->resume);
    return page->resume.has_value();
}

// ---- one row ----

AuditLog::Stream& AuditLog::stream_of(const StreamId& id) {
    if (last_stream_.second != nullptr && last_stream_.first == id) return *last_stream_.second;
    auto [at, is_new] = streams_.try_emplace(id);
    if (is_new) {
        at->second.key = crypto::audit_stream_key(crypto::as_key(audit_key_), id);
        if (auto anchors = anchors_.find(id); anchors != anchors_.end()) at->second.anchors = &anchors->second;
    }
    last_stream_ = {id, &at->second};
    return at->second;
}

AuditLog::Stream* AuditLog::find_stream(const StreamId& id) {
    auto at = streams_.find(id);
    return at == streams_.end() ? nullptr : &at->second;
}

void AuditLog::take(const AuditRow& row) {
    Stream& stream = stream_of(row.record.stream);
    if (stream.first_position == 0) stream.first_position = row.position;
    const bool is_next = row.record.sequence == stream.sequence + 1;
    const Standing standing = is_next ? check_next(stream, row) : check_stray(stream, row);
    if (standing == Standing::repeated) return;
    meet(stream, row);
    if (standing == Standing::proven) {
        ++proven_;
        note_proven(row);
    }
    // A row that was edited is reported once; what it says is taken as it stands, or every row it is about would be
    // reported as well.
    ledger_.note(row);
}

void AuditLog::move_to(Stream& stream, const AuditRow& row) {
    stream.sequence = row.record.sequence;
    stream.mac = row.mac;
    stream.position = row.position;
    stream.is_closed = row.record.operation == audit_close;
    stream.is_named = false;
}

AuditLog::Standing AuditLog::check_next(Stream& stream, const AuditRow& row) {
    const Mac mac = audit_mac(stream.key, stream.mac, row.record);
    bool is_proven = crypto::equal(mac, row.mac);
    // Behind a row whose MAC was edited the chain goes on from the MAC that it ought to have.
    if (!is_proven && stream.should_be) is_proven = is_right(stream.key, *stream.should_be, row);
    stream.should_be.reset();
    if (!is_proven) {
        stream.should_be = mac;
        findings_.add(kind::audit_row, about_stream(row.record.stream, row.record.sequence,
                                                    "the row at position " + number(row.position) + " is not as it was written: its MAC is wrong"));
    }
    move_to(stream, row);
    return is_proven ? Standing::proven : Standing::unproven;
}

// A row whose number does not follow.
AuditLog::Standing AuditLog::check_stray(Stream& stream, const AuditRow& row) {
    const std::uint64_t sequence = row.record.sequence;
    // Where the chain goes on all the same, the row before it was given a wrong number.
    if (stream.sequence > 0 && sequence > 0 && is_right(stream.key, stream.mac, row)) {
        const bool was_gap = !stream.gaps.empty() && stream.gaps.back().next.position == stream.position;
        if (was_gap && sequence > stream.gaps.back().from) {
            stream.gaps.back().to = sequence - 1;
        } else {
            findings_.add(kind::audit_gap, about_stream(row.record.stream, sequence,
                                                        "the row before it, at position " + number(stream.position) +
                                                            ", has the wrong number " + number(stream.sequence)));
        }
        move_to(stream, row);
        return Standing::proven;
    }
    if (stream.sequence == 0 && proves_itself(stream.key, row)) {
        move_to(stream, row);
        return Standing::proven;
    }
    if (sequence < stream.sequence + 1) return check_late(stream, row);
    open_gap(stream, row);
    move_to(stream, row);
    return Standing::unproven;
}

AuditLog::Standing AuditLog::check_late(Stream& stream, const AuditRow& row) {
    const std::uint64_t sequence = row.record.sequence;
    for (Gap& gap : stream.gaps) {
        if (sequence < gap.from || sequence > gap.to || gap.filled > gap.to - gap.from) continue;
        ++gap.filled;
        findings_.add(kind::audit_gap,
                      about_stream(row.record.stream, sequence,
                                   "the row stands out of order, at position " + number(row.position) + " behind row " + number(stream.sequence)));
        return Standing::unproven;
    }
    findings_.add(kind::audit_gap, about_stream(row.record.stream, sequence,
                                                "the row at position " + number(row.position) + " repeats a number: row " +
                                                    number(stream.sequence) + " came before it"));
    return Standing::repeated;
}

void AuditLog::open_gap(Stream& stream, const AuditRow& row) {
    Gap gap{stream.sequence + 1, row.record.sequence - 1, 0, stream.mac, row};
    stream.should_be.reset();
    if (stream.gaps.size() < gaps_max) {
        stream.gaps.push_back(std::move(gap));
    } else {
        report_gap(row.record.stream, gap);
    }
}

void AuditLog::meet(Stream& stream, const AuditRow& row) {
    if (auto awaited = awaited_.find(row.record.stream); awaited != awaited_.end() && awaited->second.sequence == row.record.sequence) {
        const AuditHead head = awaited->second;
        awaited_.erase(awaited);
        check_head(stream, head);
    }
    if (stream.anchors == nullptr) return;
    const Anchor here{row.record.sequence, {}};
    auto at = std::lower_bound(stream.anchors->begin(), stream.anchors->end(), here,
                               [](const Anchor& a, const Anchor& b) { return a.sequence < b.sequence; });
    for (; at != stream.anchors->end() && at->sequence == row.record.sequence; ++at) {
        at->is_met = true;
        if (crypto::equal(at->mac, row.mac)) continue;
        findings_.add(kind::anchor, about_stream(row.record.stream, row.record.sequence,
                                                 "the row is another one than when its head was noted down"));
    }
}

// ---- rows about streams ----

void AuditLog::note_proven(const AuditRow& row) {
    const AuditRecord& record = row.record;
    if (record.operation == new_epoch && record.success) new_epoch_ = record.timestamp;
    if (!record.operation.starts_with("audit.")) return;
    const auto head = read_head_record(record);
    if (!head) return;
    if (record.operation == audit_checkpoint) {
        is_cut_ = true;
        checkpoints_[head->stream].push_back(*head);
    } else {
        note_naming({*head, record.operation == audit_closed, record.stream, record.sequence});
    }
}

void AuditLog::note_naming(const Naming& naming) {
    Stream* stream = find_stream(naming.head.stream);
    if (stream == nullptr || stream->sequence < naming.head.sequence) {
        unmet_.push_back(naming);
    } else if (stream->sequence > naming.head.sequence) {
        passed_.push_back(naming);
    } else if (!crypto::equal(stream->mac, naming.head.mac)) {
        findings_.add(kind::audit_stream,
                      about_stream(naming.head.stream, naming.head.sequence,
                                   "its last row is another one than stream " + naming.by.to_string() + " recorded in row " + number(naming.by_sequence)));
    } else {
        stream->is_named = true;
    }
}

const AuditHead* AuditLog::find_checkpoint(const StreamId& stream, std::uint64_t sequence) const {
    auto at = checkpoints_.find(stream);
    if (at == checkpoints_.end()) return nullptr;
    for (const AuditHead& checkpoint : at->second) {
        if (checkpoint.sequence == sequence) return &checkpoint;
    }
    return nullptr;
}

// Whether retention took the row.
bool AuditLog::is_removed(const StreamId& stream, std::uint64_t sequence) const {
    auto at = checkpoints_.find(stream);
    if (at == checkpoints_.end()) return false;
    return std::any_of(at->second.begin(), at->second.end(), [&](const AuditHead& checkpoint) { return checkpoint.sequence >= sequence; });
}

// ---- heads ----

Result<void> AuditLog::read_heads() {
    HeadWalk walk;
    while (true) {
        KV_TRY(const std::vector<AuditHead> heads, storage_.walk_audit_heads(walk));
        for (const AuditHead& head : heads) {
            Stream* stream = find_stream(head.stream);
            if (stream != nullptr) stream->has_head = true;
            if (stream == nullptr && head.sequence == 0) {
                findings_.add(kind::audit_head, about_stream(head.stream, 0, "its head names no row"));
            } else if (stream == nullptr || stream->sequence < head.sequence) {
                awaited_.emplace(head.stream, head);
            } else {
                check_head(*stream, head);
            }
        }
        if (heads.size() < walk.limit) break;
        walk.after = heads.back().stream;
    }
    for (auto& [id, stream] : streams_) {
        if (!stream.has_head) awaited_.emplace(id, head_of(id, 0, {}));
    }
    return {};
}

// The stream was read up to its head, or beyond.
void AuditLog::check_head(Stream& stream, const AuditHead& head) {
    if (head.sequence < stream.sequence) {
        findings_.add(kind::audit_head, about_stream(head.stream, head.sequence,
                                                     "its head was set back: it names row " + number(head.sequence) +
                                                         ", but the rows go on to " + number(stream.sequence)));
    } else if (!crypto::equal(head.mac, stream.mac)) {
        findings_.add(kind::audit_head, about_stream(head.stream, head.sequence, "its head has another MAC than its last row"));
    } else {
        check_state(stream, head);
    }
}

void AuditLog::check_state(Stream& stream, const AuditHead& head) {
    if (head.state == HeadState::witnessed) {
        stream.needs_witness = !stream.is_closed;
    } else if ((head.state == HeadState::closed) != stream.is_closed) {
        findings_.add(kind::audit_head, about_stream(head.stream, head.sequence,
                                                     stream.is_closed ? "its head says that it is open, but its last row closes it"
                                                                      : "its head says that it is closed, but its last row does not close it"));
    }
}

// ---- what stays open ----

Result<void> AuditLog::settle() {
    settle_gaps();
    settle_namings();
    KV_CHECK(settle_passed_namings());
    settle_heads();
    settle_anchors();
    return {};
}

// A checkpoint may stand in the very row behind a gap, which only its own checkpoint proves: as long as one is proven
// others may follow.
void AuditLog::settle_gaps() {
    for (bool is_moving = true; is_moving;) {
        is_moving = false;
        for (auto& [id, stream] : streams_) {
            const std::size_t settled =
                std::erase_if(stream.gaps, [&, &id = id, &stream = stream](const Gap& gap) { return settle_gap(id, stream, gap); });
            is_moving = is_moving || settled > 0;
        }
    }
    for (auto& [id, stream] : streams_) {
        for (const Gap& gap : stream.gaps) report_gap(id, gap);
        stream.gaps.clear();
    }
}

bool AuditLog::settle_gap(const StreamId& id, Stream& stream, const Gap& gap) {
    if (gap.filled > gap.to - gap.from) return true;  // each of them was reported
    const AuditHead* checkpoint = find_checkpoint(id, gap.to);
    if (checkpoint == nullptr) return false;
    if (!is_right(stream.key, checkpoint->mac, gap.next)) {
        findings_.add(kind::audit_row, about_stream(id, gap.next.record.sequence,
                                                    "the row at position " + number(gap.next.position) +
                                                        " is not as it was written: it does not continue from its checkpoint"));
        return true;
    }
    ++proven_;
    note_proven(gap.next);
    return true;
}

void AuditLog::report_gap(const StreamId& id, const Gap& gap) {
    std::string what = rows(gap.from, gap.to) + (gap.from == gap.to ? " is" : " are") + " missing before row " +
                       number(gap.next.record.sequence) + " at position " + number(gap.next.position);
    if (gap.from == 1) what += ", and no checkpoint tells that retention removed them";
    findings_.add(kind::audit_gap, about_stream(id, gap.from, std::move(what)));
}

void AuditLog::settle_namings() {
    for (const Naming& naming : std::exchange(unmet_, {})) {
        const AuditHead& head = naming.head;
        const Stream* stream = find_stream(head.stream);
        const bool is_there = stream != nullptr && stream->sequence >= head.sequence;
        if (is_there) {
            note_naming(naming);  // it was proven late
        } else if (!is_removed(head.stream, head.sequence)) {
            const std::string by = ", though stream " + naming.by.to_string() + " recorded in row " + number(naming.by_sequence) +
                                   " that it ends with row " + number(head.sequence);
            findings_.add(kind::audit_stream,
                          about_stream(head.stream, head.sequence,
                                       stream == nullptr ? "the whole stream is missing" + by
                                                         : "its last rows are missing" + by + "; the last one there is " + number(stream->sequence)));
        }
    }
}

// A stream that was not at its end when it was named, which needs several processes, or a row that came late.
Result<void> AuditLog::settle_passed_namings() {
    for (const Naming& naming : std::exchange(passed_, {})) {
        const Stream& stream = *find_stream(naming.head.stream);
        AuditRange range;
        range.newest_first = false;
        range.stream = naming.head.stream;
        range.after = stream.first_position - 1;
        range.limit = batch_rows;
        range.walk = walk_rows;
        bool is_met = is_removed(naming.head.stream, naming.head.sequence);
        while (!is_met) {
            KV_TRY(const AuditPage page, storage_.scan_audit(range));
            is_met = std::any_of(page.rows.begin(), page.rows.end(), [&](const AuditRow& row) {
                return row.record.sequence == naming.head.sequence && crypto::equal(row.mac, naming.head.mac);
            });
            if (!page.resume) break;
            range.after = page.resume;
        }
        if (is_met && !naming.is_end) continue;
        findings_.add(kind::audit_stream, about_stream(naming.head.stream, naming.head.sequence,
                                                       is_met ? "it goes on behind the row that closed it"
                                                              : "its row is another one than stream " + naming.by.to_string() +
                                                                    " recorded in row " + number(naming.by_sequence)));
    }
    return {};
}

void AuditLog::settle_heads() {
    for (const auto& [id, head] : awaited_) {
        const Stream* stream = find_stream(id);
        if (head.sequence == 0) {
            if (stream->has_head || is_removed(id, stream->sequence)) continue;
            findings_.add(kind::audit_stream, about_stream(id, stream->sequence, "it has rows up to " + number(stream->sequence) + ", but no head"));
        } else if (is_removed(id, head.sequence) || (stream == nullptr && is_cut_ && head.state != HeadState::open)) {
            continue;  // retention took it
        } else if (stream == nullptr) {
            findings_.add(kind::audit_stream,
                          about_stream(id, head.sequence, "the whole stream is missing: its head names row " + number(head.sequence)));
        } else {
            findings_.add(kind::audit_head, about_stream(id, head.sequence,
                                                         rows(stream->sequence + 1, head.sequence) +
                                                             " at its end are missing: its head names row " + number(head.sequence)));
        }
    }
    awaited_.clear();
    for (const auto& [id, stream] : streams_) {
        if (!stream.needs_witness || stream.is_named) continue;
        findings_.add(kind::audit_head, about_stream(id, stream.sequence,
                                                     "its head says that a later stream recorded it, but none did, and its last row does not close it"));
    }
}

// ---- anchors ----

void AuditLog::settle_anchors() {
    std::size_t too_old = 0;
    for (const auto& [id, anchors] : anchors_) {
        // A stream that began before the oldest of which rows are left may be gone altogether: retention takes the
        // checkpoints, too, when their time comes.
        const bool may_be_gone = find_stream(id) == nullptr && is_cut_ && time_of(id) < time_of(oldest_stream_);
        std::vector<const Anchor*> missing;
        for (const Anchor& anchor : anchors) {
            if (!anchor.is_met && !is_settled(id, anchor)) missing.push_back(&anchor);
        }
        if (missing.empty()) continue;
        if (may_be_gone) {
            too_old += missing.size();
        } else {
            report_anchor(id, missing.front()->sequence, missing.size() - 1);
        }
    }
    if (too_old > 0) {
        findings_.note(number(too_old) + " noted heads could not be checked: their streams began before the oldest one that retention left");
    }
}

// Whether retention took the row.
bool AuditLog::is_settled(const StreamId& id, const Anchor& anchor) {
    const AuditHead* checkpoint = find_checkpoint(id, anchor.sequence);
    if (checkpoint != nullptr && !crypto::equal(checkpoint->mac, anchor.mac)) {
        findings_.add(kind::anchor, about_stream(id, anchor.sequence, "the row that retention removed was another one than when its head was noted down"));
    }
    return is_removed(id, anchor.sequence);
}

void AuditLog::report_anchor(const StreamId& id, std::uint64_t sequence, std::size_t more) {
    const Stream* stream = find_stream(id);
    std::string what = "its head was noted down, but " +
                       (stream != nullptr ? "the row is not there any more; the last one is " + number(stream->sequence)
                                          : std::string("the whole stream is not there any more"));
    if (more > 0) what += " (and " + number(more) + " later heads of it)";
    what += ": the database was set back, or audit rows were removed together with their head";
    if (new_epoch_) {
        what += "; the new epoch begun at " + format_time(*new_epoch_) + " explains it, if the head is of the time that was lost then";
    }
    findings_.add(kind::anchor, about_stream(id, sequence, std::move(what)));
}

}  // namespace kv::verification
