-- The wait is over: may the request be sent? Not if everybody was told to pause meanwhile, nor if its time has
-- passed by: what is sent later than it is counted would be too much for the window that it really falls in.
-- ARGV: 2 how late it may be.
-- Returns {1 | 0 given back, how long everybody pauses}.
local at = tonumber(redis.call('ZSCORE', log, ARGV[1]) or 0)
local pause = math.max(0, number('paused', 0) - now)
if pause == 0 and now - at <= tonumber(ARGV[2]) then return {1, 0} end
give_back(ARGV[1])
return {0, math.ceil(pause)}
