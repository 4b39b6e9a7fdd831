package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/hosts"
)

// Values of [S3.PathStyle].
const (
	PathStyleAuto   = "auto"
	PathStyleAlways = "always"
	PathStyleNever  = "never"
)

// S3 is a bucket that several mirrors may share. Beside it, [FS] is the local tier.
type S3 struct {
	Endpoint         URL           `toml:"endpoint"`
	Bucket           string        `toml:"bucket"`
	CreateBucket     bool          `toml:"create_bucket"` // if there is none
	Region           string        `toml:"region"`        // empty: the server gives it
	AccessKeyID      string        `toml:"access_key_id"` // empty: from the environment of the process or the machine
	SecretKey        Secret        `toml:"secret_key"`
	KeyPrefix        string        `toml:"key_prefix"` // a slash at its end is dropped
	PathStyle        string        `toml:"path_style"` // auto, always or never
	PartSize         SizeLimit     `toml:"multipart_part_size"`
	MaxAttempts      int           `toml:"max_attempts"`
	OperationTimeout time.Duration `toml:"operation_timeout_secs"`
	AttemptTimeout   time.Duration `toml:"operation_attempt_timeout_secs"`
	PresignTTL       time.Duration `toml:"presign_ttl_secs"`  // how long the URL of a redirect is good
	RedirectEndpoint URL           `toml:"redirect_endpoint"` // that clients reach; empty: Endpoint
	RedirectClients  []Network     `toml:"redirect_clients"`  // that are redirected; empty: all
	RecordsTTL       Duration      `toml:"records_ttl"`       // how long a record that was read is believed
	MaxSize          SizeLimit     `toml:"max_size"`          // cap on content and records; the least recently used is evicted
	MaxUnused        DurationLimit `toml:"max_unused"`        // content that no Weir used for that long is deleted
	EvictionInterval Duration      `toml:"eviction_interval"` // between two notes of uses, and two plans of evictions
}

// tierSize is the default of blob_store.fs.max_size with a bucket. Files from before know
// no such key, and their disk must not fill.
const tierSize = 10 << 30

func newS3() *S3 {
	return &S3{
		CreateBucket: true, PathStyle: PathStyleAuto, MaxAttempts: 3,
		OperationTimeout: 15 * time.Minute, AttemptTimeout: 5 * time.Minute, PresignTTL: 30 * time.Minute, RecordsTTL: Duration(10 * time.Second),
		EvictionInterval: Duration(5 * time.Minute),
	}
}

// s3 decodes the table of a bucket.
func (d *decoder) s3(p place, n *node, dst **S3) {
	*dst = newS3()
	// The name of a host is enough, which has the scheme of the endpoint.
	keys, _ := n.value.(table)
	if place := keys["redirect_endpoint"]; place != nil && keys["endpoint"] != nil {
		host, _ := place.value.(string)
		endpoint, _ := keys["endpoint"].value.(string)
		if scheme, _, found := strings.Cut(endpoint, "://"); found && host != "" && !strings.Contains(host, "://") {
			place.value = scheme + "://" + host
		}
	}
	d.table(p, n, reflect.ValueOf(*dst).Elem())
	(*dst).KeyPrefix = strings.TrimSuffix((*dst).KeyPrefix, "/") // as Angos' examples have it
}

// takeNothingKept reports whether the local tier of a bucket has a max_size of 0, and takes
// that value out of the tree: a [SizeLimit] of 0 is refused elsewhere.
func takeNothingKept(root *node) bool {
	top, _ := root.value.(table)
	store := top["blob_store"]
	if store == nil {
		return false
	}
	stores, _ := store.value.(table)
	fs, s3 := stores["fs"], stores["s3"]
	if fs == nil || s3 == nil {
		return false
	}
	keys, _ := fs.value.(table)
	limit := keys["max_size"]
	if limit == nil {
		return false
	}
	var size Size
	text, _ := limit.value.(string)
	if text == "" || size.UnmarshalText([]byte(text)) != nil || size != 0 {
		return false
	}
	limit.value = ""
	return true
}

// tierDefaults fills in the defaults of the local tier.
func (d *decoder) tierDefaults(keepsNothing bool) {
	store := &d.config.BlobStore
	_, isSet := d.config.source.positions["blob_store.fs.max_size"]
	switch {
	case keepsNothing:
		store.FS.MaxSize = NothingKept
	case !isSet && store.S3 != nil:
		store.FS.MaxSize = tierSize
	}
}

// bucketName is the grammar of the names that all servers take.
var bucketName = sync.OnceValue(func() *regexp.Regexp { // compiled if there is a bucket
	return regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
})

// regionName is the grammar of regions. They are a part of signatures, which slashes and blanks
// would break.
var regionName = regexp.MustCompile(`^[A-Za-z0-9._-]*$`)

// s3 checks the table [blob_store.s3], if there is one.
func (v *validator) s3() {
	s := v.config.BlobStore.S3
	if s == nil {
		return
	}
	const at = "blob_store.s3"
	v.bucketPlace(at, s)
	v.together(at, "access_key_id", s.AccessKeyID, "secret_key", s.SecretKey.Reveal())
	if s.KeyPrefix != "" {
		v.failed(at+".key_prefix", checkKeyPrefix(s.KeyPrefix))
	}
	v.oneOf(at+".path_style", s.PathStyle, PathStyleAuto, PathStyleAlways, PathStyleNever)
	if _, err := netip.ParseAddr(s.Endpoint.Std().Hostname()); err == nil && s.PathStyle == PathStyleNever {
		v.fail(at+".path_style", `"never" puts the bucket's name before the host's, which is not possible with an IP address; write "auto"`)
	}
	// S3 takes no smaller parts, and no larger ones.
	if s.PartSize != 0 && (s.PartSize < 5<<20 || s.PartSize > 5<<30) {
		v.fail(at+".multipart_part_size", `must be between 5MiB and 5GiB; write "" to choose it by the size of the content`)
	}
	v.atLeastOne(at+".max_attempts", s.MaxAttempts)
	switch place := s.RedirectEndpoint.Std(); {
	case place.Host == "":
	case strings.Trim(place.Path, "/") != "":
		v.fail(at+".redirect_endpoint", "must end with the host")
	case s.Region == "":
		v.fail(at+".redirect_endpoint", "needs blob_store.s3.region, which is part of the signature")
	}
	// The longest life that signatures of version 4 have is a week.
	if s.PresignTTL < time.Minute || s.PresignTTL > 7*24*time.Hour {
		v.fail(at+".presign_ttl_secs", "must be between 60 and 604800")
	}
	v.eviction(at, s)
	for key, value := range map[string]time.Duration{"operation_timeout_secs": s.OperationTimeout, "operation_attempt_timeout_secs": s.AttemptTimeout} {
		if value <= 0 {
			v.fail(at+"."+key, "must be larger than 0")
		}
	}
}

// bucketPlace checks the keys that say where a bucket is.
func (v *validator) bucketPlace(at string, s *S3) {
	switch endpoint := s.Endpoint.Std(); {
	case endpoint.Host == "":
		v.fail(at+".endpoint", `is missing; write one like "https://s3.eu-west-1.amazonaws.com"`)
	case strings.Trim(endpoint.Path, "/") != "":
		v.fail(at+".endpoint", "must end with the host; the bucket goes into blob_store.s3.bucket")
	}
	switch {
	case s.Bucket == "":
		v.fail(at+".bucket", "is missing; name a bucket")
	case !bucketName().MatchString(s.Bucket) || strings.Contains(s.Bucket, ".."):
		v.fail(at+".bucket", "must have 3 to 63 lower-case letters, digits, dots and hyphens")
	default:
		if _, err := netip.ParseAddr(s.Bucket); err == nil {
			v.fail(at+".bucket", "is an IP address, which cannot be the name of a bucket")
		}
	}
	if !regionName.MatchString(s.Region) {
		v.fail(at+".region", `must have letters, digits, dots, hyphens and underscores only, such as "eu-west-1"`)
	}
}

// eviction checks the limits of a bucket.
func (v *validator) eviction(at string, s *S3) {
	// It could not take the largest manifest.
	if manifest := v.config.Global.MaxManifestSize; s.MaxSize != 0 && s.MaxSize < SizeLimit(manifest) {
		v.fail(at+".max_size", "must be at least %s: a manifest may be that large (global.max_manifest_size)", manifest)
	}
	v.notNegative(at+".max_unused", int64(s.MaxUnused))
	// Each Weir writes and reads small objects that often.
	if s.EvictionInterval.Std() < time.Second || s.EvictionInterval.Std() > time.Hour {
		v.fail(at+".eviction_interval", "must be between 1s and 1h")
	}
}

// maxKeyPrefix leaves most of the 1024 bytes of a key to the names of records.
const maxKeyPrefix = 256

// checkKeyPrefix returns an error unless all servers, tools and URLs treat a prefix alike.
func checkKeyPrefix(prefix string) error {
	if len(prefix) > maxKeyPrefix {
		return fmt.Errorf("has %d bytes; %d are allowed", len(prefix), maxKeyPrefix)
	}
	for segment := range strings.SplitSeq(prefix, "/") {
		switch segment {
		case "":
			return errors.New(`must not begin with a slash or have two in a row; write one like "mirrors/weir"`)
		case ".", "..":
			return fmt.Errorf("has the segment %q, which servers and tools take for a directory; leave it out", segment)
		}
	}
	for _, c := range prefix {
		if !strings.ContainsRune("/-_.=", c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return fmt.Errorf("has the character %q; letters, digits, slashes and -_.= are allowed", c)
		}
	}
	return nil
}

// plainBucket reports whether a bucket on another machine is reached without TLS.
func (c *Config) plainBucket() bool {
	s := c.BlobStore.S3
	return s != nil && s.Endpoint.Std().Scheme == "http" && !hosts.Loopback(s.Endpoint.Std().Hostname())
}
