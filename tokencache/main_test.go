package tokencache_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/tokencache"
)

func TestMain(m *testing.M) {
	// A second after its Close, the client of Redis notices that it no longer has to
	// wait for a server that is away.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func keyFor(scope string) tokencache.Key {
	return tokencache.Key{
		Registry: "https://registry.example",
		Realm:    "https://auth.example/token",
		Service:  "registry.example",
		Scope:    scope,
		Account:  tokencache.Fingerprint("reader", "password"),
	}
}

func newToken(value string) tokencache.Token {
	now := time.Now()
	return tokencache.Token{Value: value, Issued: now, Expires: now.Add(5 * time.Minute)}
}

// issuer is a token service: each token that it issues has a new value.
type issuer struct {
	name   string
	issued atomic.Int64
}

func (i *issuer) acquire(context.Context) (tokencache.Token, error) {
	return newToken(fmt.Sprint(i.name, "-", i.issued.Add(1))), nil
}

// wantIssued checks how many tokens were acquired so far.
func (i *issuer) wantIssued(t *testing.T, want int64) {
	t.Helper()
	if got := i.issued.Load(); got != want {
		t.Errorf("%s: %d tokens acquired, want %d", i.name, got, want)
	}
}

func newCache(t *testing.T, shared tokencache.Store, options ...tokencache.Option) *tokencache.Cache {
	t.Helper()
	quiet := tokencache.WithLogger(slog.New(slog.DiscardHandler))
	cache := tokencache.New(tokencache.NewMemory(100), shared, append([]tokencache.Option{quiet}, options...)...)
	t.Cleanup(func() {
		if err := cache.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return cache
}

// mustToken returns a token of the cache, which must come.
func mustToken(t *testing.T, cache *tokencache.Cache, scope string, from *issuer) tokencache.Token {
	t.Helper()
	token, err := cache.Token(t.Context(), keyFor(scope), from.acquire)
	if err != nil {
		t.Fatalf("Token(%s): %v", scope, err)
	}
	return token
}

// wantToken checks the value that the cache gives out.
func wantToken(t *testing.T, cache *tokencache.Cache, scope string, from *issuer, want string) {
	t.Helper()
	if got := mustToken(t, cache, scope, from).Value; got != want {
		t.Errorf("Token(%s) = %q, want %q", scope, got, want)
	}
}

// faultyStore is a shared store in memory that fails on demand and counts how
// often it is asked.
type faultyStore struct {
	memory *tokencache.Memory

	mu    sync.Mutex
	fault func(context.Context, operation) error // nil: none
	calls int
}

type operation string

const (
	get    operation = "get"
	set    operation = "set"
	remove operation = "delete"
)

func newFaultyStore() *faultyStore { return &faultyStore{memory: tokencache.NewMemory(100)} }

func (s *faultyStore) failWith(fault func(context.Context, operation) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

func (s *faultyStore) wantCalls(t *testing.T, want int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls != want {
		t.Errorf("the shared store was asked %d times, want %d", s.calls, want)
	}
}

func (s *faultyStore) enter(ctx context.Context, op operation) error {
	s.mu.Lock()
	s.calls++
	fault := s.fault
	s.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(ctx, op)
}

func (s *faultyStore) Get(ctx context.Context, key tokencache.Key) (tokencache.Token, error) {
	if err := s.enter(ctx, get); err != nil {
		return tokencache.Token{}, err
	}
	return s.memory.Get(ctx, key)
}

func (s *faultyStore) Set(ctx context.Context, key tokencache.Key, token tokencache.Token) error {
	if err := s.enter(ctx, set); err != nil {
		return err
	}
	return s.memory.Set(ctx, key, token)
}

func (s *faultyStore) Delete(ctx context.Context, key tokencache.Key, rejected tokencache.Token) error {
	if err := s.enter(ctx, remove); err != nil {
		return err
	}
	return s.memory.Delete(ctx, key, rejected)
}

// countingStore counts the calls to another store.
type countingStore struct {
	tokencache.Store
	calls atomic.Int64
}

func (s *countingStore) Get(ctx context.Context, key tokencache.Key) (tokencache.Token, error) {
	s.calls.Add(1)
	return s.Store.Get(ctx, key)
}

func (s *countingStore) Set(ctx context.Context, key tokencache.Key, token tokencache.Token) error {
	s.calls.Add(1)
	return s.Store.Set(ctx, key, token)
}

func (s *countingStore) Delete(ctx context.Context, key tokencache.Key, rejected tokencache.Token) error {
	s.calls.Add(1)
	return s.Store.Delete(ctx, key, rejected)
}
