-- The call is over: the tokens that it used, in place of those that were reserved; -1: nothing was sent. And what
-- it says of the endpoint. `open_till`: until when nobody asks; there only while the circuit breaker is open.
-- `changed`: when it was opened or closed. What was sent before says nothing of how things are since then.
-- ARGV: 2 tokens, 3 alive, failed, stopped or '', 4 the slot's time, 5 failures in a row that open it,
--       6 how long until the endpoint is tried again.
-- Returns {1 if it is open, 1 if that has just changed}.
local tokens, verdict, sent = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local till, changed = number('open_till', 0), number('changed', 0)
local was_open, recent = till > 0, sent >= changed
if tokens < 0 then
  give_back(ARGV[1])
  if was_open and recent then put('open_till', now) end
else
  redis.call('ZREM', in_use, ARGV[1])
  resize(ARGV[1], tokens)
end
if verdict == '' or not recent then return {was_open and 1 or 0, 0} end
redis.call('EXPIRE', state, 86400)

if verdict == 'alive' then
  redis.call('HDEL', state, 'failures', 'open_till')
  if not was_open then return {0, 0} end
  put('changed', now)
  return {0, 1}
end
if not was_open and redis.call('HINCRBY', state, 'failures', 1) < tonumber(ARGV[5]) then return {0, 0} end
put('open_till', now + tonumber(ARGV[6]))
if was_open then return {1, 0} end
put('changed', now)
redis.call('HDEL', state, 'failures')
return {1, 1}
