package route_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weirhq/weir/namespace/route"
)

// The error for an unknown name suggests the name that may have been meant.
func TestUnknownNameIsTold(t *testing.T) {
	table := newTable(t, manyBlocks()[1:]...)
	const all = "; names begin with ghcr.io, ghcr.io/acme, ghcr.io/acme/deep, hub/library, library, localhost:5000, team/mirror"
	for name, want := range map[string]string{
		"gchr.io/org/app":    "; did you mean ghcr.io/org/app? names begin with ghcr.io, ",
		"ghrc.io/acme/a":     "; did you mean ghcr.io/acme/a? names begin with ghcr.io, ",
		"ghcr.oi/acme/a":     "; did you mean ghcr.io/acme/a? names begin with ghcr.io, ",
		"libary/nginx":       "; did you mean library/nginx? names begin with ghcr.io, ",
		"team/miror/a":       "; did you mean team/mirror/a? names begin with ghcr.io, ",
		"localhost:5001/app": "; did you mean localhost:5000/app? names begin with ghcr.io, ",
		"nginx":              "nginx" + all,
		"quay.io/org/app":    "quay.io/org/app" + all,
	} {
		if _, _, err := table.Resolve("", name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// Two keys of the built-in configuration are alike: ghcr.io and gcr.io.
func TestNearestOfTwoSimilarKeys(t *testing.T) {
	table := newTable(t, route.Rule{Key: "docker.io", Default: true}, route.Rule{Key: "gcr.io"}, route.Rule{Key: "ghcr.io"}, route.Rule{Key: "quay.io"})
	for typo, want := range map[string]string{
		"ghrc.io": "ghcr.io", "gchr.io": "ghcr.io", "ghcr.oi": "ghcr.io", "gcr.oi": "gcr.io", "grc.io": "gcr.io",
		"qauy.io": "quay.io", "quay.com": "quay.io", "registry.com": "", "docker.oi": "docker.io", "docker.com": "docker.io",
	} {
		_, _, err := table.Resolve("", typo+"/org/app")
		unknown, ok := errors.AsType[*route.UnknownError](err)
		if want != "" {
			want += "/org/app"
		}
		if !ok || unknown.Nearest != want {
			t.Errorf("%s: %v, want %q", typo, err, want)
		}
	}
}

func TestUnknownNameListsSomeKeys(t *testing.T) {
	var rules []route.Rule
	for i := range 12 {
		rules = append(rules, route.Rule{Key: fmt.Sprintf("block-%02d", i)})
	}
	_, _, err := newTable(t, rules...).Resolve("", "nginx")
	if want := "names begin with block-00, block-01, block-02, block-03, block-04, block-05, block-06, block-07, block-08, block-09, or one of 2 more"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	_, _, err = newTable(t, rules[:10]...).Resolve("", "nginx")
	if err == nil || !strings.HasSuffix(err.Error(), "block-08, block-09") {
		t.Errorf("%v", err)
	}
	_, _, err = newTable(t).Resolve("", "nginx")
	if err == nil || !strings.HasSuffix(err.Error(), "no repository is configured") {
		t.Errorf("%v", err)
	}
}
