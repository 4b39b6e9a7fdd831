package upstream_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// corrupt makes the first member deliver one corrupt blob, and returns its digest.
func (p *pair) corrupt(t *testing.T, i int) digest.Digest {
	t.Helper()
	content := fmt.Appendf(nil, "blob %d", i)
	dgst := p.second.AddBlob("repo", content)
	p.first.AddBlobAs("repo", dgst, bytes.ToUpper(content))
	b := must[oci.Blob](t)(p.Blob(t.Context(), "repo", dgst, 0, -1))
	defer b.Close()
	if got := must[[]byte](t)(io.ReadAll(b)); bytes.Equal(got, content) {
		t.Fatalf("blob %d: the first member was not asked", i)
	}
	if !b.Reject() {
		t.Errorf("blob %d: nowhere else to go", i)
	}
	return dgst
}

// A member that delivers corrupt bytes for one digest is asked last for that
// digest. A member that does so for several digests cools down.
func TestRepeatedCorruptionCoolsDown(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		last := time.Duration(0)
		for round, pause := range []time.Duration{1, 2, 4, 8, 15, 15} {
			time.Sleep(last)
			for i := range 3 {
				p.corrupt(t, 10*round+i)
				if round > 0 {
					break // after a cooldown, one is enough
				}
				if i < 2 {
					p.ask(t, p.first)
				}
			}
			last = pause * time.Minute
			p.first.ResetRequests()
			time.Sleep(last - 1)
			last = 1
			p.ask(t, p.second)
			_, err := p.a.Manifest(t.Context(), "repo", oci.ByTag("latest"))
			if e := wantError(t, err, upstream.ErrUnavailable); !strings.Contains(e.Error(), "corrupt content repeatedly") {
				t.Errorf("round %d: %v", round, err)
			}
			if got := p.first.Requests(); len(got) != 0 {
				t.Errorf("round %d: the first member was asked %q during its cooldown", round, got)
			}
			if got := p.log.Count("delivered corrupt content repeatedly, backing off"); got != 1 {
				t.Errorf("round %d: %d log lines", round, got)
			}
		}
		time.Sleep(11 * time.Minute) // all is forgotten
		p.corrupt(t, 100)
		p.ask(t, p.first)
	})
}

// A registry that is alone is asked in spite of its cooldown, and answers each time with a
// sound header and wrong bytes. The log has one line for the begin of that trouble, and one
// for its end.
func TestCorruptionHasOneBeginAndOneEnd(t *testing.T) {
	for name, tries := range map[string]struct {
		pause time.Duration
		n     int
	}{
		"at once": {0, 50}, "by a client that tries again": {5 * time.Second, 200}, "once in a cooldown": {7 * time.Minute, 20},
	} {
		inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
			p := newPair(t, n)
			chain := alone(p.a)
			expect := func(when string, begins, ends int) {
				t.Helper()
				synctest.Wait()
				begun, ended := p.log.Count("delivered corrupt content repeatedly, backing off"), p.log.Count("has delivered no corrupt content for some time")
				if begun != begins || ended != ends {
					t.Errorf("%s, %s: %d begins and %d ends, want %d and %d", name, when, begun, ended, begins, ends)
				}
				if got := p.log.Count("reachable again") + p.log.Count("is back"); got > 0 {
					t.Errorf("%s, %s: %d lines say that it is back", name, when, got)
				}
			}
			wrong := func(i int) {
				t.Helper()
				dgst := digest.FromString(fmt.Sprint("what it ought to be ", i))
				p.first.AddBlobAs("repo", dgst, []byte("what it is"))
				b, err := chain.Blob(t.Context(), "repo", dgst, 0, -1)
				readBody(t, b, err)
				b.Reject()
			}
			for i := range corruptThreshold {
				wrong(i)
			}
			expect("several digests", 1, 0)
			for i := range tries.n {
				time.Sleep(tries.pause)
				wrong(corruptThreshold + i)
			}
			expect("again and again", 1, 0)
			time.Sleep(time.Hour)
			expect("afterwards", 1, 1)
		})
	}
}

// corruptThreshold is how many digests with wrong bytes begin a cooldown.
const corruptThreshold = 3

// Corrupt bodies that were under way when a cooldown began do not prolong it.
func TestCorruptAnswersAtOnce(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		var bodies []oci.Blob
		for i := range 6 {
			dgst := digest.FromString(fmt.Sprint("what it ought to be ", i))
			p.first.AddBlobAs("repo", dgst, []byte("what it is"))
			b, err := alone(p.a).Blob(t.Context(), "repo", dgst, 0, -1)
			readBody(t, b, err)
			bodies = append(bodies, b)
		}
		for _, b := range bodies {
			b.Reject()
		}
		time.Sleep(time.Minute - 1)
		p.ask(t, p.second)
		time.Sleep(time.Nanosecond)
		p.ask(t, p.first)
	})
}

// One corrupt blob is no reason to do without a member, however often the blob is
// asked for.
func TestOneCorruptBlobIsNoCooldown(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		dgst := digest.FromString("what it ought to be")
		p.first.AddBlobAs("repo", dgst, []byte("what it is"))
		for range 5 {
			b, err := alone(p.a).Blob(t.Context(), "repo", dgst, 0, -1)
			readBody(t, b, err)
			b.Reject()
		}
		p.ask(t, p.first)
	})
}

// A corrupt manifest counts like a corrupt blob.
func TestCorruptManifestsCount(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		for i := range 3 {
			image := p.second.AddImage("repo", fmt.Sprint("v", i), fmt.Appendf(nil, "layer %d", i))
			p.first.AddManifest("repo", image.Digest.String(), image.MediaType, []byte("{}"))
			m := must[*oci.Manifest](t)(p.Manifest(t.Context(), "repo", oci.ByDigest(image.Digest)))
			if m.Upstream != p.second.Host {
				t.Errorf("got it from %s", m.Upstream)
			}
		}
		p.ask(t, p.second)
	})
}

// If two members delivered parts of a corrupt blob, neither cools down for the
// fault of the other.
func TestCorruptionOfTwoMembersBlamesNeither(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		for i := range 4 {
			content := bytes.Repeat(fmt.Append(nil, i), blobSize)
			dgst := p.first.AddBlob("repo", content)
			p.second.AddBlob("repo", content)
			p.first.Fault(upstreamtest.Blobs, upstreamtest.Corrupt(1), upstreamtest.CutAfter(1000)).Times(1)
			p.first.Fault(func(r *http.Request) bool { return r.Header.Get("Range") != "" }, upstreamtest.Status(500, ""))
			b, err := p.Blob(t.Context(), "repo", dgst, 0, -1)
			readBody(t, b, err)
			if b.Upstream() != p.second.Host {
				t.Fatalf("%s went on", b.Upstream())
			}
			if b.Reject() {
				t.Error("somewhere else to go")
			}
			p.first.ClearFaults()
		}
		p.ask(t, p.first)
	})
}

// A member that cools down after corrupt content is asked nevertheless if no other
// member can answer, because its content is verified.
func TestCorruptMemberIsTheLastResort(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		for i := range 3 {
			p.corrupt(t, i)
		}
		p.ask(t, p.second)
		alone := upstream.NewChain(upstream.ChainOptions{}, p.a)
		if m := must[*oci.Manifest](t)(alone.Manifest(t.Context(), "repo", oci.ByTag("latest"))); m.Upstream != p.first.Host {
			t.Errorf("got it from %s", m.Upstream)
		}

		// One more corrupt blob, and it cools down again.
		p.corrupt(t, 3)
		p.ask(t, p.second)
	})
}
