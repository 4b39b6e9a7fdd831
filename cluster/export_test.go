package cluster

import (
	"context"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// Board and Entry are for stand-ins of Redis.
type (
	Board = board
	Entry = entry
)

// NewEntry returns the value of a key.
func NewEntry(value string, left time.Duration) Entry { return entry{value, left} }

// Fields returns the value of a key, and how long it lives.
func Fields(e Entry) (value string, left time.Duration) { return e.value, e.left }

// NewRedisBoard returns the board of a client.
func NewRedisBoard(client redis.UniversalClient) Board { return &redisBoard{client} }

// UseBoard works with a stand-in of Redis.
func (c *Cluster) UseBoard(b Board, prefix string) { c.gate.use(b, prefix) }

// UseBoard works with a stand-in of Redis.
func UseBoard(t *Turn, b Board, prefix string) { t.board, t.prefix = b, prefix }

// Dial makes connections to other replicas in another way.
func (c *Cluster) Dial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.peers.transport.DialContext = dial
}

// Sign returns the header Authorization of a request, as a replica with a secret makes it.
func Sign(secret string, want Want, stored bool, at time.Time) string {
	c := New(Options{Secret: secret, Lease: time.Hour})
	defer c.Close()
	h := make(map[string][]string)
	c.signer.sign(h, request{digest: want.Digest, block: want.Block, offset: want.Offset, stored: stored}, at)
	return h["Authorization"][0]
}

// SignName is Sign for the name of a replica.
func SignName(secret string, at time.Time) string { return Sign(secret, Want{}, false, at) }

// LeaseKey and HaveKey are the names of keys.
func LeaseKey(prefix string, want Want) string { return leaseKey(prefix, want) }
func HaveKey(prefix string, want Want) string  { return haveKey(prefix, want.Digest) }

// Note returns the value of a key that names this replica.
func (c *Cluster) Note(key string) string { return c.newNote(key) }

// ErrAlone and ErrAway say that a replica downloads by itself.
var (
	ErrAlone   = errAlone
	ErrAway    = errAway
	ErrSilent  = errSilent
	ErrShunned = errShunned
)

const (
	MaxServing = maxServing
	MaxConns   = maxConns
	MaxValue   = maxValue

	MaxLingering = maxLingering
)
