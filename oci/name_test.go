package oci_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

const (
	sha256Digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	sha384Digest = "sha384:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"nginx":                          true,
		"docker.io/library/nginx":        true,
		"localhost:5000/a__b/c--d/e.f_g": true,
		"localhost:5000":                 true,
		"a:65535/b":                      true,
		strings.Repeat("a", 255):         true,
		strings.Repeat("a", 256):         false,
		"":                               false,
		"Nginx":                          false,
		"a/b:5000":                       false,
		"a:/b":                           false,
		"a:123456/b":                     false,
		"a//b":                           false,
		"/a":                             false,
		"a/":                             false,
		"a..b":                           false,
		"a___b":                          false,
		"-a":                             false,
		"../etc":                         false,
		"a\n":                            false,
	} {
		if got := oci.ValidName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestIsHost(t *testing.T) {
	for segment, want := range map[string]bool{
		"docker.io": true, "localhost": true, "mirror:5000": true, "[::1]": true, "library": false, "mirror": false, "": false,
	} {
		if got := oci.IsHost(segment); got != want {
			t.Errorf("%q: %v", segment, got)
		}
	}
}

func TestCutKey(t *testing.T) {
	for _, c := range []struct {
		name, key, rest string
		ok              bool
	}{
		{"ghcr.io/acme/app", "ghcr.io/acme", "app", true},
		{"ghcr.io/acme/app/x", "ghcr.io", "acme/app/x", true},
		{"ghcr.io/acme", "ghcr.io/acme", "", true},
		{"ghcr.io/acmeapp", "ghcr.io/acme", "", false},
		{"ghcr.io", "ghcr.io/acme", "", false},
	} {
		rest, ok := oci.CutKey(c.name, c.key)
		if rest != c.rest || ok != c.ok || oci.Below(c.name, c.key) != c.ok {
			t.Errorf("%s below %s: %q, %v", c.name, c.key, rest, ok)
		}
	}
}

func TestDockerHub(t *testing.T) {
	for host, want := range map[string]string{
		"docker.io": "docker.io", "index.docker.io": "docker.io", "Registry-1.Docker.io": "docker.io",
		"GHCR.io": "ghcr.io", "auth.docker.io": "auth.docker.io", "": "",
	} {
		if got := oci.CanonicalHost(host); got != want {
			t.Errorf("%q is %q, not %q", host, got, want)
		}
		if oci.IsDockerHub(host) != (want == oci.DockerHub) || !oci.SameHost(host, want) {
			t.Errorf("%q: %v, %v", host, oci.IsDockerHub(host), oci.SameHost(host, want))
		}
	}
	if oci.SameHost("ghcr.io", "docker.io") {
		t.Error("ghcr.io is not Docker Hub")
	}
}

func TestParseReference(t *testing.T) {
	for text, want := range map[string]oci.Reference{
		"latest":                     oci.ByTag("latest"),
		"_A.b-c..d":                  oci.ByTag("_A.b-c..d"),
		strings.Repeat("a", 128):     oci.ByTag(strings.Repeat("a", 128)),
		sha256Digest:                 oci.ByDigest(sha256Digest),
		"sha256-" + sha256Digest[7:]: oci.ByTag("sha256-" + sha256Digest[7:]),
		strings.Repeat("a", 129):     {},
		"":                           {},
		".a":                         {},
		"a/b":                        {},
		"sha256:beef":                {},
		sha384Digest:                 {},
		"sha256:" + strings.ToUpper(sha256Digest[7:]): {},
	} {
		got, err := oci.ParseReference(text)
		if got != want || (err == nil) != (want != oci.Reference{}) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{"latest", sha256Digest, sha384Digest, "a:b", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := oci.ParseReference(text)
		if err != nil {
			return
		}
		if ref.String() != text || ref.IsTag() == (ref.Digest() != "") {
			t.Errorf("%q became %#v", text, ref)
		}
		if dgst := ref.Digest(); dgst != "" && (dgst.Validate() != nil || dgst.Algorithm() == digest.SHA384) {
			t.Errorf("%q is not a digest", dgst)
		}
	})
}

func TestParseImage(t *testing.T) {
	image := func(name, ref string) oci.Image {
		parsed, err := oci.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		return oci.Image{Name: name, Reference: parsed}
	}
	for text, want := range map[string]oci.Image{
		"nginx":                               image("nginx", "latest"),
		"nginx:1.27":                          image("nginx", "1.27"),
		"docker.io/library/nginx:1.27":        image("docker.io/library/nginx", "1.27"),
		"ghcr.io/org/app@" + sha256Digest:     image("ghcr.io/org/app", sha256Digest),
		"ghcr.io/org/app:1.2@" + sha256Digest: image("ghcr.io/org/app", sha256Digest),
		"org/a_b/c.d/e--f:V1.0_x-2":           image("org/a_b/c.d/e--f", "V1.0_x-2"),
		"localhost:5000/nginx:1":              image("localhost:5000/nginx", "1"),
		sha256Digest:                          image("sha256", sha256Digest[7:]), // a name and a tag by the grammar
		"":                                    {},
		"Nginx":                               {},
		"nginx:":                              {},
		"nginx:a/b":                           {},
		"org//app":                            {},
		"../etc/passwd":                       {},
		"nginx@sha256:beef":                   {},
		"nginx@" + sha256Digest + "x":         {},
		"nginx@" + sha384Digest:               {},
		"@" + sha256Digest:                    {},
		"[::1]:5000/nginx":                    {},
	} {
		got, err := oci.ParseImage(text)
		if got != want || (err == nil) != (want != oci.Image{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// A shortened digest, as lists print it, is told apart from another algorithm.
func TestParseImageOfADigest(t *testing.T) {
	for text, want := range map[string]string{
		"app@sha256:17f82989f158": "64 hexadecimal digits", "app@sha512:17f82989f158": "64 hexadecimal digits",
		"app@md5:d41d8cd98f00b204e9800998ecf8427e": "neither sha256 nor sha512",
	} {
		if _, err := oci.ParseImage(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseImage(f *testing.F) {
	for _, seed := range []string{"nginx", "a:5/b:c@" + sha256Digest, sha256Digest, "[::1]:5/a", "A/b", "a@" + sha384Digest} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		image, err := oci.ParseImage(text)
		if err != nil {
			return
		}
		if !oci.ValidName(image.Name) || image.Reference == (oci.Reference{}) {
			t.Fatalf("%q became %+v", text, image)
		}
		if again, err := oci.ParseImage(image.String()); err != nil || again != image {
			t.Errorf("%q became %q, which became %+v, %v", text, image, again, err)
		}
	})
}

func TestPlatform(t *testing.T) {
	for text, ok := range map[string]bool{
		"linux/amd64": true, "linux/arm/v7": true,
		"linux": false, "": false, "linux/": false, "linux/AMD64": false, "linux/arm/v7/": false, "a/b/c/d": false, "a/\x1b[2J": false,
	} {
		p, err := oci.ParsePlatform(text)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		} else if ok && oci.FormatPlatform(p) != text {
			t.Errorf("%q became %q", text, oci.FormatPlatform(p))
		}
	}
	p, _ := oci.ParsePlatform("linux/amd64")
	p.OS = "\x1b[2J"
	if got := oci.FormatPlatform(p); got != `"\x1b[2J/amd64"` {
		t.Errorf("written to a terminal as %q", got)
	}
}
