package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// secretKeys returns the generic key path of every secret.
func secretKeys(t reflect.Type, parent string) (keys []string) {
	for name, field := range keysOf(t) {
		key, kind := strings.TrimPrefix(parent+"."+name, "."), field.Type
		for kind.Kind() == reflect.Slice || kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		switch {
		case isSecret(field):
			keys = append(keys, key)
		case isNamed(field.Type) || field.Type == reflect.TypeFor[[]Namespace]():
			keys = append(keys, secretKeys(kind, key+".*")...)
		case kind.Kind() == reflect.Struct && isTable(kind):
			keys = append(keys, secretKeys(kind, key)...)
		}
	}
	return keys
}

// Every secret has a key for its file: it counts like the secret itself, its file is watched,
// both at once are an error, and neither form shows.
func TestEverySecretHasAFile(t *testing.T) {
	const key32 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	const (
		acme   = "[server.tls.acme]\nhosts = [\"mirror.example.com\"]\n"
		dns    = acme + "challenge = \"dns-01\"\n[server.tls.acme.dns]\n"
		redis  = "[cache.redis]\nurl = \"redis://127.0.0.1:6379\"\n"
		bucket = "[blob_store.s3]\nendpoint = \"https://s3.example.com\"\nbucket = \"weir\"\n"
		hook   = "[auth.webhook.opa]\nurl = \"https://opa.example.com\"\n"
	)
	// The tables before the line of the secret, and a good one.
	secrets := map[string]struct{ before, name, good string }{
		"server.tls.acme.eab_hmac_key":       {acme + "eab_key_id = \"kid\"\n", "eab_hmac_key", "zWNDZM6eQGHW-_"},
		"server.tls.acme.dns.tsig_secret":    {dns + "provider = \"rfc2136\"\nserver = \"ns1.example.com\"\nzone = \"example.com\"\ntsig_name = \"key\"\n", "tsig_secret", "c2VjcmV0IG9mIHRzaWc="},
		"server.tls.acme.dns.password":       {dns + "provider = \"acme-dns\"\nurl = \"https://auth.example.com\"\nusername = \"u\"\nsubdomain = \"s\"\n", "password", "a-password"},
		"blob_store.s3.secret_key":           {bucket + "access_key_id = \"id\"\n", "secret_key", "a-secret-of-the-bucket"},
		"cache.redis.url":                    {"[cache.redis]\n", "url", "redis://:a-password@cache:6379"},
		"cache.redis.secret_key":             {redis, "secret_key", "a secret of all instances of the test"},
		"cache.redis.sentinel_password":      {"[cache.redis]\nurl = \"redis://cache?master_name=m\"\n", "sentinel_password", "a-password"},
		"cluster.secret":                     {redis + "[cluster]\n", "secret", "a secret of all replicas of the test"},
		"observability.tracing.endpoint":     {"[observability.tracing]\n", "endpoint", "http://u:a-password@otel:4318"},
		"auth.identity.*.password":           {"[auth.identity.ci]\nusername = \"ci\"\n", "password", secretHash},
		"auth.token_service.secret_key":      {alice + "[auth.token_service]\n", "secret_key", key32},
		"auth.webhook.*.bearer_token":        {hook, "bearer_token", "a-token"},
		"auth.webhook.*.basic_auth.password": {hook + "[auth.webhook.opa.basic_auth]\nusername = \"weir\"\n", "password", "a-password"},
		"repository.*.upstream.password":     {"[[repository.x.upstream]]\nurl = \"https://x.example\"\nusername = \"u\"\n", "password", "a-password"},
		"repository.*.upstream.proxy":        {"[[repository.x.upstream]]\nurl = \"https://x.example\"\n", "proxy", "http://u:a-password@proxy:3128"},
	}
	known := secretKeys(reflect.TypeFor[Config](), "")
	slices.Sort(known)
	if listed := slices.Sorted(maps.Keys(secrets)); !slices.Equal(known, listed) {
		t.Errorf("the secrets are %q, and the test has %q", known, listed)
	}
	for key, c := range secrets {
		file := write(t, "secret", c.good+"\n")
		inline := fmt.Sprintf("%s = %q\n", c.name, c.good)
		twin := fmt.Sprintf("%s_file = %q\n", c.name, file)
		direct, read := mustLoad(t, c.before+inline), mustLoad(t, c.before+twin)
		for form, config := range map[string]*Config{"inline": direct, "in a file": read} {
			if err := config.Validate(); err != nil {
				t.Errorf("%s, %s: %v", key, form, err)
			}
			if shown := effective(t, config) + fmt.Sprintf("%v %+v %#v", *config, *config, *config); strings.Contains(shown, c.good) {
				t.Errorf("%s, %s: it shows", key, form)
			}
		}
		if d := diff(direct, read); d != "" {
			t.Errorf("%s: the file does not count the same: %s", key, d)
		}
		if !slices.Contains(read.Files(), file) {
			t.Errorf("%s: the file is not watched", key)
		}
		if !strings.Contains(effective(t, read), fmt.Sprintf("%s_file = %q", c.name, file)) {
			t.Errorf("%s: the configuration in force does not name the file", key)
		}
		if got := problemsOf(t, c.before+inline+twin); !strings.Contains(got, "set only one of the two") {
			t.Errorf("%s: both at once: %s", key, got)
		}
		if got := problemsOf(t, c.before+c.name+"_file = \"/nowhere\"\n"); !strings.Contains(got, c.name+"_file: cannot read the file: stat /nowhere") || strings.Contains(got, "\n") {
			t.Errorf("%s: a file that is missing: %s", key, got)
		}
	}
}
