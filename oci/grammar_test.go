package oci_test

import (
	"regexp"
	"strings"
	"testing"

	_ "crypto/sha512" // makes the algorithm known to go-digest

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

// The grammars of the specifications as regular expressions, to which the scanners of the
// package are held.
var (
	nameSegment       = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	namePattern       = regexp.MustCompile(`^` + nameSegment + `(?::[0-9]{1,5})?(?:/` + nameSegment + `)*$`)
	tagPattern        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	mediaTypePattern  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}/[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,126}$`)
	furtherPattern    = regexp.MustCompile(`^application/vnd\.[a-z0-9!#$&^_.+-]{1,118}\+json$`)
	dockerSchema1Type = "application/vnd.docker.distribution.manifest.v1"
)

// texts are of all grammars, and nearly of them.
func texts() []string {
	list := []string{
		"", "a", "-", "_", ".", ":", "/", "a/", "/a", "a//b", "a.b", "a..b", "a_b", "a__b", "a___b", "a-b", "a---b", "a-.b", "a_.b", "a_", "a__", "a--", "a.", "_a", "a-/b",
		"a:1", "a:12345", "a:123456", "a:", "a:1:2", "a:1/b", "a/b:1", "a:1a/b", "a:b", "host.example:5000/team/app", "é", "a\x00", "a\n", "\xff", "A", "a/B", "latest", "V1.0_x-2",
		"application/vnd.+json", "application/vnd.a+json", "application/vnd.x.y+json", "application/json", "text/html", "a/b/c", "a/+b", "+a/b", "a/b+c", "application/vnd.A+json",
		dockerSchema1Type + "+json", dockerSchema1Type + "+prettyjws", "application/vnd.oci.image.index.v1+json",
	}
	for _, n := range []int{63, 64, 65, 117, 118, 119, 126, 127, 128, 129, 254, 255, 256} {
		a := strings.Repeat("a", n)
		list = append(list, a, "sha256:"+a, "sha512:"+a, a+"/b", "b/"+a, "application/vnd."+a+"+json", strings.Repeat("a/", n), strings.Repeat("a-", n)+"b")
	}
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		text := algorithm.FromString("x").String()
		list = append(list, text, text+"0", text[:len(text)-1], strings.ToUpper(text), strings.Replace(text, ":", "+x:", 1), text[:len(text)-1]+"g", " "+text, text+"\n")
	}
	return list
}

func TestGrammar(t *testing.T) {
	for _, text := range texts() {
		compareGrammar(t, text)
	}
}

// FuzzGrammar holds the scanners to the regular expressions.
func FuzzGrammar(f *testing.F) {
	for _, text := range texts() {
		f.Add(text)
	}
	f.Fuzz(compareGrammar)
}

func compareGrammar(t *testing.T, text string) {
	if got, want := oci.ValidName(text), len(text) <= 255 && namePattern.MatchString(text); got != want {
		t.Errorf("name %q: %v", text, got)
	}
	ref, err := oci.ParseReference(text)
	if got, want := err == nil && ref.IsTag(), tagPattern.MatchString(text); got != want {
		t.Errorf("tag %q: %v", text, got)
	}
	known, wrong := digest.Parse(text)
	want := wrong == nil && known.Algorithm() != digest.SHA384
	if dgst, err := oci.ParseDigest(text); (err == nil) != want || want && dgst != known {
		t.Errorf("digest %q: %v, %v", text, dgst, err)
	}
	if got, want := oci.ValidMediaType(text), mediaTypePattern.MatchString(text); got != want {
		t.Errorf("media type %q: %v", text, got)
	}
	// The types of a header are compared in lower case, and a comma or a semicolon ends one.
	if text == strings.ToLower(text) && text == strings.TrimSpace(text) && !strings.ContainsAny(text, ",;") {
		further := furtherPattern.MatchString(text) && !strings.HasPrefix(text, dockerSchema1Type) &&
			!strings.Contains(oci.AcceptManifests, text)
		if got := oci.ByTag("x").Accepting(text).Accept() != oci.AcceptManifests; got != further {
			t.Errorf("further type %q: %v", text, got)
		}
	}
}
