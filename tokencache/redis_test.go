package tokencache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/tokencache/tokencachetest"
)

// storedNames lists all keys in the server.
func storedNames(t *testing.T, client *redis.Client) []string {
	t.Helper()
	names, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestRedisConformance(t *testing.T) {
	client := redistest.Start(t).Client(t)
	prefix := 0
	tokencachetest.Run(t, func(*testing.T) tokencache.Store {
		prefix++
		return tokencache.NewRedis(client, fmt.Sprint("weir-", prefix))
	})
}

func TestRedisKeyNamesHoldNoSecret(t *testing.T) {
	client := redistest.Start(t).Client(t)
	cache := newCache(t, tokencache.NewRedis(client, "mirror"), patient)
	key := tokencache.Key{
		Registry: "https://registry.example", Realm: "https://auth.example/token", Service: "service.example",
		Scope: "repository:team/app:pull", Account: tokencache.Fingerprint("alice", "hunter2"),
	}
	service := &issuer{name: "issued"}
	if _, err := cache.Token(t.Context(), key, service.acquire); err != nil {
		t.Fatal(err)
	}
	names := storedNames(t, client)
	if len(names) != 1 || !strings.HasPrefix(names[0], "mirror:") {
		t.Fatalf("keys %q, want one below the prefix", names)
	}
	for _, part := range []string{"registry", "auth", "service", "team", "app", "pull", "alice", "hunter2", "issued", key.Account} {
		if strings.Contains(names[0], part) {
			t.Errorf("key %q contains %q", names[0], part)
		}
	}
}

func TestRedisDropsTokensAtTheirEarlyExpiry(t *testing.T) {
	client := redistest.Start(t).Client(t)
	store := tokencache.NewRedis(client, "weir")
	token := newToken("value")
	if err := store.Set(t.Context(), keyFor("a"), token); err != nil {
		t.Fatal(err)
	}
	expires, err := client.PExpireTime(t.Context(), storedNames(t, client)[0]).Result()
	if err != nil {
		t.Fatal(err)
	}
	// Never later than the early expiry (but for Redis's rounding to 1 ms).
	want := token.Expires.Add(-30 * time.Second)
	if got := time.UnixMilli(expires.Milliseconds()); got.After(want.Add(time.Second)) || got.Before(want.Add(-time.Minute)) {
		t.Errorf("Redis drops the token at %v, want %v", got, want)
	}
}

func TestRedisKeepsNoExpiredToken(t *testing.T) {
	client := redistest.Start(t).Client(t)
	store := tokencache.NewRedis(client, "weir")
	for _, left := range []time.Duration{0, -1, -time.Millisecond, -time.Hour} {
		// Without a time of issue the early expiry is 30 s before the end.
		token := tokencache.Token{Value: "value", Expires: time.Now().Add(30*time.Second + left)}
		if err := store.Set(t.Context(), keyFor("a"), token); err != nil {
			t.Fatal(err)
		}
		if names := storedNames(t, client); len(names) != 0 {
			t.Errorf("%v from its early expiry the token is kept", left)
		}
	}
}

func TestRedisGarbageCountsAsAbsent(t *testing.T) {
	client := redistest.Start(t).Client(t)
	store := tokencache.NewRedis(client, "weir")
	if err := store.Set(t.Context(), keyFor("a"), newToken("good")); err != nil {
		t.Fatal(err)
	}
	name := storedNames(t, client)[0]
	for _, garbage := range []string{
		"", "no JSON", "null", "[]", `"good"`, "{}", `{"token":1}`,
		`{"token":"","issued":"2020-01-01T00:00:00Z","expires":"2999-01-01T00:00:00Z"}`,
		`{"token":"a\r\nb: c","issued":"2020-01-01T00:00:00Z","expires":"2999-01-01T00:00:00Z"}`,
		`{"token":"good","issued":"2020-01-01T00:00:00Z","expires":"tomorrow"}`,
		`{"token":"good"}`,
	} {
		t.Run(garbage, func(t *testing.T) {
			if err := client.Set(t.Context(), name, garbage, 0).Err(); err != nil {
				t.Fatal(err)
			}
			wantGarbageHandled(t, store)
		})
	}
	t.Run("another type", func(t *testing.T) {
		if err := client.Del(t.Context(), name).Err(); err != nil {
			t.Fatal(err)
		}
		if err := client.LPush(t.Context(), name, "good").Err(); err != nil {
			t.Fatal(err)
		}
		wantGarbageHandled(t, store)
	})
}

// wantGarbageHandled checks that garbage under the key "a" counts as absent.
func wantGarbageHandled(t *testing.T, store tokencache.Store) {
	t.Helper()
	if got, err := store.Get(t.Context(), keyFor("a")); !errors.Is(err, tokencache.ErrNotFound) {
		t.Errorf("Get = %q, %v; want ErrNotFound", got.Value, err)
	}
	if err := store.Delete(t.Context(), keyFor("a"), newToken("bad")); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := store.Set(t.Context(), keyFor("a"), newToken("better")); err != nil {
		t.Errorf("Set: %v", err)
	}
	if got, err := store.Get(t.Context(), keyFor("a")); err != nil || got.Value != "better" {
		t.Errorf("Get after Set = %q, %v", got.Value, err)
	}
}

// renameCommands sends commands that no server knows, as if it had been told to
// forget the ones that were meant.
type renameCommands struct{}

func (renameCommands) DialHook(next redis.DialHook) redis.DialHook { return next }

func (renameCommands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (renameCommands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		arguments := append([]any{"forgotten-" + command.Name()}, command.Args()[1:]...)
		renamed := redis.NewCmd(ctx, arguments...)
		err := next(ctx, renamed)
		command.SetErr(err)
		return err
	}
}

func TestRedisErrorsHoldNoToken(t *testing.T) {
	client := redistest.Start(t).Client(t)
	client.AddHook(renameCommands{})
	store := tokencache.NewRedis(client, "weir")
	for name, err := range map[string]error{
		"Set":    store.Set(t.Context(), keyFor("a"), newToken("s3cr3t")),
		"Delete": store.Delete(t.Context(), keyFor("a"), newToken("s3cr3t")),
	} {
		if err == nil || !strings.Contains(err.Error(), "unknown command") {
			t.Errorf("%s: %v, want an unknown command", name, err)
		} else if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s shows the token: %v", name, err)
		}
	}
}
