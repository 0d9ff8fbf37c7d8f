-- What all scripts begin with. All keys lie in one {hash tag}, on one node; times are milliseconds of the
-- server's own clock.
--
-- KEYS: 1 state (hash), 2 log (slot id by time), 3 tokens of each slot (hash), 4 slots in use by the time at which
--       they count as forgotten, 5 turns of the classifiers (hash), 6 limits that the endpoint named (hash).
-- ARGV: 1 slot id, where there is one.
local state, log, sizes, in_use, turns, stated = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000

local function number(field, default)
  return tonumber(redis.call('HGET', state, field) or default)
end

-- Times are stored with the time at which they were.
local function put(field, value)
  redis.call('HSET', state, field, string.format('%.3f', value), 'seen', string.format('%.3f', now))
end

-- The clock was set back, or is another server's after a failover: it was later when something was last stored. What
-- lies ahead goes back with it, as if no time had passed since. So nothing holds longer than it was to, and what was
-- used counts for at least as long as it should.
local back = number('seen', 0) - now
if back > 1 then
  for _, field in ipairs({'last', 'paused', 'open_till', 'changed', 'requests_arrival', 'tokens_arrival'}) do
    local time = number(field, 0)
    if time > now then put(field, time - back) end
  end
  for _, times in ipairs({log, in_use}) do
    local ahead = redis.call('ZRANGEBYSCORE', times, string.format('(%.3f', now), '+inf', 'WITHSCORES')
    for i = 1, #ahead, 2 do
      redis.call('ZADD', times, string.format('%.3f', ahead[i + 1] - back), ahead[i])
    end
  end
  redis.call('HSET', state, 'seen', string.format('%.3f', now))
end

-- Another number of tokens in place of those that a slot stands for.
local function resize(id, tokens)
  local reserved = redis.call('HGET', sizes, id)
  if not reserved then return end
  local more = tokens - reserved
  redis.call('HSET', sizes, id, tokens)
  redis.call('HINCRBY', state, 'tokens', more)
  local arrival = number('tokens_arrival', -1)
  if arrival >= 0 then put('tokens_arrival', arrival + more * number('per_token', 0)) end
end

-- As if the slot had never been granted.
local function give_back(id)
  redis.call('ZREM', in_use, id)
  if redis.call('ZREM', log, id) == 0 then return end
  resize(id, 0)
  redis.call('HDEL', sizes, id)
  local arrival = number('requests_arrival', -1)
  if arrival >= 0 then put('requests_arrival', arrival - number('per_request', 0)) end
end
