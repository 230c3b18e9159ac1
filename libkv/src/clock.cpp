#include "kv/clock.h"

#include <ctime>

namespace kv {
namespace {

using std::chrono::microseconds;

class SystemClock final : public Clock {
public:
    Time now() override {
        return start_ + (since_boot() - boot_start_);
    }
    microseconds disagreement() override {
        return std::chrono::duration_cast<microseconds>(std::chrono::system_clock::now() - now());
    }

private:
    // Steady like std::chrono::steady_clock, but it goes on while the machine sleeps.
    static microseconds since_boot() {
        timespec time{};
        clock_gettime(CLOCK_BOOTTIME, &time);
        return std::chrono::duration_cast<microseconds>(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
    }

    const microseconds boot_start_ = since_boot();
    const Time start_ = std::chrono::time_point_cast<microseconds>(std::chrono::system_clock::now());
};

// Reads exactly `count` digits.
bool read_digits(std::string_view& text, int count, int& value) {
    if (text.size() < static_cast<std::size_t>(count)) return false;
    value = 0;
    for (int i = 0; i < count; ++i) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = value * 10 + (text[i] - '0');
    }
    text.remove_prefix(count);
    return true;
}

void write_digits(std::string& text, std::size_t at, std::size_t count, int value) {
    while (count-- > 0) {
        text[at + count] = static_cast<char>('0' + value % 10);
        value /= 10;
    }
}

bool read_char(std::string_view& text, std::string_view any_of) {
    if (text.empty() || any_of.find(text.front()) == std::string_view::npos) return false;
    text.remove_prefix(1);
    return true;
}

// Digits beyond microseconds are cut.
bool read_fraction(std::string_view& text, std::int64_t& micros) {
    if (text.empty() || text.front() != '.') return true;
    text.remove_prefix(1);
    std::int64_t scale = 100'000;
    std::size_t digits = 0;
    for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; ++digits, scale /= 10) {
        micros += (text[digits] - '0') * scale;
    }
    text.remove_prefix(digits);
    return digits > 0;
}

bool read_offset(std::string_view& text, int& minutes) {
    if (read_char(text, "Zz")) return true;
    if (text.empty() || (text.front() != '+' && text.front() != '-')) return false;
    const int sign = text.front() == '-' ? -1 : 1;
    text.remove_prefix(1);
    int hours = 0;
    int mins = 0;
    if (!read_digits(text, 2, hours) || !read_char(text, ":") || !read_digits(text, 2, mins)) return false;
    if (hours > 23 || mins > 59) return false;
    minutes = sign * (hours * 60 + mins);
    return true;
}

}  // namespace

Clock::~Clock() = default;

std::unique_ptr<Clock> make_system_clock() { return std::make_unique<SystemClock>(); }

std::string format_time(Time time) {
    namespace chr = std::chrono;
    const auto day = chr::floor<chr::days>(time);
    const chr::year_month_day date{day};
    const chr::hh_mm_ss clock{chr::floor<chr::milliseconds>(time - day)};
    const int year = static_cast<int>(date.year());
    // RFC 3339 has four digits. Beyond them lies no time of ours, only what others wrote into a row.
    if (year < 0) return "0000-01-01T00:00:00.000Z";
    if (year > 9999) return "9999-12-31T23:59:59.999Z";
    std::string text = "0000-00-00T00:00:00.000Z";
    write_digits(text, 0, 4, year);
    write_digits(text, 5, 2, static_cast<int>(static_cast<unsigned>(date.month())));
    write_digits(text, 8, 2, static_cast<int>(static_cast<unsigned>(date.day())));
    write_digits(text, 11, 2, static_cast<int>(clock.hours().count()));
    write_digits(text, 14, 2, static_cast<int>(clock.minutes().count()));
    write_digits(text, 17, 2, static_cast<int>(clock.seconds().count()));
    write_digits(text, 20, 3, static_cast<int>(clock.subseconds().count()));
    return text;
}

std::optional<Time> parse_time(std::string_view text) {
    namespace chr = std::chrono;
    int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, offset = 0;
    std::int64_t micros = 0;
    const bool well_formed = read_digits(text, 4, year) && read_char(text, "-") && read_digits(text, 2, month) &&
                             read_char(text, "-") && read_digits(text, 2, day) && read_char(text, "Tt ") &&
                             read_digits(text, 2, hour) && read_char(text, ":") && read_digits(text, 2, minute) &&
                             read_char(text, ":") && read_digits(text, 2, second) && read_fraction(text, micros) &&
                             read_offset(text, offset) && text.empty();
    const chr::year_month_day date{chr::year(year), chr::month(month), chr::day(day)};
    if (!well_formed || !date.ok() || hour > 23 || minute > 59 || second > 60) return std::nullopt;
    return Time(chr::sys_days(date)) + chr::hours(hour) + chr::minutes(minute - offset) + chr::seconds(second) +
           chr::microseconds(micros);
}

}  // namespace kv
