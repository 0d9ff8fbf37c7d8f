-- Reserve one slot: the earliest time at which a request of so many tokens keeps within all limits.
--
-- Two rules hold at once. Pacing (GCRA, the generic cell rate algorithm of ITU-T I.371): each request moves a
-- theoretical arrival time on by what it costs at the limit's rate, so that traffic is even. The log: no window
-- holds more than the limit, whatever the sizes of the requests. Slots lie in the future and in order.
--
-- ARGV: 2 tokens, 3 requests and 4 tokens per window (0: what the endpoint named), 5 slots in use at once
--       (0: no limit), 6 longest wait, 7 longest wait of whom nobody is before, 8 window, 9 burst, 10 how long
--       after its time a slot counts as in use at most, 11 classifier ('' alone with this key), 12 its weight,
--       13 its turn as it was when it was chosen.
-- Returns {1 granted, wait}, {0 refused, wait, 1 if others wait in line}, {2 too many in use}, or
--         {3 more tokens than the limit, limit}.
local id, tokens = ARGV[1], tonumber(ARGV[2])
local rpm, tpm, at_once = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_wait, first_wait = tonumber(ARGV[6]), tonumber(ARGV[7])
local window, burst, hold = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

if rpm == 0 then rpm = tonumber(redis.call('HGET', stated, 'rpm') or 0) end
if tpm == 0 then tpm = tonumber(redis.call('HGET', stated, 'tpm') or 0) end
if tpm > 0 and tokens > tpm then return {3, tpm} end

redis.call('ZREMRANGEBYSCORE', in_use, '-inf', now)
if at_once > 0 and redis.call('ZCARD', in_use) >= at_once then return {2, 0} end

-- Forget what has left the window.
local gone = redis.call('ZRANGEBYSCORE', log, '-inf', now - window)
for _, old in ipairs(gone) do
  redis.call('HINCRBY', state, 'tokens', -(redis.call('HGET', sizes, old) or 0))
  redis.call('HDEL', sizes, old)
end
if #gone > 0 then redis.call('ZREMRANGEBYSCORE', log, '-inf', now - window) end
if redis.call('ZCARD', log) == 0 then redis.call('HDEL', state, 'tokens') end

-- Not before the pause is over, not before those who came earlier.
local last = number('last', 0)
local at = math.max(now, number('paused', 0), last)

-- Pacing. A store that knows nothing starts with an empty allowance: it may have forgotten what was just used.
local function paced(field, cost)
  local arrival = number(field, -1)
  if arrival < 0 then
    arrival = now + burst + cost
    put(field, arrival)
  end
  at = math.max(at, arrival - burst)
  return arrival
end
local per_request = rpm > 0 and window / rpm or 0
local per_token = tpm > 0 and window / tpm or 0
local requests_arrival = rpm > 0 and paced('requests_arrival', per_request)
local tokens_arrival = tpm > 0 and paced('tokens_arrival', tokens * per_token)

-- The log: wait until enough of the oldest slots have left the window.
local function wait_for(rank)
  local oldest = redis.call('ZRANGE', log, rank, rank, 'WITHSCORES')
  at = math.max(at, tonumber(oldest[2]) + window)
end
if rpm > 0 then
  local over = redis.call('ZCARD', log) + 1 - rpm
  if over > 0 then wait_for(over - 1) end
end
if tpm > 0 then
  local over, rank = number('tokens', 0) + tokens - tpm, 0
  while over > 0 do
    over = over - redis.call('HGET', sizes, redis.call('ZRANGE', log, rank, rank)[1])
    if over <= 0 then wait_for(rank) end
    rank = rank + 1
  end
end

local wait, line = at - now, last > now
redis.call('EXPIRE', state, 86400)
if wait > (line and max_wait or math.max(max_wait, first_wait)) then
  return {0, math.ceil(wait), line and 1 or 0}
end

redis.call('ZADD', log, string.format('%.3f', at), id)
redis.call('ZADD', in_use, string.format('%.3f', at + hold), id)
redis.call('HSET', sizes, id, tokens)
redis.call('HINCRBY', state, 'tokens', tokens)
put('last', at)
redis.call('HSET', state, 'per_token', tostring(per_token), 'per_request', tostring(per_request))
if requests_arrival then put('requests_arrival', math.max(requests_arrival, at) + per_request) end
if tokens_arrival then put('tokens_arrival', math.max(tokens_arrival, at) + tokens * per_token) end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): a request of a classifier begins where its last one ended,
-- or where the service is if it asked for nothing meanwhile, and ends 1 / weight later.
local classifier = ARGV[11]
if classifier ~= '' then
  local turn = tonumber(ARGV[13])
  local served = tonumber(redis.call('HGET', turns, 'served') or 0)
  local ended = tonumber(redis.call('HGET', turns, classifier) or 0)
  redis.call('HSET', turns, 'served', string.format('%.6f', math.max(served, turn)),
    classifier, string.format('%.6f', math.max(ended, turn) + 1 / tonumber(ARGV[12])))
  redis.call('EXPIRE', turns, 86400)
end
for _, key in ipairs({log, sizes, in_use}) do redis.call('EXPIRE', key, 86400) end
return {1, math.ceil(wait)}
