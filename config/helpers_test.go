package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weirhq/weir/oci"
)

// Default returns the configuration of a server without a configuration file and
// without variables of the environment. It mirrors the public registries with the
// most pulls, anonymously, for clients on this machine.
func Default() *Config {
	c, _ := decode(builtIn()) // which has no problem
	return c
}

// write puts text into a new file and returns its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// mustLoad loads a text that has no problem.
func mustLoad(t testing.TB, text string) *Config {
	t.Helper()
	c, err := Load(write(t, "config.toml", text))
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

// problemsOf returns the problems of a text that Load, or else Validate, finds. The
// directory of the file is left out.
func problemsOf(t testing.TB, text string) string {
	t.Helper()
	file := write(t, "config.toml", text)
	c, err := Load(file)
	if err == nil {
		err = c.Validate()
	}
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), filepath.Dir(file)+"/", "")
}

// diff compares two configurations, except the files that they were read from.
func diff(a, b *Config) string {
	return cmp.Diff(a, b, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateComparable(oci.Reference{}), cmpopts.EquateEmpty())
}

// withoutSecrets replaces every secret that is set by the same text.
func withoutSecrets(c *Config) *Config {
	hide := func(s Secret) Secret { return Secret(s.String()) }
	copied := *c
	copied.Observability.Tracing.Endpoint = hide(c.Observability.Tracing.Endpoint)
	if c.Cache.Redis != nil {
		redis := *c.Cache.Redis
		redis.URL, redis.Password, redis.SentinelPassword, redis.SecretKey = hide(redis.URL), hide(redis.Password), hide(redis.SentinelPassword), hide(redis.SecretKey)
		copied.Cache.Redis = &redis
	}
	copied.Namespaces = nil
	for _, r := range c.Namespaces {
		upstreams := r.Upstreams
		r.Upstreams = nil
		for _, u := range upstreams {
			u.Password, u.Proxy = hide(u.Password), hide(u.Proxy)
			r.Upstreams = append(r.Upstreams, u)
		}
		copied.Namespaces = append(copied.Namespaces, r)
	}
	return &copied
}

func effective(t testing.TB, c *Config) string {
	t.Helper()
	var b bytes.Buffer
	if err := c.WriteTOML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const docker = `
[[repository."docker.io".upstream]]
url = "https://registry-1.docker.io"
`
