package cluster_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirhq/weir/cluster"
	"github.com/weirhq/weir/tokencache/redistest"
)

// memory is a Redis in memory, for tests with a clock of their own.
type memory struct {
	mu      sync.Mutex
	keys    map[string]memoryKey
	members map[string]time.Time
	fault   error // answer to all calls
	hang    bool  // no call is answered
	calls   int
	before  func() // called once, when the next Replace has come in and before it is done
}

type memoryKey struct {
	value string
	until time.Time
}

func newMemory() *memory {
	return &memory{keys: map[string]memoryKey{}, members: map[string]time.Time{}}
}

// enter begins a call, or fails it.
func (m *memory) enter(ctx context.Context) error {
	m.mu.Lock()
	m.calls++
	fault, hang := m.fault, m.hang
	m.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return fault
}

// set changes how the server behaves.
func (m *memory) set(fault error, hang bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault, m.hang = fault, hang
}

func (m *memory) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.keys)
}

// value returns the value of a key. The caller holds the mutex.
func (m *memory) value(key string) string {
	if k := m.keys[key]; time.Now().Before(k.until) {
		return k.value
	}
	return ""
}

func (m *memory) get(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value(key)
}

// named returns the keys that begin with a prefix.
func (m *memory) named(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.keys)), func(key string) bool { return !strings.HasPrefix(key, prefix) || m.value(key) == "" })
}

func (m *memory) Read(ctx context.Context, keys ...string) ([]cluster.Entry, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := make([]cluster.Entry, len(keys))
	for i, key := range keys {
		if value := m.value(key); value != "" && len(value) <= cluster.MaxValue {
			entries[i] = cluster.NewEntry(value, time.Until(m.keys[key].until))
		}
	}
	return entries, nil
}

func (m *memory) Write(ctx context.Context, key, value string, life time.Duration) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys[key] = memoryKey{value, time.Now().Add(life)}
	return nil
}

func (m *memory) Replace(ctx context.Context, key, old, value string, life time.Duration) (bool, error) {
	if err := m.enter(ctx); err != nil {
		return false, err
	}
	m.mu.Lock()
	before := m.before
	m.before = nil
	m.mu.Unlock()
	if before != nil {
		before()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.value(key) != old {
		return false, nil
	}
	m.keys[key] = memoryKey{value, time.Now().Add(life)}
	return true, nil
}

func (m *memory) Remove(ctx context.Context, key, value string) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.value(key) == value {
		delete(m.keys, key)
	}
	return nil
}

func (m *memory) Enter(ctx context.Context, _, member string, within time.Duration) ([]string, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.members[member] = time.Now()
	maps.DeleteFunc(m.members, func(_ string, at time.Time) bool { return time.Since(at) >= within })
	return slices.Sorted(maps.Keys(m.members)), nil
}

func (m *memory) Ready(ctx context.Context) error { return m.enter(ctx) }

// The stand-in in memory and a real server behave alike.
func TestBoards(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	boards := map[string]cluster.Board{"in memory": newMemory(), "a real server": cluster.NewRedisBoard(client)}
	if !testing.Short() { // a cluster takes seconds to form
		boards["a real cluster"] = cluster.NewRedisBoard(redistest.StartCluster(t).Client(t))
	}
	for name, b := range boards {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			replace := func(key, old, value string, want bool) {
				t.Helper()
				if got, err := b.Replace(ctx, key, old, value, time.Hour); got != want || err != nil {
					t.Errorf("%s: %q in place of %q: %v, %v", key, value, old, got, err)
				}
			}
			read := func(want ...string) {
				t.Helper()
				entries, err := b.Read(ctx, "lease", "have")
				if err != nil {
					t.Fatal(err)
				}
				for i, entry := range entries {
					value, left := cluster.Fields(entry)
					if value != want[i] || value != "" && (left <= 0 || left > time.Hour) {
						t.Errorf("%q for %s, want %q", value, left, want[i])
					}
				}
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Error(err)
				}
			}
			read("", "")
			replace("lease", "other", "one", false)
			replace("lease", "", "one", true)
			replace("lease", "", "two", false)
			replace("lease", "one", "one", true)
			replace("lease", "two", "three", false)
			replace("lease", "one", "two", true)
			must(b.Remove(ctx, "lease", "one"))
			must(b.Write(ctx, "have", "here", time.Hour))
			read("two", "here")
			must(b.Write(ctx, "have", strings.Repeat("x", cluster.MaxValue+1), time.Hour))
			read("two", "")
			must(b.Remove(ctx, "lease", "two"))
			must(b.Ready(ctx))
			read("", "")
			for _, member := range []string{"a", "b"} {
				if _, err := b.Enter(ctx, "replicas", member, time.Hour); err != nil {
					t.Error(err)
				}
			}
			if got, err := b.Enter(ctx, "replicas", "a", time.Hour); len(got) != 2 || err != nil {
				t.Errorf("members %q, %v", got, err)
			}
		})
	}
	// A key of another type counts as one that names no replica.
	ctx := t.Context()
	b := cluster.NewRedisBoard(client)
	if err := errors.Join(client.RPush(ctx, "list", "x").Err(), b.Remove(ctx, "list", "x")); err != nil {
		t.Error(err)
	}
	if entries, err := b.Read(ctx, "list"); err != nil || entries[0] != (cluster.Entry{}) {
		t.Errorf("a list reads as %v, %v", entries, err)
	}
	if done, err := b.Replace(ctx, "list", "x", "y", time.Hour); done || err != nil {
		t.Errorf("a list was replaced: %v, %v", done, err)
	}
	// A member that has gone is forgotten.
	if _, err := b.Enter(ctx, "others", "gone", time.Hour); err != nil {
		t.Error(err)
	}
	client.ZAdd(ctx, "others", redisMember("gone", 1))
	if got, err := b.Enter(ctx, "others", "here", time.Minute); len(got) != 1 || err != nil {
		t.Errorf("members %q, %v", got, err)
	}
	// Of one that is too long not a byte is read.
	client.ZAdd(ctx, "others", redisMember(strings.Repeat("x", cluster.MaxValue+1), 1e15))
	if got, err := b.Enter(ctx, "others", "here", time.Minute); len(got) != 1 || err != nil {
		t.Errorf("%d members, %v", len(got), err)
	}
	if err := client.Set(ctx, "text", "x", 0).Err(); err != nil {
		t.Error(err)
	}
	if got, err := b.Enter(ctx, "text", "here", time.Minute); len(got) != 1 || err != nil {
		t.Errorf("in place of a text: members %q, %v", got, err)
	}
	server.Stop()
	if err := b.Ready(ctx); err != nil {
		return // a single server is probed by the calls themselves
	}
	if _, err := b.Read(ctx, "lease"); err == nil {
		t.Error("a server that is gone is read")
	}
}
