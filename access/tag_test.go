package access

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

func taggerOf(t testing.TB) *tagger {
	t.Helper()
	tags, err := newTagger()
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

// A text has one tag, under one key. Other texts have others.
func TestTags(t *testing.T) {
	tags, others := taggerOf(t), taggerOf(t)
	seen := make(map[tag]string)
	for _, text := range []string{"", "\x00", "a", "b", "ab", "a\x00", strings.Repeat("a", 16), strings.Repeat("a", 17), strings.Repeat("a", 32<<10), strings.Repeat("a", 32<<10) + "b"} {
		one := tags.of(text)
		if before, ok := seen[one]; ok {
			t.Errorf("%.20q has the tag of %.20q", text, before)
		}
		seen[one] = text
		if tags.of(text) != one {
			t.Errorf("%.20q has two tags", text)
		}
		if others.of(text) == one {
			t.Errorf("%.20q has one tag under two keys", text)
		}
	}
	testutil.Distinct(t, func(a, b string) (string, bool) {
		sum := tags.of(a, b)
		return string(sum[:]), true
	})
}

// Addresses that differ have different tags.
func TestTagsOfAddresses(t *testing.T) {
	tags := taggerOf(t)
	seen := make(map[tag]string)
	for _, text := range []string{"", "0.0.0.0", "::", "::ffff:0.0.0.0", "10.0.0.1", "::ffff:10.0.0.1", "::a00:1", "fe80::1", "fe80::1%eth0", "fe80::1%eth1"} {
		address, _ := netip.ParseAddr(text) // invalid: none is known
		b := tags.begin()
		b.addAddress(address)
		one := tags.end(b)
		if before, ok := seen[one]; ok {
			t.Errorf("%q has the tag of %q", text, before)
		}
		seen[one] = text
	}
}

// No credential stays in the memory of a buffer.
func TestTagsForgetTheirTexts(t *testing.T) {
	tags := taggerOf(t)
	b := tags.begin()
	b.add("a secret of many letters")
	kept := b.text
	tags.end(b)
	if text := string(kept); strings.Trim(text, "\x00") != "" {
		t.Errorf("%q is left", text)
	}
}

func BenchmarkTag(b *testing.B) {
	tags, token := taggerOf(b), strings.Repeat("x", 1500) // as of GitHub Actions
	for b.Loop() {
		tags.of(token)
	}
}
