package tokencache_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache"
	"github.com/weirhq/weir/tokencache/redistest"
)

// While a cluster elects a new master, two thirds of all keys work. The cache does not
// take them for the end of the failure, and shares again soon after the election.
func TestClusterFailover(t *testing.T) {
	for name, c := range map[string]struct{ fail, mend func(*redistest.Server) }{
		"killed": {(*redistest.Server).Stop, (*redistest.Server).Restart},
		"frozen": {(*redistest.Server).Pause, (*redistest.Server).Resume},
	} {
		t.Run(name, func(t *testing.T) { testFailover(t, c.fail, c.mend) })
	}
}

func testFailover(t *testing.T, fail, mend func(*redistest.Server)) {
	cluster, service := redistest.StartCluster(t), &issuer{name: "service"}
	log := new(testutil.LogBuffer)
	pause := tokencache.WithSharedPause(50 * time.Millisecond)
	one := newCache(t, tokencache.NewRedis(cluster.Client(t), "weir"), pause, tokencache.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	other := newCache(t, tokencache.NewRedis(cluster.Client(t), "weir"), pause)
	n := 0
	shared := func() bool {
		n++
		scope := fmt.Sprint("scope ", n)
		return mustToken(t, one, scope, service).Value == mustToken(t, other, scope, service).Value
	}
	// Ten tokens in a row are on all three masters, with near certainty.
	wait := func(label string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for inARow := 0; inARow < 10; inARow++ {
			if !shared() {
				inARow = -1
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not shared\n%s", label, log)
			}
		}
	}
	wait("at the start")
	failed := cluster.Fail("any key", fail, func() { shared() })
	wait("after the election")
	mend(failed)
	wait("after the old master is back")
	// The log says so after a time of calm.
	deadline := time.Now().Add(time.Minute)
	for log.Count("the shared token cache is back") == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	away, back := strings.Count(log.String(), "the shared token cache fails"), strings.Count(log.String(), "the shared token cache is back")
	if away != 1 || back != 1 {
		t.Errorf("%d lines away and %d back, want one each:\n%s", away, back, log)
	}
}
