#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvd/config.h"

namespace kvd {

using Problem = std::optional<std::string>;  // what is wrong with a value; empty: nothing

// One row of the table: a setting by all its names, and how its text becomes a value.
struct Setting {
    const char* name;         // "listen": --listen, KVD_LISTEN, `listen =` in the file
    const char* placeholder;  // null: a switch
    const char* help;
    bool is_advanced;
    std::function<Problem(Settings&, const std::string&)> set;
    const char* variable = nullptr;  // where it is not called after the name

    std::string variable_name() const;
};

// In the order of the help.
const std::vector<Setting>& settings_table();
// Null if there is none of that name.
const Setting* find_setting(std::string_view name);
}  // namespace kvd
