package config

import (
	"errors"
	"testing"
	"time"
)

// TestValidateBuilt shows that a configuration that was not read from a file is
// validated too. Its problems have key paths and no positions.
func TestValidateBuilt(t *testing.T) {
	t.Chdir(t.TempDir())
	c := Default()
	c.Global.TagTTL, c.Global.TagSWR = -1, -1
	c.BlobStore.FS.MaxSize, c.BlobStore.FS.MinFree, c.BlobStore.FS.MaxUnused = -1, -1, -1
	c.Cache.Redis = &Redis{URL: "redis://h/x"}
	c.Namespaces = append(c.Namespaces[:1], c.Namespaces[0])
	c.Namespaces[1].Upstreams = []Upstream{{URL: mustURL(t, "https://x.io"), Segments: 4, ConnectTimeout: time.Millisecond, ReadTimeout: time.Second}}
	want := `global.tag_ttl: must not be negative
global.tag_swr: must not be negative
blob_store.fs.max_size: must not be negative
blob_store.fs.min_free: must not be negative
blob_store.fs.max_unused: must not be negative
cache.redis.url: the path must be the number of a database, as in redis://host:6379/0
repository."docker.io": is listed twice
repository."docker.io".default: repository."docker.io" is already the default (built in); only one block can be
repository."docker.io".namespace: "docker.io" is already claimed by repository."docker.io" (built in); docker.io, index.docker.io and registry-1.docker.io are one
repository."docker.io".upstream[0].connect_timeout_secs: must be at least 1`
	err := c.Validate()
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	problem, ok := errors.AsType[*Problem](err)
	if !ok || problem.Key != "global.tag_ttl" || problem.File != "" || problem.Line != 0 {
		t.Errorf("first problem %+v", problem)
	}
}
