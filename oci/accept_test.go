package oci_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

const (
	ociArtifact  = "application/vnd.oci.artifact.manifest.v1+json"
	orasArtifact = "application/vnd.cncf.oras.artifact.manifest.v1+json"
	futureIndex  = "application/vnd.oci.image.index.v2+json"
)

// Only types of manifests go on from a client's Accept header to the upstream.
func TestAccepting(t *testing.T) {
	long := "application/vnd." + strings.Repeat("a", 118) + "+json"
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("application/vnd.example.%d+json", i))
	}
	docker := "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
		"application/vnd.docker.distribution.manifest.v1+prettyjws, application/json"
	for name, c := range map[string]struct {
		accept         []string
		further        string
		artifacts, any bool // accepted: the OCI artifact manifest, and a type that was not named
	}{
		"none":                    {nil, "", true, true},
		"empty":                   {[]string{"", " , "}, "", true, true},
		"everything":              {[]string{"*/*"}, "", true, true},
		"all applications":        {[]string{"application/*;q=0.5"}, "", true, true},
		"Docker":                  {[]string{docker}, "", false, false},
		"containerd":              {[]string{docker + ", " + ocispec.MediaTypeImageIndex + ", */*"}, "", true, true},
		"an artifact":             {[]string{ociArtifact}, ociArtifact, true, false},
		"after known types":       {[]string{docker + "," + ociArtifact}, ociArtifact, true, false},
		"several lines":           {[]string{docker, orasArtifact, ociArtifact}, orasArtifact + ", " + ociArtifact, true, false},
		"twice":                   {[]string{ociArtifact + "," + ociArtifact}, ociArtifact, true, false},
		"parameters":              {[]string{ociArtifact + ";q=0.9;charset=utf-8"}, ociArtifact, true, false},
		"upper case":              {[]string{strings.ToUpper(ociArtifact)}, ociArtifact, true, false},
		"not accepted":            {[]string{orasArtifact + "," + ociArtifact + ";q=0"}, orasArtifact, false, false},
		"not accepted, in full":   {[]string{docker + "," + ociArtifact + "; Q=0.000"}, "", false, false},
		"not everything":          {[]string{docker + ", */*;q=0"}, "", false, false},
		"a future type":           {[]string{futureIndex}, futureIndex, false, false},
		"with everything":         {[]string{"*/*", futureIndex}, futureIndex, true, true},
		"other types":             {[]string{"text/html, application/json, application/octet-stream, image/png"}, "", false, false},
		"only schema 1":           {[]string{"application/vnd.docker.distribution.manifest.v1+json"}, "", false, false},
		"a range of types":        {[]string{"application/vnd.*+json"}, "", false, false},
		"no grammar":              {[]string{"application/vnd.a b+json", "application/vnd.\x00+json", "application/vnd.é+json", "application/vnd./x+json", "application/vnd.+json", `application/vnd."+json`}, "", false, false},
		"the longest":             {[]string{long}, long, false, false},
		"too long":                {[]string{strings.Replace(long, "aa", "aaa", 1)}, "", false, false},
		"too many":                {many, strings.Join(many[:8], ", "), false, false},
		"too many bytes":          {[]string{long, strings.Replace(long, "aa", "ab", 1), strings.Replace(long, "aa", "ac", 1), strings.Replace(long, "aa", "ad", 1), ociArtifact}, "", true, false},
		"behind too many":         {[]string{strings.Repeat("text/html,", 64) + ociArtifact}, "", false, false},
		"wrong parameters":        {[]string{ociArtifact + ";q", orasArtifact + ";q=high"}, orasArtifact, false, false},
		"a header of nothing but": {[]string{strings.Repeat(",", 60_000)}, "", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			ref := oci.ByTag("v1").Accepting(c.accept...)
			want := oci.AcceptManifests
			if c.further != "" {
				want += ", " + c.further
			}
			if name == "too many bytes" { // four of the longest, and no more
				if got := ref.Accept(); strings.Count(got, strings.Repeat("a", 100)) != 3 || len(got) > len(want)+600 {
					t.Errorf("asks for %d bytes", len(got))
				}
			} else if got := ref.Accept(); got != want {
				t.Errorf("asks for %s\nwant %s", got, want)
			}
			if ref.Accepts(ociArtifact) != c.artifacts || ref.Accepts("application/vnd.unnamed+json") != c.any || !ref.Accepts(ocispec.MediaTypeImageIndex) {
				t.Errorf("accepts an artifact: %v, any: %v", ref.Accepts(ociArtifact), ref.Accepts("application/vnd.unnamed+json"))
			}
			if ref.String() != "v1" || !ref.IsTag() {
				t.Errorf("it is %s now", ref)
			}
		})
	}
}

// Clients share a question unless an upstream could tell them apart.
func TestQuestion(t *testing.T) {
	same := [][]string{nil, {"*/*"}, {ocispec.MediaTypeImageManifest}, {"text/html"}, {futureIndex + ";q=0"}}
	others := [][]string{{ociArtifact}, {orasArtifact}, {ociArtifact, orasArtifact}}
	question := func(accept []string) oci.Reference { return oci.ByTag("v1").Accepting(accept...).Question() }
	for _, accept := range same {
		if question(accept) != oci.ByTag("v1") {
			t.Errorf("%q is a question of its own", accept)
		}
	}
	for i, accept := range others {
		if q := question(accept); q == oci.ByTag("v1") || slices.ContainsFunc(others[:i], func(o []string) bool { return question(o) == q }) {
			t.Errorf("%q is no question of its own", accept)
		}
	}
	byDigest := question(others[0]).WithDigest(sha256Digest)
	if byDigest.Digest() != sha256Digest || byDigest.IsTag() || byDigest.Accept() != question(others[0]).Accept() {
		t.Errorf("by digest it is %+v", byDigest)
	}
}

func FuzzAccepting(f *testing.F) {
	for _, seed := range []string{"", "*/*", ociArtifact + ";q=0.5, " + orasArtifact, "a/b;c=\"d,e\"", ",,;;", "application/vnd.x+json\r\nX: y"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		further, ok := strings.CutPrefix(oci.ByTag("v1").Accepting(header).Accept(), oci.AcceptManifests)
		if !ok || len(further) > 600 || strings.ContainsAny(further, "\r\n\x00;\"*") {
			t.Errorf("%q: asks for %q", header, further)
		}
	})
}
