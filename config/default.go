package config

import (
	"math"
	"time"

	"github.com/weirhq/weir/oci"
)

// builtInKeys returns the keys of the built-in blocks.
func builtInKeys() []string {
	return []string{
		oci.DockerHub, "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.gitlab.com", "registry.k8s.io",
	}
}

// builtIn returns the repository blocks that are in force if no file has one.
func builtIn() *node {
	blocks := table{}
	for _, key := range builtInKeys() {
		url := "https://" + key
		block := table{}
		if key == oci.DockerHub {
			block["default"] = &node{value: true}
			url = "https://registry-1.docker.io" // docker.io itself is a web page
		}
		block["upstream"] = &node{value: []*node{{value: table{"url": &node{value: url}}}}}
		blocks[key] = &node{value: block}
	}
	return &node{value: table{"repository": &node{value: blocks}}}
}

// base returns the defaults of all keys outside repository blocks.
func base() *Config {
	return &Config{
		Server: Server{BindAddress: "127.0.0.1", Port: 8000},
		UI:     UI{Enabled: true, Name: "Weir"},
		Log:    Log{Level: "info", Format: "auto"},
		Global: Global{
			MaxConcurrentCacheJobs: 4,
			MaxConcurrentFetches:   64,
			MaxManifestSize:        oci.DefaultMaxManifest,
			MinSpeed:               1 << 10,
			ShutdownDrain:          30 * time.Second,
			NegativeTTL:            Duration(5 * time.Second),
			ServeStaleOn:           []Class{ClassUnavailable, ClassRateLimited},
			EnableBlobRedirect:     true,
		},
		Auth:      Auth{Realm: "Weir", Anonymous: true},
		BlobStore: BlobStore{FS: FS{RootDir: "./weir-data", SyncToDisk: SyncBehind, MinFree: 1 << 30}},
	}
}

// newNamespace returns the defaults of a block.
func newNamespace(key string, g Global) Namespace {
	return Namespace{
		Key:                     key,
		Host:                    defaultHost(key),
		ImmutableTags:           g.ImmutableTags,
		ImmutableTagsExclusions: g.ImmutableTagsExclusions,
		TagTTL:                  g.TagTTL,
		TagSWR:                  g.TagSWR,
		NegativeTTL:             g.NegativeTTL,
		ServeStaleOn:            g.ServeStaleOn,
		MaxStale:                g.MaxStale,
		RecheckPossession:       unset,
		Shared:                  true,
		Prefetch:                true,
		Authorize:               "mirror",
		AuthCheckTTL:            Duration(time.Minute),
	}
}

// unset is the value of a duration whose default depends on other keys. No text has it.
const unset = Duration(math.MinInt64)

// defaultRecheck returns how long a right to content holds in a block. Rights to private
// images are withdrawn, and a day bounds how long that goes unnoticed. Public images are
// everyone's. Where the upstream judges each client, it does so all the time.
func defaultRecheck(n Namespace) Duration {
	if n.HasCredentials() && !n.OnBehalf() {
		return Duration(day)
	}
	return 0
}

// defaultFallbackOn returns the failures after which the next upstream of a block is
// asked about a tag. Upstreams without credentials are mirrors of each other. Credentials
// mean private images: a public registry may have another image of the same name, so only
// an upstream that is unavailable has a stand-in.
func defaultFallbackOn(n Namespace) []Class {
	if n.HasCredentials() {
		return []Class{ClassUnavailable, ClassRateLimited}
	}
	return []Class{ClassUnavailable, ClassRateLimited, ClassDenied, ClassNotFound}
}

func newUpstream() Upstream {
	return Upstream{CredentialTTL: Duration(30 * time.Minute), MaxRedirect: 5, Segments: 4, ConnectTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second}
}

func newIdentity(key string) AuthIdentity { return AuthIdentity{Key: key} }

func newOIDC(key string) OIDC {
	return OIDC{
		Key: key, ClockSkewTolerance: time.Minute, AllowedAlgorithms: []string{"RS256"},
		JWKSRefreshInterval: time.Hour, HTTPRequestTimeout: 30 * time.Second, JWKSRefreshTimeout: 5 * time.Second,
	}
}

func newTokenService() *TokenService { return &TokenService{TTL: time.Hour} }

func newWarm() Warm { return Warm{Every: Duration(6 * time.Hour), Referrers: true} }

func newTLS() *TLS { return &TLS{ClientAuth: ClientAuthOptional} }

func newACME() *ACME {
	var directory URL
	if err := directory.UnmarshalText([]byte("https://acme-v02.api.letsencrypt.org/directory")); err != nil {
		panic(err) // a constant
	}
	return &ACME{Directory: directory, Challenge: ChallengeTLSALPN, HTTPPort: 80}
}

func newACMEDNS() *ACMEDNS { return &ACMEDNS{TSIGAlgorithm: "hmac-sha256"} }

func newRedis() *Redis { return &Redis{KeyPrefix: "weir"} }
