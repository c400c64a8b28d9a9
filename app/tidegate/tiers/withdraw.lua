-- Takes a worker off the roster.
-- KEYS[1] hash of heartbeats   ARGV[1] worker id   ARGV[2] channel told
-- Atomic, so that the change of the roster and its message are one.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[1])
