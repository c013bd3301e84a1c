-- Every response is compared with the one that is expected; the figures are one line of JSON.
--
--     wrk -s wrk.lua URL -- BODY [X-CACHE]

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   expected, cache = args[1], args[2]
   wrong = 0
end

function response(status, headers, body)
   if status ~= 200 or body ~= expected or (cache and headers["x-cache"] ~= cache) then
      wrong = wrong + 1
   end
end

function done(summary, latency, requests)
   local wrongs, errors = 0, 0
   for _, thread in ipairs(threads) do
      wrongs = wrongs + thread:get("wrong")
   end
   for _, name in ipairs({"connect", "read", "write", "timeout"}) do
      errors = errors + summary.errors[name]
   end
   io.write(string.format(
      '{"requests": %d, "seconds": %f, "wrong": %d, "errors": %d, "p50_ms": %f, "p99_ms": %f}\n',
      summary.requests, summary.duration / 1e6, wrongs, errors,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
