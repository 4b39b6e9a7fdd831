package registry_test

import (
	"os"
	"strings"
	"testing"

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
}
