package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/rediscluster"
)

// maxValue bounds a value that is read from Redis. Leases have some 300 bytes, answers 2 KiB.
const maxValue = 8 << 10

// board is Redis, as far as this package uses it. Each of its methods touches one key at a
// time, since the keys of a Redis Cluster are spread over its servers.
type board interface {
	// Read returns the values of keys, and how long they live. A key that is not there, or
	// holds no text, has the zero entry.
	Read(ctx context.Context, keys ...string) ([]entry, error)
	// Write writes a key for some time.
	Write(ctx context.Context, key, value string, life time.Duration) error
	// Replace writes a key for some time if it has the value old, or if it is not there and
	// old is empty. It reports whether it did.
	Replace(ctx context.Context, key, old, value string, life time.Duration) (bool, error)
	// Remove removes a key if it has a value.
	Remove(ctx context.Context, key, value string) error
	// Enter notes a member of a set, and returns all members that entered within some time.
	Enter(ctx context.Context, key, member string, within time.Duration) ([]string, error)
	// Ready returns nil if all servers work.
	Ready(ctx context.Context) error
}

// entry is the value of a key.
type entry struct {
	value string // empty: there is none
	left  time.Duration
}

// maxMembers bounds the replicas that are read. Others are left out.
const maxMembers = 128

var (
	replaceScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
	return 1
end
return 0`)
	removeScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)
	// The time is that of Redis, so that the clocks of replicas need not agree. A key of
	// another type is replaced: it would keep the replicas apart for ever.
	enterScript = redis.NewScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local added = redis.pcall('ZADD', KEYS[1], now, ARGV[3])
if type(added) == 'table' and added.err then
	if not string.find(added.err, 'WRONGTYPE', 1, true) then return added end
	redis.call('DEL', KEYS[1])
	redis.call('ZADD', KEYS[1], now, ARGV[3])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])` + membersOfSet)
	membersScript = redis.NewScript(membersOfSet)
)

// membersOfSet returns the first members of a set that are not too long to be read.
const membersOfSet = `
local members = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1])) do
	if #member <= tonumber(ARGV[2]) then members[#members + 1] = member end
end
return members`

// redisBoard is the board of a client.
type redisBoard struct{ client redis.UniversalClient }

func (b *redisBoard) Read(ctx context.Context, keys ...string) ([]entry, error) {
	values, lives := make([]*redis.StringCmd, len(keys)), make([]*redis.DurationCmd, len(keys))
	_, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			values[i], lives[i] = p.GetRange(ctx, key, 0, maxValue), p.PTTL(ctx, key)
		}
		return nil
	})
	// A key of another type is garbage, and no failure of Redis.
	if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return nil, fmt.Errorf("cluster: reading from Redis: %w", err)
	}
	entries := make([]entry, len(keys))
	for i := range keys {
		// A value that was cut cannot be compared, and one without an end is not a lease.
		if value := values[i].Val(); len(value) <= maxValue && lives[i].Val() > 0 {
			entries[i] = entry{value, lives[i].Val()}
		}
	}
	return entries, nil
}

func (b *redisBoard) Write(ctx context.Context, key, value string, life time.Duration) error {
	return failure("writing to", b.client.Set(ctx, key, value, life).Err())
}

func (b *redisBoard) Replace(ctx context.Context, key, old, value string, life time.Duration) (bool, error) {
	if old == "" {
		err := b.client.SetArgs(ctx, key, value, redis.SetArgs{Mode: "NX", TTL: life}).Err()
		if errors.Is(err, redis.Nil) { // it is there
			return false, nil
		}
		return err == nil, failure("writing to", err)
	}
	done, err := replaceScript.Run(ctx, b.client, []string{key}, old, value, life.Milliseconds()).Bool()
	return done, ofKey("writing to", err)
}

func (b *redisBoard) Remove(ctx context.Context, key, value string) error {
	return ofKey("deleting from", removeScript.Run(ctx, b.client, []string{key}, value).Err())
}

func (b *redisBoard) Enter(ctx context.Context, key, member string, within time.Duration) ([]string, error) {
	members, err := enterScript.Run(ctx, b.client, []string{key}, maxMembers-1, maxValue, member, within.Milliseconds()).StringSlice()
	return members, failure("writing to", err)
}

// readSet returns the members of a set, without becoming one.
func readSet(ctx context.Context, client redis.UniversalClient, key string) ([]string, error) {
	members, err := membersScript.Run(ctx, client, []string{key}, maxMembers-1, maxValue).StringSlice()
	return members, ofKey("reading from", err)
}

func (b *redisBoard) Ready(ctx context.Context) error {
	return failure("probing", rediscluster.Ready(ctx, b.client))
}

// ofKey is failure for a script: a key of another type does not have the value.
func ofKey(doing string, err error) error {
	if redis.HasErrorPrefix(err, "WRONGTYPE") {
		return nil
	}
	return failure(doing, err)
}

func failure(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cluster: %s Redis: %w", doing, err)
}
