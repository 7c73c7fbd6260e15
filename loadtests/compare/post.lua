-- POSTs bodies in turn, each a file, and prints what wrk measured as one line of JSON.
--
--   wrk ... --script post.lua URL -- CONTENT-TYPE FILE...

local requests = {}
local turn = 0

function init(arguments)
  local headers = { ["Content-Type"] = arguments[1] }
  for number = 2, #arguments do
    local file = assert(io.open(arguments[number], "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\n{"answers": %d, "errors": %d, "seconds": %.6f, "p50": %.6f, "p95": %.6f, "p99": %.6f}\n',
    summary.requests - failed.status,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout,
    summary.duration / 1e6,
    latency:percentile(50) / 1e6,
    latency:percentile(95) / 1e6,
    latency:percentile(99) / 1e6
  ))
end
