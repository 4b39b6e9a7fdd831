package storage_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

func TestValidateKey(t *testing.T) {
	long := strings.Repeat("x", 255)
	for key, valid := range map[string]bool{
		"a": true, "a/b/c": true, long: true, long + "/" + long: true,
		"...": true, ".hidden": true, "a b": true, "ünï": true, "\xff": true, `a\b`: true, "a\nb": true,
		"": false, "/": false, "/a": false, "a/": false, "a//b": false,
		".": false, "..": false, "a/./b": false, "a/../b": false, "../a": false, "a/..": false,
		long + "x": false, "a\x00b": false,
	} {
		err := storage.ValidateKey(key)
		if valid && err != nil {
			t.Errorf("ValidateKey(%q) = %v", key, err)
		}
		if !valid && !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("ValidateKey(%q) = %v, want ErrInvalidKey", key, err)
		}
	}
}

func TestValidateDigest(t *testing.T) {
	for _, dgst := range []digest.Digest{digest.FromString("x"), digest.SHA512.FromString("x")} {
		if err := storage.ValidateDigest(dgst); err != nil {
			t.Errorf("ValidateDigest(%q) = %v", dgst, err)
		}
	}
	hex := strings.Repeat("a", 64)
	for dgst, want := range map[digest.Digest]error{
		"":                                 digest.ErrDigestInvalidFormat,
		"sha256":                           digest.ErrDigestInvalidFormat,
		"sha256:":                          digest.ErrDigestInvalidFormat,
		"sha256:abc":                       digest.ErrDigestInvalidLength,
		digest.Digest("sha256:" + hex[1:]): digest.ErrDigestInvalidLength,
		digest.Digest("sha256:" + strings.ToUpper(hex)):     digest.ErrDigestInvalidFormat,
		digest.Digest("sha256:../" + hex[3:]):               digest.ErrDigestInvalidFormat,
		digest.Digest("../sha256:" + hex):                   digest.ErrDigestInvalidFormat,
		digest.Digest("md5:" + hex[:32]):                    digest.ErrDigestUnsupported,
		digest.SHA384.FromString("well-formed, not served"): digest.ErrDigestUnsupported,
	} {
		if err := storage.ValidateDigest(dgst); !errors.Is(err, want) {
			t.Errorf("ValidateDigest(%q) = %v, want %v", dgst, err, want)
		}
	}
}
