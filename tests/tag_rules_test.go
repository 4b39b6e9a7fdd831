package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// The tags that tools derive from a digest move with each new signature, attestation or
// referrer, also where tags are immutable.
func TestDerivedTagsMove(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	hex := digest.FromString("an image").Encoded()
	derived := []string{"sha256-" + hex, "sha256-" + hex + ".sig", "sha256-" + hex + ".att", "sha256-" + hex + ".sbom", "sha512-" + digest.SHA512.FromString("an image").Encoded()[:64]}
	fixed := []string{"v1", "sha256-" + hex[:12], "v1.sig", hex}
	tags := append(append([]string{}, derived...), fixed...)
	w := harness.StartWeir(t, block("mirror", upstream, "immutable_tags = true"))
	first := make(map[string]digest.Digest)
	for _, tag := range tags {
		first[tag] = upstream.AddImage("org/app", tag, []byte("one "+tag)).Digest
		expectContent(t, "cold "+tag, w.Get(t, manifestPath("mirror/org/app", tag)), first[tag], statusStored)
	}
	second := make(map[string]digest.Digest)
	for _, tag := range tags {
		second[tag] = upstream.AddImage("org/app", tag, []byte("two "+tag)).Digest
	}
	for _, tag := range derived {
		expectContent(t, "moved "+tag, w.Get(t, manifestPath("mirror/org/app", tag)), second[tag], statusMoved)
	}
	upstream.ResetRequests()
	for _, tag := range fixed {
		expectContent(t, "immutable "+tag, w.Get(t, manifestPath("mirror/org/app", tag)), first[tag], statusHit)
	}
	expectWire(t, upstream, "immutable")
}

// Tags that make patterns backtrack cost a second of a processor in a minute, however many
// there are. Without a bound, each of them cost up to 100 ms.
func TestBacktrackingPatterns(t *testing.T) {
	t.Parallel()
	const tags = 100
	upstream := upstreamtest.New(t)
	rules := []string{"immutable_tags = true", `immutable_tags_exclusions = ["^(a+)+$", "^(a|aa)+$", "^(a*)*$", "^([a-c]+)*d$"]`}
	w := harness.StartWeir(t, block("slow", upstream, rules...)+block("plain", upstream))
	w.Logs(t, "a repeated group contains another repetition", "repository.slow.immutable_tags_exclusions[0]") // at the start
	image := upstream.AddImage("org/app", "v1", []byte("a layer"))
	names := make([]string, tags)
	for n := range names {
		names[n] = fmt.Sprintf("%s-%d", strings.Repeat("a", 100), n)
		upstream.Tag("org/app", names[n], image.Digest)
	}
	// pull asks for all tags twice, and returns the time of a processor that this takes.
	pull := func(block string) float64 {
		used := w.Metric(t, "process_cpu_seconds_total")
		for range 2 {
			for _, tag := range names {
				if a := w.Get(t, manifestPath(block+"/org/app", tag)); a.Status != http.StatusOK || a.Header.Get("Docker-Content-Digest") != image.Digest.String() {
					t.Fatalf("%s: %d %s", block, a.Status, a.Body)
				}
			}
		}
		return w.Metric(t, "process_cpu_seconds_total") - used
	}
	plain, slow := pull("plain"), pull("slow")
	t.Logf("%d tags take %.1f s of a processor with patterns, and %.1f s without", tags, slow, plain)
	if slow-plain > 4 {
		t.Errorf("%d tags take %.1f s of a processor with patterns, and %.1f s without, want 4 s more at most", tags, slow, plain)
	}
	if got := w.Log.Count("have used up their time for this minute"); got != 1 {
		t.Errorf("the log says %d times that the patterns have used up their time, want once", got)
	}
}
