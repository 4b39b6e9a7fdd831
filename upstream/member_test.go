package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// fake is a member that is no client: a registry in memory.
type fake struct {
	oci.Registry // nil: the tests ask for nothing else
	host         string
	content      []byte // of every blob
	cut          int    // how many bytes a stream delivers; 0: all
	err          error  // of every answer
	left         time.Duration
	halfOpen     bool

	asked, probes int
	rejected      []digest.Digest
	alone, urgent bool
}

func (f *fake) Host() string                                  { return f.host }
func (f *fake) Health() upstream.Health                       { return f }
func (f *fake) Cooldown() (left time.Duration, halfOpen bool) { return f.left, f.halfOpen }
func (f *fake) Probe(urgent bool)                             { f.urgent, f.probes = urgent, f.probes+1 }
func (f *fake) Rejected(dgst digest.Digest) bool              { return slices.Contains(f.rejected, dgst) }
func (f *fake) Reject(dgst digest.Digest, alone bool) {
	f.rejected, f.alone = append(f.rejected, dgst), alone
}

func (f *fake) unavailable(cause error) error {
	return &upstream.Error{Host: f.host, Op: "blob", Class: upstream.ClassUnavailable, Err: cause}
}

func (f *fake) StatBlob(context.Context, string, digest.Digest) (ocispec.Descriptor, error) {
	f.asked++
	return ocispec.Descriptor{Size: int64(len(f.content))}, f.err
}

func (f *fake) Tags(context.Context, string, url.Values) (*oci.TagList, error) {
	f.asked++
	return &oci.TagList{}, f.err
}

func (f *fake) EndCooldown() bool { return false }

func (f *fake) Broken(_ context.Context, _ string, _ digest.Digest, cause error) error {
	return f.unavailable(cause)
}

func (f *fake) Blob(_ context.Context, _ string, _ digest.Digest, offset, _ int64) (oci.Blob, error) {
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	rest := f.content[offset:]
	if f.cut > 0 {
		rest = rest[:min(f.cut, len(rest))]
	}
	return &fakeBlob{Reader: bytes.NewReader(rest), f: f}, nil
}

type fakeBlob struct {
	io.Reader
	f *fake
}

func (b *fakeBlob) Size() int64      { return int64(len(b.f.content)) }
func (b *fakeBlob) Upstream() string { return b.f.host }
func (b *fakeBlob) Reject() bool     { return false }
func (b *fakeBlob) Close() error     { return nil }

// A chain needs no client: any registry with a health will do, and two of them
// deliver one blob between them.
func TestChainOfOtherMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := bytes.Repeat([]byte("content "), 50_000)
		dgst := digest.FromBytes(content)
		flaky, sound := &fake{host: "flaky", content: content, cut: 100_000}, &fake{host: "sound", content: content}
		chain := upstream.NewChain(upstream.ChainOptions{}, flaky, sound)
		b := must[oci.Blob](t)(chain.Blob(t.Context(), "repo", dgst, 0, -1))
		if _, err := io.CopyN(io.Discard, b, 50_000); err != nil || b.Upstream() != "flaky" {
			t.Fatalf("from %s: %v", b.Upstream(), err)
		}
		flaky.err = flaky.unavailable(errors.New("gone"))
		if n, err := io.Copy(io.Discard, b); n != int64(len(content))-50_000 || err != nil || b.Upstream() != "sound" {
			t.Errorf("%d bytes, in the end from %s: %v", n, b.Upstream(), err)
		}
		if b.Reject() {
			t.Error("a member is left that was not rejected")
		}
		if len(flaky.rejected) != 1 || len(sound.rejected) != 1 || flaky.alone || sound.alone {
			t.Errorf("rejected %v and %v, alone %v and %v", flaky.rejected, sound.rejected, flaky.alone, sound.alone)
		}
	})
}

// The health of the members decides their order.
func TestChainAsksByHealth(t *testing.T) {
	ask := func(t *testing.T, members ...*fake) error {
		t.Helper()
		var all []upstream.Member
		for _, m := range members {
			all = append(all, m)
		}
		_, err := upstream.NewChain(upstream.ChainOptions{}, all...).StatBlob(t.Context(), "repo", digest.FromString("a"))
		return err
	}
	t.Run("half-open last, and probed", func(t *testing.T) {
		first, second := &fake{host: "first", halfOpen: true}, &fake{host: "second"}
		if err := ask(t, first, second); err != nil || first.asked != 0 || first.probes != 1 || first.urgent || second.asked != 1 {
			t.Errorf("asked %d and %d times, probed %d times: %v", first.asked, second.asked, first.probes, err)
		}
	})
	t.Run("an error of no class ends the question", func(t *testing.T) {
		first, second := &fake{host: "first", err: context.Canceled}, &fake{host: "second"}
		if err := ask(t, first, second); !errors.Is(err, context.Canceled) || second.asked != 0 {
			t.Errorf("the second was asked %d times: %v", second.asked, err)
		}
	})
	t.Run("the most hopeful failure", func(t *testing.T) {
		first := &fake{host: "first", err: &upstream.Error{Host: "first", Class: upstream.ClassRateLimited}}
		second := &fake{host: "second", err: &upstream.Error{Host: "second", Class: upstream.ClassNotFound}}
		if err := ask(t, first, second); !errors.Is(err, upstream.ErrRateLimited) || !strings.Contains(err.Error(), "second") {
			t.Errorf("the error is %v", err)
		}
	})
}
