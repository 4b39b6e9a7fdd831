// Package config reads the operator's configuration: TOML becomes one validated,
// immutable value.
//
// A configuration passes four steps, each in files of its own:
//
//   - A document is parsed into a tree of nodes that know their file and line
//     (tree.go, locate.go). Trees of several files merge.
//   - The tree is decoded into a [Config] (decode.go, expand.go). Every key
//     must be known (schema.go); strings expand ${NAME}; secrets may come from
//     files. URLs, images and platforms become typed values (url.go, image.go).
//     The tag policy of [Global] is copied into each [Namespace], so that a
//     consumer reads one value.
//   - [Config.Validate] checks the values: ranges, patterns, certificates,
//     directories (validate*.go).
//   - The value answers questions: which keys a reload cannot change
//     ([RestartRequired]), which files to watch ([Config.Files]), what to warn
//     about ([Config.Warnings]), how the configuration in force looks as a file
//     ([Config.WriteTOML]).
//
// No step stops at the first problem: [Load] and [Config.Validate] return
// [Problems], each with its key path and, if known, its file and line.
//
// The package opens no connection and starts no goroutine.
package config

import (
	"net"
	"slices"
	"strconv"
	"time"
)

// Config is the whole configuration with every default filled in. It is not
// changed after [Load] has returned it.
//
// The tag `reload:"live"` marks the fields that a reload can change in a running
// server; see [RestartRequired].
type Config struct {
	Server        Server        `toml:"server"`
	UI            UI            `toml:"ui" reload:"live"`
	Log           Log           `toml:"log"`
	Global        Global        `toml:"global"`
	BlobStore     BlobStore     `toml:"blob_store"`
	Cache         Cache         `toml:"cache"`
	Cluster       *Cluster      `toml:"cluster"` // nil: this Weir works alone
	Observability Observability `toml:"observability"`
	Auth          Auth          `toml:"auth" reload:"live"`
	Namespaces    []Namespace   `toml:"repository" reload:"live"` // sorted by Key

	source source
}

// Server is the address that clients connect to.
type Server struct {
	BindAddress string `toml:"bind_address"` // an IP address or a host name; empty: every interface
	Port        int    `toml:"port"`         // 0 picks a free port

	TrustedProxies []Network `toml:"trusted_proxies" reload:"live"` // whose X-Forwarded-For names the client
	AdminAddress   string    `toml:"admin_address"`                 // host:port of the metrics and profiles; empty: that of clients, without profiles

	TLS *TLS `toml:"tls"` // nil: plain HTTP
}

// Address returns the address to listen on, in the form of [net.Listen].
func (s Server) Address() string {
	return net.JoinHostPort(s.BindAddress, strconv.Itoa(s.Port))
}

// UI are the pages for browsers.
type UI struct {
	Enabled bool   `toml:"enabled"`
	Name    string `toml:"name"` // of the mirror, in titles
	// EditDir is the directory to which a page writes blocks, one in each file; empty: it writes none.
	EditDir string `toml:"edit_dir"`
	// AllowPrivateRegistries lets a page try and add registries at private and loopback addresses.
	AllowPrivateRegistries bool `toml:"allow_private_registries"`
}

// Log holds the level and the format of the log.
type Log struct {
	Level  string `toml:"level" reload:"live"` // debug, info, warn or error
	Format string `toml:"format"`              // auto, text or json
}

// Global holds limits of the whole process, and the tag policy of every
// namespace that does not set its own.
type Global struct {
	MaxConcurrentRequests   int           `toml:"max_concurrent_requests"` // threads that run at once, as in Angos; 0: one for each processor
	MaxConcurrentCacheJobs  int           `toml:"max_concurrent_cache_jobs"`
	MaxConcurrentFetches    int           `toml:"max_concurrent_fetches"`
	MaxManifestSize         Size          `toml:"max_manifest_size" reload:"live"`
	MaxBlobSize             SizeLimit     `toml:"max_blob_size" reload:"live"`
	MinSpeed                Size          `toml:"min_speed"`                   // bytes per second
	MaxBandwidth            SizeLimit     `toml:"max_bandwidth" reload:"live"` // bytes per second from all upstreams; 0: no limit
	ShutdownDrain           time.Duration `toml:"shutdown_drain_secs"`
	ImmutableTags           bool          `toml:"immutable_tags" reload:"live"`
	ImmutableTagsExclusions []string      `toml:"immutable_tags_exclusions" reload:"live"`
	TagTTL                  Duration      `toml:"tag_ttl" reload:"live"`
	TagSWR                  Duration      `toml:"tag_swr" reload:"live"` // stale-while-revalidate
	NegativeTTL             Duration      `toml:"negative_ttl" reload:"live"`
	ServeStaleOn            []Class       `toml:"serve_stale_on" reload:"live"`
	MaxStale                Duration      `toml:"max_stale" reload:"live"`
	TrustedProxies          []Network     `toml:"trusted_proxies" reload:"live"`       // Angos' place for the key of Server
	AccessPolicy            *AccessPolicy `toml:"access_policy" reload:"live"`         // of all requests; nil: none
	AuthorizationWebhook    string        `toml:"authorization_webhook" reload:"live"` // asked about all requests; empty: none
	EnableBlobRedirect      bool          `toml:"enable_blob_redirect"`                // accepted for files written for Angos; it has no effect on local disk
}

// BlobStore is the place of verified content.
type BlobStore struct {
	FS FS  `toml:"fs"`
	S3 *S3 `toml:"s3"` // nil: there is no bucket
}

// FS is a blob store in a directory or, with a bucket, the local tier.
type FS struct {
	RootDir    string        `toml:"root_dir"`
	SyncToDisk SyncToDisk    `toml:"sync_to_disk"` // when committed content survives a power cut
	MaxSize    SizeLimit     `toml:"max_size"`     // cap on stored content; the least recently used is evicted
	MinFree    Size          `toml:"min_free"`     // space that the filesystem always keeps free
	MaxUnused  DurationLimit `toml:"max_unused"`   // content that was not pulled for that long is deleted
}

// SyncToDisk says when stored content is flushed to the disk. It is written as true, false or
// "always".
type SyncToDisk string

// Values of [SyncToDisk].
const (
	SyncBehind SyncToDisk = "true"   // the whole filesystem, within seconds
	SyncNever  SyncToDisk = "false"  // when the kernel likes to
	SyncAlways SyncToDisk = "always" // each file before its commit ends
)

// Cache is the place where instances share upstream tokens.
type Cache struct {
	Redis *Redis `toml:"redis" reload:"live"` // nil: tokens stay in memory
}

// Redis is one Redis server, a Sentinel group or a cluster. [Load] fills the
// fields without a key from the URL. The certificates are for Sentinels, too.
type Redis struct {
	URL               Secret `toml:"url"` // it may hold a password
	KeyPrefix         string `toml:"key_prefix"`
	SecretKey         Secret `toml:"secret_key"`        // shared by all instances; empty: what Redis holds is not sealed
	SentinelUsername  string `toml:"sentinel_username"` // empty with a password: the default user
	SentinelPassword  Secret `toml:"sentinel_password"`
	ClientCertificate string `toml:"client_certificate"` // path of a PEM file
	ClientPrivateKey  string `toml:"client_private_key"` // path of a PEM file
	ServerCABundle    string `toml:"server_ca_bundle"`   // path of a PEM file, added to the system roots

	Addrs      []string // host:port; several for Sentinel (with MasterName) or a cluster
	Username   string
	Password   Secret
	DB         int
	TLS        bool
	MasterName string // group of the Sentinels; empty: no Sentinel
}

// Namespace is one repository block: the repositories of one registry that Weir
// mirrors. Its tag policy is resolved: a key that the block does not set has the
// value of [Global].
type Namespace struct {
	Key       string     // the first path segments of the names it serves
	Added     bool       // it is in a file of edit_dir, so it takes no names from other blocks
	Host      string     `toml:"namespace"` // the ?ns= that selects it, in lower case; empty: none
	Default   bool       `toml:"default"`   // it serves the names that no key matches
	Offline   bool       `toml:"offline"`   // no upstream is ever contacted
	Upstreams []Upstream `toml:"upstream"`  // in the order in which they are tried
	Warm      []Warm     `toml:"warm"`      // images that are kept in the cache

	Images               []string      `toml:"images"` // globs on the names that exist; empty: all
	Allow                []string      `toml:"allow"`  // identities that may pull; empty: every identity
	AccessPolicy         *AccessPolicy `toml:"access_policy"`
	AuthorizationWebhook *string       `toml:"authorization_webhook"` // nil: that of Global; "": none

	ImmutableTags           bool      `toml:"immutable_tags"` // also true if it is true in Global
	ImmutableTagsExclusions []string  `toml:"immutable_tags_exclusions"`
	TagTTL                  Duration  `toml:"tag_ttl"`
	TagSWR                  Duration  `toml:"tag_swr"` // how much longer a tag is served while it is checked
	NegativeTTL             Duration  `toml:"negative_ttl"`
	ServeStaleOn            []Class   `toml:"serve_stale_on"`
	MaxStale                Duration  `toml:"max_stale"`          // 0: no limit
	RecheckPossession       Duration  `toml:"recheck_possession"` // 0: never
	Shared                  bool      `toml:"shared"`             // its content may be used for other blocks
	Prefetch                bool      `toml:"prefetch"`           // the other layers of an image that is pulled
	MaxSize                 SizeLimit `toml:"max_size"`           // cap on the stored content that the block brought in; 0: none
	FallbackOn              []Class   `toml:"fallback_on"`        // after which failures the next upstream is asked about a tag

	Authorize      string   `toml:"authorize"`        // mirror or upstream: whose rights decide what a client may pull
	AuthCheckTTL   Duration `toml:"auth_check_ttl"`   // how long an upstream's verdict about a client holds
	AuthStaleGrace Duration `toml:"auth_stale_grace"` // and how much longer while the upstream is unavailable
}

// OnBehalf reports whether the rights of each client at the upstream decide what it may
// pull from the block.
func (n Namespace) OnBehalf() bool { return n.Authorize == "upstream" }

// HasCredentials reports whether an upstream of the block is asked with credentials.
func (n Namespace) HasCredentials() bool {
	return slices.ContainsFunc(n.Upstreams, Upstream.HasCredentials)
}

// HasCredentials reports whether the upstream is asked with credentials.
func (u Upstream) HasCredentials() bool {
	return u.Username != "" || u.CredentialHelper != "" || u.ClientCertificate != ""
}

// Warm is a list of images that the server keeps in its cache.
type Warm struct {
	Images    []Image    `toml:"images"` // with or without the block's key before their names
	Every     Duration   `toml:"every"`
	Platforms []Platform `toml:"platforms"` // none: all that an image has
	Referrers bool       `toml:"referrers"` // also signatures, attestations and other referrers
}

// Upstream is one registry that Weir reads. Upstreams are comparable: a reload
// keeps the connections to those that did not change.
type Upstream struct {
	URL               URL           `toml:"url"`
	APIPath           APIPath       `toml:"api_path"` // goes before /v2/
	Username          string        `toml:"username"`
	Password          Secret        `toml:"password"`
	CredentialHelper  string        `toml:"credential_helper"`  // in place of username and password; a name or a path
	CredentialTTL     Duration      `toml:"credential_ttl"`     // for which an answer of the helper holds
	ClientCertificate string        `toml:"client_certificate"` // path of a PEM file
	ClientPrivateKey  string        `toml:"client_private_key"` // path of a PEM file
	ServerCABundle    string        `toml:"server_ca_bundle"`   // path of a PEM file, added to the system roots
	MaxRedirect       int           `toml:"max_redirect"`
	ConnectTimeout    time.Duration `toml:"connect_timeout_secs"`
	ReadTimeout       time.Duration `toml:"read_timeout_secs"` // longest pause between two reads
	Proxy             Secret        `toml:"proxy"`             // a URL that may hold a password; empty: from the environment
	Segments          int           `toml:"segments"`          // streams that may bring one large blob at once
	MaxBandwidth      SizeLimit     `toml:"max_bandwidth"`     // bytes per second; 0: no limit
	MaxConnections    int           `toml:"max_connections"`   // that carry a request; 0: no limit
	// TokenRealm is the only host that gets the credentials besides that of URL.
	TokenRealm string `toml:"token_realm"`
	// AllowPrivateRedirects admits redirects and token services at private addresses
	// although the upstream itself has none.
	AllowPrivateRedirects bool `toml:"allow_private_redirects"`

	// Reach is where the upstream itself may be. No key sets it.
	Reach Reach
}

// Reach is where an upstream may be.
type Reach uint8

// Values of [Reach]. The zero value is that of an upstream that an operator has written into a file.
const (
	ReachAny    Reach = iota
	ReachNear         // everywhere but at link-local addresses
	ReachPublic       // at public addresses
)
