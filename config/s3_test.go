package config

import (
	"strings"
	"testing"
	"time"
)

const bucketTable = "[blob_store.s3]\nendpoint = \"https://s3.example.com\"\nbucket = \"mirror\"\n"

func TestBucket(t *testing.T) {
	c := mustLoad(t, bucketTable+"access_key_id = \"id\"\nsecret_key = \"tiger\"\nkey_prefix = \"blobs/\"\nmultipart_part_size = \"50MiB\"\n"+
		"multipart_copy_jobs = 4\ncircuit_breaker_threshold = 5\npresign_ttl_secs = 60\nregion = \"eu\"\nredirect_endpoint = \"s3.outside.example:9000\"\nredirect_clients = [\"10.0.0.0/8\", \"2001:db8::1\"]\n"+docker)
	s := c.BlobStore.S3
	if s.KeyPrefix != "blobs" || s.PartSize != 50<<20 || s.SecretKey.Reveal() != "tiger" || !s.CreateBucket {
		t.Errorf("%+v", s)
	}
	if s.PresignTTL != time.Minute || s.RedirectEndpoint.String() != "https://s3.outside.example:9000" || len(s.RedirectClients) != 2 {
		t.Errorf("redirects: %+v", s)
	}
	if c.BlobStore.FS.MaxSize != tierSize {
		t.Errorf("the local tier has %s", c.BlobStore.FS.MaxSize)
	}
	if warnings := strings.Join(c.Warnings(), "\n"); !strings.Contains(warnings, "multipart_copy_jobs") || !strings.Contains(warnings, "circuit_breaker_threshold") {
		t.Errorf("warnings: %s", warnings)
	}
	if printed := effective(t, c); strings.Contains(printed, "tiger") || !strings.Contains(printed, "[blob_store.s3]") {
		t.Errorf("printed:\n%s", printed)
	}
}

// The size of the local tier has its default beside a bucket only, and the operator's word
// counts.
func TestTierSize(t *testing.T) {
	for text, want := range map[string]SizeLimit{
		docker: 0, bucketTable + docker: tierSize,
		bucketTable + "[blob_store.fs]\nmax_size = \"\"\n" + docker:                       0,
		bucketTable + "[blob_store.fs]\nmax_size = \"0\"\n" + docker:                      NothingKept,
		"[blob_store.fs]\nmax_size = \"0B\"\n" + bucketTable + docker:                     NothingKept,
		bucketTable + "[blob_store.fs]\nmax_size = \"1TiB\"\n" + docker:                   1 << 40,
		"[storage.s3]\nendpoint = \"http://127.0.0.1:9000\"\nbucket = \"old\"\n" + docker: tierSize,
	} {
		if got := mustLoad(t, text).BlobStore.FS.MaxSize; got != want {
			t.Errorf("%s: max_size is %q, want %q", text, got, want)
		}
	}
}

func TestBucketProblems(t *testing.T) {
	const odd = "letters, digits, slashes and -_.= are allowed"
	for _, tt := range []struct{ line, want string }{
		{`access_key_id = "id"`, "blob_store.s3.secret_key: is missing: access_key_id is set, and the two must be set together"},
		{`secret_key = "x"`, "blob_store.s3.access_key_id: is missing: secret_key is set, and the two must be set together"},
		{`key_prefix = "/weir"`, `must not begin with a slash or have two in a row`},
		{`key_prefix = "a//b"`, `must not begin with a slash or have two in a row`},
		{`key_prefix = "a/../b"`, `has the segment ".."`},
		{`key_prefix = "a/./b"`, `has the segment "."`},
		{`key_prefix = "mirror 1"`, odd},
		{`key_prefix = "bl%2Fobs"`, odd},
		{`key_prefix = "spiegel-größe"`, odd},
		{`key_prefix = "a\\b"`, odd},
		{`key_prefix = "a?x=1"`, odd},
		{`key_prefix = "` + strings.Repeat("x", 257) + `"`, "has 257 bytes; 256 are allowed"},
		{`path_style = "virtual"`, `must be one of auto, always, never, not "virtual"`},
		{`multipart_part_size = "1MiB"`, "must be between 5MiB and 5GiB"},
		{`multipart_part_size = "6GiB"`, "must be between 5MiB and 5GiB"},
		{`region = "eu west"`, "must have letters, digits, dots, hyphens and underscores only"},
		{`region = "eu-west-1/s3"`, "must have letters, digits, dots, hyphens and underscores only"},
		{`region = "eu-west-1\nX-Header: 1"`, "must have letters, digits, dots, hyphens and underscores only"},
		{`region = "münchen"`, "must have letters, digits, dots, hyphens and underscores only"},
		{`max_attempts = 0`, "must be at least 1, not 0"},
		{`operation_timeout_secs = 0`, "must be larger than 0"},
		{`presign_ttl_secs = 0`, "must be between 60 and 604800"},
		{`presign_ttl_secs = 700000`, "must be between 60 and 604800"},
		{`max_size = "1MiB"`, "must be at least"},
		{`max_size = "0"`, "blob_store.s3.max_size"},
		{`max_size = "-5GiB"`, "blob_store.s3.max_size"},
		{`max_unused = "0"`, "blob_store.s3.max_unused"},
		{`max_unused = "sometime"`, "blob_store.s3.max_unused"},
		{`eviction_interval = "0s"`, "must be between 1s and 1h"},
		{`eviction_interval = "900ms"`, "must be between 1s and 1h"},
		{`eviction_interval = "2h"`, "must be between 1s and 1h"},
		{`redirect_endpoint = "https://s3.outside.example"`, "needs blob_store.s3.region"},
		{`redirect_endpoint = "https://s3.outside.example/bucket"`, "must end with the host"},
		{`redirect_endpoint = "ftp://s3.outside.example"`, "must start with https:// or http://"},
		{`redirect_clients = ["ten"]`, "blob_store.s3.redirect_clients"},
		{`bukket = "x"`, `unknown key; did you mean "bucket"?`},
	} {
		if got := problemsOf(t, bucketTable+tt.line+"\n"+docker); !strings.Contains(got, tt.want) || strings.Count(got, "\n") > 0 {
			t.Errorf("%s: got %q, want %q", tt.line, got, tt.want)
		}
	}
	for text, want := range map[string]string{
		"[blob_store.s3]\nbucket = \"mirror\"\n":                                                               "blob_store.s3.endpoint: is missing",
		"[blob_store.s3]\nendpoint = \"https://s3.example.com\"\n":                                             "blob_store.s3.bucket: is missing",
		"[blob_store.s3]\nendpoint = \"https://s3.example.com/mirror\"\nbucket = \"mirror\"\n":                 "the bucket goes into blob_store.s3.bucket",
		"[blob_store.s3]\nendpoint = \"s3.example.com\"\nbucket = \"mirror\"\n":                                "must start with https:// or http://",
		"[blob_store.s3]\nendpoint = \"http://10.0.0.5:9000\"\nbucket = \"mirror\"\npath_style = \"never\"\n":  "not possible with an IP address",
		"[blob_store.s3]\nendpoint = \"http://[fd00::5]:9000\"\nbucket = \"mirror\"\npath_style = \"never\"\n": "not possible with an IP address",
		"[blob_store.s3]\nendpoint = \"https://s3.example.com\"\nbucket = \"My_Bucket\"\n":                     "must have 3 to 63 lower-case letters",
		"[blob_store.s3]\nendpoint = \"https://s3.example.com\"\nbucket = \"192.168.1.1\"\n":                   "is an IP address, which cannot be the name of a bucket",
		"[blob_store.s3]\nendpoint = \"https://s3.example.com\"\nbucket = \"a/b\"\n":                           "must have 3 to 63 lower-case letters",
	} {
		if got := problemsOf(t, text+docker); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// Only beside a bucket a mirror can do without content of its own, and the printed form of
// that is read again.
func TestNothingKept(t *testing.T) {
	if got := problemsOf(t, "[blob_store.fs]\nmax_size = \"0\"\n"+docker); !strings.Contains(got, `must be larger than 0; write "" for no limit`) {
		t.Errorf("without a bucket: %q", got)
	}
	printed := effective(t, mustLoad(t, bucketTable+"[blob_store.fs]\nmax_size = \"0\"\n"+docker))
	if !strings.Contains(printed, `max_size = "0"`) {
		t.Errorf("printed:\n%s", printed)
	}
}

// Without TLS, everyone on the way can change the objects.
func TestPlainBucketIsWarnedAbout(t *testing.T) {
	for endpoint, warned := range map[string]bool{"https://s3.example.com": false, "http://127.0.0.1:9000": false, "http://minio:9000": true} {
		c := mustLoad(t, strings.Replace(bucketTable, "https://s3.example.com", endpoint, 1)+docker)
		if got := strings.Contains(strings.Join(c.Warnings(), "\n"), "the bucket is accessed over http"); got != warned {
			t.Errorf("%s: warned: %v, want %v", endpoint, got, warned)
		}
	}
}
