package tokencache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/rediscluster"
	"github.com/weirhq/weir/internal/seal"
)

// compareAndDelete removes KEYS[1] while it holds the token ARGV[1]. It is one
// script because between a read and a delete another instance may store a newer
// token. A record that the script cannot read stays until it is overwritten or
// expires.
const compareAndDelete = `
local stored = redis.pcall('GET', KEYS[1])
if type(stored) ~= 'string' then return 0 end
local ok, record = pcall(cjson.decode, stored)
if ok and type(record) == 'table' and record.token == ARGV[1] then
	return redis.call('DEL', KEYS[1])
end
return 0`

// Redis is a [Store] that instances share. The names of keys are hashes and reveal
// neither scopes nor accounts. The tokens are stored in clear, so every client
// that can read this Redis can pull all content that the mirror can pull. Redis
// drops each token when it counts as expired.
type Redis struct {
	client redis.UniversalClient
	sealer *seal.Sealer
	prefix string
	delete *redis.Script
}

// record is the form of a token in Redis.
type record struct {
	Token   string    `json:"token"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	Seal    string    `json:"seal,omitempty"`
}

const (
	// maxRecord bounds a record before it is decoded. JSON may escape some characters.
	maxRecord = 24 << 10
	// maxLife bounds how long a token from Redis is believed. Tokens live for minutes,
	// those of some clouds for 12 h.
	maxLife = 24 * time.Hour
)

// NewRedis returns a store below the prefix of a client's database. The caller
// closes the client, which should have ContextTimeoutEnabled: without it a call to
// a frozen server outlives its context, though the [Cache] does not wait for it.
func NewRedis(client redis.UniversalClient, prefix string) *Redis {
	return NewSealedRedis(client, prefix, "")
}

// NewSealedRedis is NewRedis for instances that have a secret in common. They ignore
// tokens that others wrote, or that were moved to another key. An empty secret seals
// nothing.
func NewSealedRedis(client redis.UniversalClient, prefix, secret string) *Redis {
	return &Redis{client: client, prefix: prefix, sealer: seal.New(secret, "weir token v1"), delete: redis.NewScript(compareAndDelete)}
}

// Get returns a usable token. It returns ErrNotFound if Redis has none, or a value
// that is not a token.
func (r *Redis) Get(ctx context.Context, key Key) (Token, error) {
	// No more than a record can have: any client of Redis can write there.
	stored, err := r.client.GetRange(ctx, r.name(key), 0, maxRecord).Bytes()
	switch {
	case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"): // a list, a set
		return Token{}, ErrNotFound
	case err != nil:
		return Token{}, failure("reading from", err)
	}
	token, ok := r.parse(r.name(key), stored)
	if !ok || !token.Usable(time.Now()) {
		return Token{}, ErrNotFound
	}
	return token, nil
}

// Set stores a token for as long as it is usable.
func (r *Redis) Set(ctx context.Context, key Key, token Token) error {
	ttl := time.Until(token.earlyExpiry())
	if ttl < time.Millisecond {
		return nil // expired: Redis counts in whole milliseconds
	}
	// Only a time out of range (RFC 3339 has four-digit years) does not marshal.
	// A token with such a time is not worth keeping.
	rec := record{Token: token.Value, Issued: token.Issued, Expires: token.Expires}
	rec.Seal = r.sealer.Seal(rec.fields(r.name(key))...)
	value, err := json.Marshal(rec)
	if err != nil || len(value) > maxRecord {
		return nil
	}
	if err := r.client.Set(ctx, r.name(key), value, ttl).Err(); err != nil {
		return failure("writing to", err)
	}
	return nil
}

// Delete removes the token for a key while it is the rejected one.
func (r *Redis) Delete(ctx context.Context, key Key, rejected Token) error {
	err := r.delete.Run(ctx, r.client, []string{r.name(key)}, rejected.Value).Err()
	if err != nil {
		return failure("deleting from", err)
	}
	return nil
}

// Ready returns nil if all masters of a cluster work. It returns nil for a Redis that
// is not a cluster.
func (r *Redis) Ready(ctx context.Context) error {
	if err := rediscluster.Ready(ctx, r.client); err != nil {
		return failure("probing", err)
	}
	return nil
}

func (r *Redis) name(key Key) string { return r.prefix + ":token:" + key.digest() }

// failure wraps an error of the client. A server that lacks a command, as hardened
// servers lack EVALSHA, quotes the command's arguments in its answer. They may be
// tokens, which must not reach the log.
func failure(doing string, err error) error {
	if said, _, quotes := strings.Cut(err.Error(), ", with args beginning with"); quotes {
		return fmt.Errorf("tokencache: %s Redis: %s", doing, said)
	}
	return fmt.Errorf("tokencache: %s Redis: %w", doing, err)
}

// fields returns the fields that a seal is about. The name of the key is one of them,
// so that a token is valid for nothing but its own key.
func (r record) fields(name string) []string {
	return []string{name, r.Token, r.Issued.UTC().Format(time.RFC3339Nano), r.Expires.UTC().Format(time.RFC3339Nano)}
}

// parse returns false if a record cannot be a token, or was not sealed by an instance
// with the same secret. The value goes into a header line, so it must be visible ASCII:
// any other character would fail the pull.
func (r *Redis) parse(name string, stored []byte) (Token, bool) {
	if len(stored) > maxRecord {
		return Token{}, false
	}
	var rec record
	if err := json.Unmarshal(stored, &rec); err != nil || len(rec.Token) > MaxToken || !r.sealer.Valid(rec.Seal, rec.fields(name)...) {
		return Token{}, false
	}
	if latest := time.Now().Add(maxLife); rec.Expires.After(latest) {
		rec.Expires = latest
	}
	invisible := func(r rune) bool { return r <= ' ' || r > '~' }
	if rec.Token == "" || strings.ContainsFunc(rec.Token, invisible) {
		return Token{}, false
	}
	return Token{Value: rec.Token, Issued: rec.Issued, Expires: rec.Expires}, true
}
