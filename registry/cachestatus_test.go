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
	for s := namespace.Hit; registry.CacheStatus(s) != ""; s++ {
		if !strings.Contains(string(page), "\n| `"+registry.CacheStatus(s)+"` |") {
			t.Errorf("%s is not explained", registry.CacheStatus(s))
		}
	}
}
