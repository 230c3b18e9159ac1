#include <cstring>
#include <fstream>
#include <iterator>

#include "backup.h"
#include "bytes.h"
#include "fault/forwarding_storage.h"
#include "fuzz.h"
#include "kv/admin.h"

// Bytes restored as a backup: the one that the store wrote is, and nothing else; and what was refused half-way leaves no storage
// behind in which a store opens. So that rows are reached, checksums are made right before.
// Broken to try it: the MAC at the end not compared, which is found from the corpus.
using namespace kv;
using namespace kv::fuzz;

namespace {

const std::string& genuine() {
    static const std::string bytes = [] {
        std::ifstream file(KV_FUZZ_CORPUS "/backup_restore/genuine", std::ios::binary);
        std::string text((std::istreambuf_iterator<char>(file)), {});
        KV_PROPERTY(text.size() > 1000);
        return text.substr(1);
    }();
    return bytes;
}

// Puts the checksum behind everything that has one.
void mend(std::string& bytes) {
    std::size_t at = bytes.find('\n') + 1;
    if (at == 0) return;
    const auto u32_at = [&](std::size_t place) { return BytesReader(std::string_view(bytes).substr(place)).u32(); };
    const auto put = [&](std::size_t from, std::size_t place) {
        if (place + backup::checksum_bytes > bytes.size()) return false;
        bytes.replace(place, backup::checksum_bytes, backup::checksum(std::string_view(bytes).substr(from, place - from)));
        return true;
    };
    if (at + 4 > bytes.size() || !put(at, at + 4 + u32_at(at))) return;
    at += 4 + u32_at(at) + backup::checksum_bytes;
    while (at + backup::chunk_head_bytes <= bytes.size()) {
        const std::size_t end = at + backup::chunk_head_bytes + u32_at(at + 5);
        if (!put(at, end)) return;
        at = end + backup::checksum_bytes;
    }
}

bool is_blank(Storage& storage) { return storage.get_meta().value().empty() && storage.internal_keys().value().empty(); }

}  // namespace

// Whether checksums are mended, in the first byte; then the backup.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input(data, size);
    const std::uint8_t how = input.u8();
    std::string bytes(input.rest());
    static const bool mends_right = [] {
        std::string copy = genuine();
        mend(copy);
        return copy == genuine();
    }();
    KV_PROPERTY(mends_right);
    if (how % 2 == 1) mend(bytes);
    StillClock clock;
    const auto keys = make_fixed_key(fixed_key());
    const auto storage = make_memory_storage(clock);
    std::string_view rest = bytes;
    const std::size_t piece = how < 2 ? bytes.size() : how;
    const BackupSource source = [&]() -> Result<std::string> {
        const std::string part(rest.substr(0, piece));
        rest.remove_prefix(part.size());
        return part;
    };
    const auto restored = restore_backup(source, *storage, *keys);
    KV_PROPERTY(restored.has_value() == (bytes == genuine()));
    if (restored) {
        KV_PROPERTY(verify(*storage, *keys, {})->is_sound());
    } else if (!is_blank(*storage)) {
        Options options;
        options.keys = keys;
        options.clock = &clock;
        options.maintenance_interval = std::chrono::milliseconds(0);
        KV_PROPERTY(!Store::open(std::make_unique<test::Passing>(*storage), options).has_value());
    }
    return 0;
}
