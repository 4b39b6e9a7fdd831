package registry_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/registry"
)

// docs/troubleshooting.md explains every value of Cache-Status.
func TestTroubleshootingHasEveryCacheStatus(t *testing.T) {
	page, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := func(o namespace.Outcome) {
		if !strings.Contains(string(page), "\n| `"+registry.CacheStatus(o)+"` |") {
			t.Errorf("%s is not explained", registry.CacheStatus(o))
		}
	}
	for s := namespace.Hit; registry.CacheStatus(namespace.Outcome{Cache: s}) != ""; s++ {
		explained(namespace.Outcome{Cache: s})
	}
	explained(namespace.Outcome{Cache: namespace.Collapsed, FromPeer: true})
	explained(namespace.Outcome{Cache: namespace.Hit, Overdue: 7 * time.Second})
}

// The freshness of an overdue answer is a whole number of seconds, and negative.
func TestOverdueCacheStatus(t *testing.T) {
	for overdue, want := range map[time.Duration]string{
		0: "weir; hit", 1: "weir; hit; ttl=-1", time.Second: "weir; hit; ttl=-1", time.Second + 1: "weir; hit; ttl=-2", time.Hour: "weir; hit; ttl=-3600",
	} {
		if got := registry.CacheStatus(namespace.Outcome{Cache: namespace.Hit, Overdue: overdue}); got != want {
			t.Errorf("overdue for %v: %q, want %q", overdue, got, want)
		}
	}
}
