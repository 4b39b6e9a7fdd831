package config

import "time"

// Default returns the configuration of a server that was given none: the
// public registries that people pull from most, anonymously, for clients on
// this machine.
func Default() *Config {
	c := base()
	for _, known := range []struct{ key, url string }{
		{"docker.io", "https://registry-1.docker.io"},
		{"gcr.io", "https://gcr.io"},
		{"ghcr.io", "https://ghcr.io"},
		{"mcr.microsoft.com", "https://mcr.microsoft.com"},
		{"public.ecr.aws", "https://public.ecr.aws"},
		{"quay.io", "https://quay.io"},
		{"registry.gitlab.com", "https://registry.gitlab.com"},
		{"registry.k8s.io", "https://registry.k8s.io"},
	} {
		repository := newRepository(known.key, c.Global)
		repository.Default = known.key == "docker.io"
		upstream := newUpstream()
		upstream.URL = known.url
		repository.Upstreams = []Upstream{upstream}
		c.Repositories = append(c.Repositories, repository)
	}
	return c
}

// base returns the defaults of every key outside repositories.
func base() *Config {
	return &Config{
		Server: Server{BindAddress: "127.0.0.1", Port: 8000},
		Log:    Log{Level: "info", Format: "auto"},
		Global: Global{
			MaxConcurrentCacheJobs: 4,
			MaxConcurrentFetches:   64,
			MaxManifestSize:        5 << 20,
			ShutdownDrain:          30 * time.Second,
			NegativeTTL:            Duration(5 * time.Second),
			ServeStaleOn:           []string{"unavailable", "rate_limited"},
			EnableBlobRedirect:     true,
		},
		BlobStore: BlobStore{FS: FS{RootDir: "./weir-data", SyncToDisk: true, MinFree: 1 << 30}},
	}
}

// newRepository returns a block that has set nothing yet.
func newRepository(key string, g Global) Repository {
	return Repository{
		Key:                     key,
		Namespace:               defaultNamespace(key),
		ImmutableTags:           g.ImmutableTags,
		ImmutableTagsExclusions: g.ImmutableTagsExclusions,
		TagTTL:                  g.TagTTL,
		NegativeTTL:             g.NegativeTTL,
		ServeStaleOn:            g.ServeStaleOn,
		MaxStale:                g.MaxStale,
	}
}

func newUpstream() Upstream {
	return Upstream{MaxRedirect: 5, ConnectTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second}
}

func newWarm() Warm { return Warm{Every: Duration(6 * time.Hour), Referrers: true} }

func newRedis() *Redis { return &Redis{KeyPrefix: "weir"} }
