-- The wait is over: may the request be sent? Not if everybody was told to pause meanwhile, nor if its time has
-- passed by: what is sent later than it is counted would be too much for the window that it really falls in.
-- Nor if the endpoint failed meanwhile, unless this is the request that tries it again.
-- ARGV: 2 how late it may be, 3 1 if it tries the endpoint again.
-- Returns {1 | 0 given back, how long everybody pauses}.
local at = tonumber(redis.call('ZSCORE', log, ARGV[1]) or 0)
local pause = math.max(0, number('paused', 0) - now)
local closed = number('open_till', 0) == 0 or ARGV[3] == '1'
if pause == 0 and closed and now - at <= tonumber(ARGV[2]) then return {1, 0} end
give_back(ARGV[1])
return {0, math.ceil(pause)}
