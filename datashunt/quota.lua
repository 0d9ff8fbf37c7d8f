-- Reserve one slot: the earliest time at which a request of so many tokens keeps within all limits.
--
-- Two rules hold at once. Pacing (GCRA, the generic cell rate algorithm of ITU-T I.371): each request moves a
-- theoretical arrival time on by what it costs at the limit's rate, so that traffic is even. The log: no window
-- holds more than the limit, whatever the sizes of the requests. Slots lie in the future and in order.
--
-- KEYS: 1 state (hash), 2 log (slot id by time), 3 tokens of each slot (hash); one {hash tag}, one node.
-- ARGV: slot id, tokens, requests per window (0: no limit), tokens per window (0: no limit), longest wait,
--       window, burst. Times are milliseconds of the server's own clock.
-- Returns {1 granted | 0 refused, wait}.
local state, log, sizes = KEYS[1], KEYS[2], KEYS[3]
local id, tokens = ARGV[1], tonumber(ARGV[2])
local rpm, tpm = tonumber(ARGV[3]), tonumber(ARGV[4])
local max_wait, window, burst = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000

local function number(field, default)
  return tonumber(redis.call('HGET', state, field) or default)
end

-- Forget what has left the window.
local gone = redis.call('ZRANGEBYSCORE', log, '-inf', now - window)
for _, old in ipairs(gone) do
  redis.call('HINCRBY', state, 'tokens', -(redis.call('HGET', sizes, old) or 0))
  redis.call('HDEL', sizes, old)
end
if #gone > 0 then redis.call('ZREMRANGEBYSCORE', log, '-inf', now - window) end
if redis.call('ZCARD', log) == 0 then redis.call('HDEL', state, 'tokens') end

-- Not before the pause is over, not before those who came earlier.
local at = math.max(now, number('paused', 0), number('last', 0))

-- Pacing. A store that knows nothing starts with an empty allowance: it may have forgotten what was just used.
local function paced(field, cost)
  local arrival = number(field, -1)
  if arrival < 0 then
    arrival = now + burst + cost
    redis.call('HSET', state, field, string.format('%.3f', arrival))
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

local wait = at - now
redis.call('EXPIRE', state, 86400)
if wait > max_wait then return {0, math.ceil(wait)} end
if rpm > 0 or tpm > 0 then
  redis.call('ZADD', log, string.format('%.3f', at), id)
  redis.call('HSET', sizes, id, tokens)
  redis.call('HINCRBY', state, 'tokens', tokens)
  redis.call('HSET', state, 'last', string.format('%.3f', at), 'per_token', tostring(per_token))
  if requests_arrival then
    redis.call('HSET', state, 'requests_arrival',
      string.format('%.3f', math.max(requests_arrival, at) + per_request))
  end
  if tokens_arrival then
    redis.call('HSET', state, 'tokens_arrival',
      string.format('%.3f', math.max(tokens_arrival, at) + tokens * per_token))
  end
  redis.call('EXPIRE', log, 86400)
  redis.call('EXPIRE', sizes, 86400)
end
return {1, math.ceil(wait)}
