package app

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

const everything = `
[global]
max_manifest_size = "1MiB"
[repository."docker"]
namespace = "docker.io"
default = true
tag_ttl = "5m"
tag_swr = "30s"
negative_ttl = "1m"
max_stale = "2h"
immutable_tags = true
immutable_tags_exclusions = ["^latest$"]
serve_stale_on = ["denied", "not_found"]
[[repository."docker".upstream]]
url = "https://mirror.example:5000/hub"
[[repository."docker".upstream]]
url = "https://registry-1.docker.io"
[[repository."docker".warm]]
images = ["nginx:1.27", "alpine"]
platforms = ["linux/amd64", "linux/arm/v7"]
every = "6h"
referrers = false
[repository."ghcr.io"]
offline = true
shared = false
[[repository."ghcr.io".upstream]]
url = "https://registry-1.docker.io"
`

// Each key of a block reaches the namespace, and equal upstreams have one client.
func TestTranslate(t *testing.T) {
	cfg, _ := loadText(t, everything)
	u, err := OpenUpstreams(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if len(u.Specs) != 2 || len(u.Clients[0]) != 2 || len(u.Clients[1]) != 1 {
		t.Fatalf("%d namespaces, clients %v", len(u.Specs), u.Clients)
	}
	s := u.Specs[slices.IndexFunc(cfg.Namespaces, func(n config.Namespace) bool { return n.Key == "docker" })]
	if s.Key != "docker" || s.Host != "docker.io" || !s.Default || s.Offline || s.Unshared || !s.DockerHub || s.MaxManifest != 1<<20 {
		t.Errorf("%+v", s)
	}
	if s.TagTTL != 5*time.Minute || s.TagSWR != 30*time.Second || s.NegativeTTL != time.Minute || s.MaxStale != 2*time.Hour || !s.ImmutableTags {
		t.Errorf("%+v", s)
	}
	if !slices.Equal(s.ImmutableTagsExclusions, []string{"^latest$"}) ||
		!slices.Equal(s.ServeStaleOn, []upstream.Class{upstream.ClassDenied, upstream.ClassNotFound}) ||
		!slices.Equal(s.UpstreamHosts, []string{"mirror.example:5000", "registry-1.docker.io"}) {
		t.Errorf("%+v", s)
	}
	if len(s.Warm) != 2 || s.Warm[0].Name != "nginx" || s.Warm[0].Reference != oci.ByTag("1.27") || s.Warm[1].Reference != oci.ByTag("latest") ||
		s.Warm[0].Every != 6*time.Hour || s.Warm[0].Referrers || len(s.Warm[0].Platforms) != 2 || s.Warm[0].Platforms[1].Variant != "v7" {
		t.Errorf("%+v", s.Warm)
	}
	other := u.Specs[1]
	if !other.Offline || !other.Unshared || other.Default {
		t.Errorf("%+v", other)
	}
	if u.Clients[0][1] != u.Clients[1][0] {
		t.Error("the same upstream has two clients")
	}
}

// A file that is missing is named with the block and the upstream.
func TestTranslateFails(t *testing.T) {
	cfg, _ := loadText(t, twoRepositories)
	cfg.Namespaces[1].Upstreams[1].ServerCABundle = "/missing/ca.crt"
	_, err := OpenUpstreams(cfg)
	if err == nil || !strings.HasPrefix(err.Error(), `repository."quay.io": upstream[1]: `) || !strings.Contains(err.Error(), "/missing/ca.crt") {
		t.Error(err)
	}
	cfg.Namespaces[1].Upstreams[1].ServerCABundle = ""
	cfg.Namespaces[0].ServeStaleOn = []config.Class{"boredom"}
	if _, err := OpenUpstreams(cfg); err == nil || !strings.Contains(err.Error(), "boredom") {
		t.Error(err)
	}
}
