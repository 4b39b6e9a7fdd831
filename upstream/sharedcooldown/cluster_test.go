package sharedcooldown_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/sharedcooldown"
)

// A cluster loses one master after the other: that of the subscription, then others,
// one of which accepts connections and is silent. Each time the instances share again as soon as a replica is elected,
// and the log has at most one line for each of the two changes, although most keys are
// on servers that work.
func TestClusterFailover(t *testing.T) {
	testutil.Long(t, "waits for the failover of a Redis Cluster")
	cluster := redistest.StartCluster(t)
	start := func() *instance {
		i := &instance{log: new(testutil.LogBuffer)}
		i.Cooldowns = sharedcooldown.New(sharedcooldown.Options{
			Redis: cluster.Client(t), Prefix: prefix, Logger: slog.New(slog.NewTextHandler(i.log, nil)), Retry: retry,
		})
		t.Cleanup(i.Close)
		return i
	}
	one, other := start(), start()
	n := 0
	shared := func() bool {
		n++
		upstream := fmt.Sprint(n, ".test:443")
		w := other.watch(t, upstream, "")
		one.Limit(upstream, "", pulls, in(time.Minute))
		select {
		case <-w.told:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	}
	wait := func(label string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !shared(); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not shared\n%s\n%s", label, one.log, other.log)
			}
		}
	}
	wait("at the start")
	for round, c := range []struct {
		key        string
		fail, mend func(*redistest.Server)
	}{
		{prefix + ":cooldowns", (*redistest.Server).Stop, (*redistest.Server).Restart},
		{"a key of another server", (*redistest.Server).Stop, (*redistest.Server).Restart},
		{"any other key", (*redistest.Server).Pause, (*redistest.Server).Resume},
	} {
		key := c.key
		failed := cluster.Fail(key, c.fail, func() { shared() }) // most names are on servers that work
		begin := time.Now()
		wait(key)
		if took := time.Since(begin); took > 5*time.Second { // a silent server costs a second for each call
			t.Errorf("%s: shared %v after the election", key, took)
		}
		for _, i := range []*instance{one, other} {
			away := strings.Count(i.log.String(), "not shared until")
			if away > round+1 {
				t.Errorf("%s: %d lines away, want %d:\n%s", key, away, round+1, i.log)
			}
			i.waitFor(t, "shared through Redis again", away)
		}
		c.mend(failed)
	}
}
