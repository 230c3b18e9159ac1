-- What wrk sends: requests on random entries, all made before the clock starts, so that wrk only copies them.
--
--   BENCH_KIND      ceiling: GET /healthz, get, put
--   BENCH_ENTRIES   how many there are; fill.cpp made them, with the same key paths
--   BENCH_SEED      of the random keys
--   BENCH_REQUESTS  how many to make; then they begin again
--   BENCH_TOKEN     who asks
local kind = os.getenv("BENCH_KIND")
local entries = tonumber(os.getenv("BENCH_ENTRIES"))
local token = os.getenv("BENCH_TOKEN")
local letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
local value_bytes = 128

local function random_value()
    local bytes = {}
    for i = 1, value_bytes do
        local at = math.random(#letters)
        bytes[i] = letters:sub(at, at)
    end
    return table.concat(bytes)
end

local function random_path()
    local number = math.random(0, entries - 1)
    return string.format("/api/v1/kv/bench~secret/entries/service-%04d/setting-%07d", math.floor(number / 1000), number)
end

local make = {}

function make.ceiling(host)
    return string.format("GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n", host)
end

function make.get(host)
    return string.format("GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", random_path(), host, token)
end

-- A few values are enough: every put makes a version of its own, sealed anew.
local values = {}

function make.put(host)
    local body = '{"value":"' .. values[math.random(#values)] .. '"}'
    return string.format("PUT %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n" ..
                         "Content-Length: %d\r\n\r\n%s", random_path(), host, token, #body, body)
end

local requests = {}
local count = 0
local at = 0

function init(args)
    math.randomseed(tonumber(os.getenv("BENCH_SEED")))
    for i = 1, 64 do values[i] = random_value() end
    count = kind == "ceiling" and 1 or tonumber(os.getenv("BENCH_REQUESTS"))
    local host = wrk.host .. ":" .. wrk.port
    for i = 1, count do requests[i] = make[kind](host) end
    collectgarbage()
    io.write(string.format('{"preparedCpuSeconds": %.3f}\n', os.clock()))
end

function request()
    at = at % count + 1
    return requests[at]
end

function done(summary, latency, _)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "bytes": %d, "unanswered": %d, "refused": %d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.bytes,
        errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
