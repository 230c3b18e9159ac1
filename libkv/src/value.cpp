#include "value.h"

#include <string>
#include <utility>

#include "json/json.h"
#include "text.h"

namespace kv {
namespace {

// Far beyond any number's use, and short enough that every reader of JSON takes it.
constexpr std::size_t number_bytes_max = 1024;

ValueType type_of(ValueInput::Form form) {
    switch (form) {
        case ValueInput::Form::text: return ValueType::string;
        case ValueInput::Form::number: return ValueType::number;
        case ValueInput::Form::boolean: return ValueType::boolean;
        case ValueInput::Form::json: return ValueType::json;
        case ValueInput::Form::bytes: return ValueType::binary;
    }
    return ValueType::binary;
}

Error invalid(std::string message, std::string field = "value") {
    Error error{Errc::invalid_value, std::move(message)};
    error.field = std::move(field);
    return error;
}

Error too_large(std::size_t bytes_max) {
    Error error{Errc::too_large, "the value is larger than " + std::to_string(bytes_max) + " bytes"};
    error.field = "value";
    error.limit = bytes_max;
    return error;
}

Error does_not_fit(ValueType type, std::string_view what) {
    return invalid("the value does not fit valueType " + std::string(to_string(type)) + ": it is not " + std::string(what));
}

// Text may stand for any type, and so may bytes that the caller gave without saying what they are.
bool may_stand_for(ValueInput::Form form, ValueType type) {
    return form == ValueInput::Form::text || form == ValueInput::Form::bytes || type_of(form) == type;
}

Result<void> check_json(std::string_view text) {
    auto document = json::parse(text);
    if (!document) return does_not_fit(ValueType::json, "well-formed (" + document.error().message + ")");
    if (document->kind == json::Kind::object || document->kind == json::Kind::array) return {};
    return does_not_fit(ValueType::json, "an object or array");
}

// Of the types whose canonical form is the text itself.
Result<void> check_text(std::string_view text, ValueType type) {
    switch (type) {
        case ValueType::string:
            if (!is_valid_utf8(text)) return does_not_fit(type, "valid UTF-8");
            return {};
        case ValueType::number:
            if (text.size() > number_bytes_max) return does_not_fit(type, "a number of at most 1024 characters");
            if (!json::is_number(text)) return does_not_fit(type, "a JSON number");
            return {};
        case ValueType::boolean:
            if (text != "true" && text != "false") return does_not_fit(type, "true or false");
            return {};
        case ValueType::json: return check_json(text);
        case ValueType::binary: return {};
    }
    return {};
}

Result<Value> decode_binary(std::string_view text, std::size_t value_bytes_max) {
    if (text.size() > base64_encoded_size(value_bytes_max)) return too_large(value_bytes_max);
    auto bytes = base64_decode(text);
    if (!bytes) return does_not_fit(ValueType::binary, "padded base64 without white space");
    if (bytes->size() > value_bytes_max) return too_large(value_bytes_max);
    return Value{ValueType::binary, *std::move(bytes)};
}

Error invalid_metadata(std::string message) {
    Error error{Errc::invalid_request, std::move(message)};
    error.field = "metadata";
    return error;
}

}  // namespace

Result<Value> normalize(const ValueInput& input, std::optional<ValueType> type, std::size_t value_bytes_max) {
    if (type && input.type && *type != *input.type) {
        return invalid("valueType must stay " + std::string(to_string(*type)), "valueType");
    }
    const ValueType wanted = type ? *type : input.type.value_or(type_of(input.form));
    const std::string_view text = input.data.reveal();
    if (!may_stand_for(input.form, wanted)) {
        return invalid("the value does not fit valueType " + std::string(to_string(wanted)));
    }
    if (wanted == ValueType::binary && input.form == ValueInput::Form::text) return decode_binary(text, value_bytes_max);
    // The size comes first, so that nothing of any size is parsed.
    if (text.size() > value_bytes_max) return too_large(value_bytes_max);
    KV_CHECK(check_text(text, wanted));
    return Value{wanted, input.data};
}

Result<void> check_metadata(std::string_view metadata, std::size_t bytes_max) {
    if (metadata == "{}") return {};
    if (metadata.size() > bytes_max) {
        Error error = invalid_metadata("metadata is larger than " + std::to_string(bytes_max) + " bytes");
        error.limit = bytes_max;
        return error;
    }
    auto document = json::parse(metadata);
    if (!document) return invalid_metadata("metadata is not well-formed: " + document.error().message);
    if (document->kind != json::Kind::object) return invalid_metadata("metadata is not a JSON object");
    return {};
}

}  // namespace kv
