-- The call is over: the tokens that it used, in place of those that were reserved; -1: nothing was sent.
-- ARGV: 2 tokens.
local tokens = tonumber(ARGV[2])
if tokens < 0 then
  give_back(ARGV[1])
else
  redis.call('ZREM', in_use, ARGV[1])
  resize(ARGV[1], tokens)
end
