package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrNoRedis says that there is no Redis to ask for a turn.
var ErrNoRedis = errors.New("cluster: there is no Redis")

// Turn is a piece of work that one of several processes does at a time: a key of Redis that
// has the name of this process. It needs no [Cluster].
type Turn struct {
	name, value string

	mu     sync.Mutex
	board  board // nil: there is no Redis
	prefix string
}

// NewTurn returns a turn without Redis. No process has it until [Turn.Use].
func NewTurn(name string) *Turn { return &Turn{name: name, value: randomToken()} }

// Use asks a client of Redis from now on; nil: none.
func (t *Turn) Use(client redis.UniversalClient, prefix string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.board, t.prefix = nil, prefix
	if client != nil {
		t.board = &redisBoard{client}
	}
}

func (t *Turn) call(ctx context.Context, op func(ctx context.Context, b board, key string) error) error {
	t.mu.Lock()
	b, key := t.board, t.prefix+":turn:"+short(t.name)
	t.mu.Unlock()
	if b == nil {
		return ErrNoRedis
	}
	return limited(ctx, func(ctx context.Context) error { return op(ctx, b, key) })
}

// Hold takes the turn for some time, or renews it. It reports false if another process has it.
func (t *Turn) Hold(ctx context.Context, life time.Duration) (held bool, err error) {
	err = t.call(ctx, func(ctx context.Context, b board, key string) (err error) {
		if held, err = b.Replace(ctx, key, t.value, t.value, life); err == nil && !held {
			held, err = b.Replace(ctx, key, "", t.value, life)
		}
		return err
	})
	return held && err == nil, err
}

// Release gives the turn back, if this process has it. Otherwise it ends by itself.
func (t *Turn) Release(ctx context.Context) {
	_ = t.call(ctx, func(ctx context.Context, b board, key string) error { return b.Remove(ctx, key, t.value) })
}
