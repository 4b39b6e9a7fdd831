package tokencache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/tokencache/redistest"
)

// The tests of this file run on a real server, in real time. A server that is
// well gets all the time it needs. One that is not costs the time of impatient.
var (
	patient   = tokencache.WithSharedTimeout(time.Minute)
	impatient = tokencache.WithSharedTimeout(200 * time.Millisecond)
	// eager probes with each call, and stubborn never again.
	eager    = tokencache.WithSharedPause(0)
	stubborn = tokencache.WithSharedPause(time.Hour)
)

// within returns a context that fails the test rather than let it hang.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// wantSharingAgain uses tokens until one of them reaches Redis, from which a
// cache that has never seen it takes it.
func wantSharingAgain(t *testing.T, cache *tokencache.Cache, client *redis.Client, service *issuer) {
	t.Helper()
	ctx := within(t)
	store := tokencache.NewRedis(client, "weir")
	for i := 0; ; i++ {
		scope := fmt.Sprint("again ", i)
		token, err := cache.Token(ctx, keyFor(scope), service.acquire)
		if err != nil {
			t.Fatalf("never shared again: %v", err)
		}
		if _, err := store.Get(ctx, keyFor(scope)); errors.Is(err, tokencache.ErrNotFound) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		issued := service.issued.Load()
		wantToken(t, newCache(t, store, patient), scope, service, token.Value)
		service.wantIssued(t, issued)
		return
	}
}

func TestTwoCachesOnOneRedis(t *testing.T) {
	server, service := redistest.Start(t), &issuer{name: "service"}
	one := newCache(t, tokencache.NewRedis(server.Client(t), "weir"), patient)
	two := newCache(t, tokencache.NewRedis(server.Client(t), "weir"), patient)

	first := mustToken(t, one, "a", service)
	got := mustToken(t, two, "a", service)
	if got.Value != first.Value || !got.Issued.Equal(first.Issued) || !got.Expires.Equal(first.Expires) {
		t.Errorf("the second cache got %v, want %v", got, first)
	}
	service.wantIssued(t, 1)

	// A token that one cache finds rejected is gone for both. A newer token stays.
	one.Invalidate(t.Context(), keyFor("a"), first)
	wantToken(t, one, "a", service, "service-2")
	two.Invalidate(t.Context(), keyFor("a"), first)
	wantToken(t, two, "a", service, "service-2")
	service.wantIssued(t, 2)
}

func TestRedisAwayAtStart(t *testing.T) {
	server, service := redistest.Start(t), &issuer{name: "service"}
	server.Stop()
	client := server.Client(t)
	cache := newCache(t, tokencache.NewRedis(client, "weir"), eager)
	if token, err := cache.Token(within(t), keyFor("a"), service.acquire); err != nil || token.Value != "service-1" {
		t.Errorf("Token = %v, %v", token, err)
	}
	wantToken(t, cache, "a", service, "service-1")
	server.Restart()
	wantSharingAgain(t, cache, client, service)
}

func TestRedisKilledInTheMiddle(t *testing.T) {
	server, service := redistest.Start(t), &issuer{name: "service"}
	client := server.Client(t)
	cache := newCache(t, tokencache.NewRedis(client, "weir"), eager)
	before := mustToken(t, cache, "before", service)

	server.Stop()
	wantToken(t, cache, "before", service, before.Value)
	ctx := within(t)
	token, err := cache.Token(ctx, keyFor("meanwhile"), service.acquire)
	if err != nil {
		t.Fatal(err)
	}
	cache.Invalidate(ctx, keyFor("meanwhile"), token)
	if again, err := cache.Token(ctx, keyFor("meanwhile"), service.acquire); err != nil || again.Value == token.Value {
		t.Errorf("after Invalidate: %v, %v; want another token", again.Value, err)
	}
	server.Restart()
	wantSharingAgain(t, cache, client, service)
}

func TestRedisFrozen(t *testing.T) {
	server := redistest.Start(t)
	for _, test := range []struct {
		name    string
		options redis.Options
	}{
		{"client that honours contexts", redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1}},
		{"client with defaults", redis.Options{Addr: server.Addr(), ReadTimeout: 2 * time.Second, DialTimeout: 2 * time.Second, MaxRetries: -1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := redis.NewClient(&test.options)
			t.Cleanup(func() { client.Close() })
			counted := &countingStore{Store: tokencache.NewRedis(client, "weir")}
			service := &issuer{name: "service"}
			cache := newCache(t, counted, impatient, stubborn)
			probing := newCache(t, tokencache.NewRedis(client, "weir"), impatient, eager)
			if err := client.Ping(t.Context()).Err(); err != nil { // leaves a connection in the pool
				t.Fatal(err)
			}

			server.Pause()
			t.Cleanup(server.Resume)
			ctx := within(t)
			for i := range 50 {
				if _, err := cache.Token(ctx, keyFor(fmt.Sprint(test.name, i)), service.acquire); err != nil {
					t.Fatalf("Token %d: %v", i, err)
				}
			}
			wantToken(t, cache, fmt.Sprint(test.name, 0), service, "service-1")
			if got := counted.calls.Load(); got != 1 {
				t.Errorf("the frozen server was asked %d times, want once", got)
			}
			if _, err := probing.Token(ctx, keyFor(test.name), service.acquire); err != nil {
				t.Fatal(err)
			}

			server.Resume()
			wantSharingAgain(t, probing, server.Client(t), service)
		})
	}
}

func TestTokensOfTheOutageReachRedis(t *testing.T) {
	server, service := redistest.Start(t), &issuer{name: "service"}
	client := server.Client(t)
	store := tokencache.NewRedis(client, "weir")
	server.Stop()
	cache := newCache(t, store, eager)
	token := mustToken(t, cache, "a", service)

	server.Restart()
	ctx := within(t)
	for {
		wantToken(t, cache, "a", service, token.Value)
		got, err := store.Get(ctx, keyFor("a"))
		if err == nil {
			if got.Value != token.Value {
				t.Errorf("Redis has %q, want %q", got.Value, token.Value)
			}
			break
		}
		if !errors.Is(err, tokencache.ErrNotFound) {
			t.Fatal(err)
		}
	}
	service.wantIssued(t, 1)
}
