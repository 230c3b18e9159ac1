#pragma once
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "crypto/aes_gcm.h"
#include "kv/options.h"
#include "text.h"

namespace kv::testing {

// The lines of a file in tests/vectors, as words. Lines that begin with # are comments.
inline std::vector<std::vector<std::string>> read_vectors(const std::string& name) {
    std::ifstream file(std::string(KV_TEST_DATA) + "/vectors/" + name);
    REQUIRE(file.good());
    std::vector<std::vector<std::string>> lines;
    for (std::string line; std::getline(file, line);) {
        if (line.empty() || line[0] == '#') continue;
        std::istringstream words(line);
        lines.emplace_back();
        for (std::string word; words >> word;) lines.back().push_back(word);
    }
    REQUIRE(!lines.empty());
    return lines;
}

// Hexadecimal, or "-" for nothing.
inline std::string from_hex(const std::string& word) {
    if (word == "-") return {};
    auto bytes = hex_decode(word);
    REQUIRE(bytes.has_value());
    return std::string(bytes->reveal());
}

template <std::size_t N>
std::array<std::uint8_t, N> to_array(std::string_view bytes) {
    REQUIRE(bytes.size() == N);
    std::array<std::uint8_t, N> out;
    std::copy(bytes.begin(), bytes.end(), out.begin());
    return out;
}

template <std::size_t N>
std::string hex_of(const std::array<std::uint8_t, N>& bytes) {
    return hex_encode({reinterpret_cast<const char*>(bytes.data()), N});
}

// Those that this machine can run.
inline std::vector<CryptoBackend> backends() {
    std::vector<CryptoBackend> list = {CryptoBackend::openssl};
    if (crypto::select_backend(CryptoBackend::libsodium)) list.push_back(CryptoBackend::libsodium);
    return list;
}

}  // namespace kv::testing
