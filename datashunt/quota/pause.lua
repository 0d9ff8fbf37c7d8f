-- Nobody sends before so many milliseconds have passed; a longer pause that holds is kept.
-- ARGV: 2 milliseconds.
local till = now + ARGV[2]
if till > number('paused', 0) then
  put('paused', till)
  redis.call('PEXPIRE', state, 86400000 + ARGV[2])
end
