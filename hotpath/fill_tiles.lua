-- Puts tiles in the place of those that they were made with, if nobody has counted meanwhile.
--
-- KEYS  the key of an entity's tiles
-- ARGV  1 the tiles as they were, '' for none; 2 the new tiles; 3 milliseconds until they expire
--
-- Answers 1 if the new tiles are there, 0 if the old ones were others.
if (redis.call('HGET', KEYS[1], 't') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 't', ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
