-- Returns the region's revision (false if there is none) and its tiers: names and documents in turn.
-- KEYS[1] hash of tiers   KEYS[2] the region's revision
-- Atomic, so that the tiers are those of the revision..
return {redis.call('GET', KEYS[2]), redis.call('HGETALL', KEYS[1])}
