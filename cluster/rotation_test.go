package cluster_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/cluster"
)

// One process has a turn. Another one gets it once it is given back or has ended, and none has
// it while Redis is away.
func TestTurnOfOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		redis := newMemory()
		one, two, other := cluster.NewTurn("evict"), cluster.NewTurn("evict"), cluster.NewTurn("evict from another bucket")
		hold := func(turn *cluster.Turn) bool {
			t.Helper()
			held, err := turn.Hold(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			return held
		}
		if _, err := one.Hold(t.Context(), time.Minute); !errors.Is(err, cluster.ErrNoRedis) {
			t.Errorf("without Redis: %v", err)
		}
		for _, turn := range []*cluster.Turn{one, two, other} {
			cluster.UseBoard(turn, redis, prefix)
		}
		if !hold(one) || hold(two) || !hold(other) {
			t.Error("the first process does not have the turn")
		}
		for range 5 {
			time.Sleep(40 * time.Second)
			if !hold(one) || hold(two) {
				t.Error("a turn that is renewed went to another process")
			}
		}
		two.Release(t.Context()) // it does not have it
		if hold(two) {
			t.Error("a process gave back the turn of another one")
		}
		one.Release(t.Context())
		if !hold(two) || hold(one) {
			t.Error("the turn was not given back")
		}
		time.Sleep(time.Minute)
		if !hold(one) {
			t.Error("the turn of a dead process does not end")
		}
		redis.mu.Lock()
		redis.hang = true
		redis.mu.Unlock()
		if held, err := one.Hold(t.Context(), time.Minute); held || err == nil {
			t.Errorf("while Redis hangs: %v, %v", held, err)
		}
		one.Use(nil, "")
		if held, err := one.Hold(t.Context(), time.Minute); held || !errors.Is(err, cluster.ErrNoRedis) {
			t.Errorf("without Redis: %v, %v", held, err)
		}
	})
}
